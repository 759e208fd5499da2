//! Bodies of models that are held in memory: read up to a bound, and counted against one for all of them.

use crate::{Egress, forward::refusal::Refusal};
use bytes::{Bytes, BytesMut};
use hoistway_kit::{
    body_charge::{BodyCharge, STEP},
    quota::{QuotaGrant, SharedQuota},
};
use hoistway_model::Name;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of all bodies, beyond the first [`STEP`] of each, that may be in memory at a time, and of those of one agent.
const BODIES: usize = 96 << 20;
const OWN_BODIES: usize = 64 << 20;
/// Bytes that all translations of large bodies may take at a time: their parsed form, and what is made of it.
pub(crate) const WORK: usize = 96 << 20;
/// The time that a body waits for memory that others hold.
const QUEUE: Duration = Duration::from_secs(60);
/// The time that a body that holds memory may take for its next [`STEP`] bytes.
const PACE: Duration = Duration::from_secs(15);
/// Larger bodies are parsed off the async runtime.
const PARSED_INLINE: usize = 256 << 10;
/// The most that an object, a list, and one more element of either take once they are parsed, in bytes.
const OBJECT: usize = 640;
const LIST: usize = 128;
const ELEMENT: usize = 160;
/// The part of a refused body that is read, and the time for it: clients that cannot send the whole of it do not look
/// at the answer.
const DRAINED: u64 = 64 << 20;
const DRAINING: Duration = Duration::from_secs(5);

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread {
    TooLarge,
    NoMemory,
    Late,
    Broken(hyper::Error),
}

/// The memory for large bodies.
pub(crate) fn bodies() -> Arc<SharedQuota> {
    SharedQuota::new(BODIES, OWN_BODIES)
}

/// Reads a body of an agent's call, and what it holds of [`BODIES`]. Of one that is refused it is not the rest that is
/// left unread.
pub(super) async fn collect(
    egress: &Egress,
    agent: &Name,
    mut body: Incoming,
    limit: u64,
    expects_continue: bool,
) -> Result<(Bytes, QuotaGrant), Unread> {
    let mut has_begun = !expects_continue;
    let outcome = read(egress, agent, &mut body, limit, &mut has_begun).await;
    // A client that waits for "100 Continue" has sent nothing yet, and does not get it.
    if has_begun && matches!(outcome, Err(Unread::TooLarge | Unread::NoMemory)) {
        let mut left = DRAINED;
        let drained = async {
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(rest) = left.checked_sub(length) else { return };
                left = rest;
            }
        };
        let _ = timeout(DRAINING, drained).await;
    }
    outcome
}

/// An announced length takes no memory, and keeps nobody from having it.
async fn read(
    egress: &Egress,
    agent: &Name,
    body: &mut Incoming,
    limit: u64,
    has_begun: &mut bool,
) -> Result<(Bytes, QuotaGrant), Unread> {
    let announced = body.size_hint().lower();
    if announced > limit {
        return Err(Unread::TooLarge);
    }
    let idle = Duration::from_millis(egress.config.limits.idle_ms);
    let mut charge = BodyCharge::new(egress.model_bodies.share(&agent.as_str().into()), Some(announced));
    // Memory that is only reserved is nobody's before it is written to.
    let mut read = BytesMut::with_capacity(usize::try_from(announced).unwrap_or_default());
    let mut due = Instant::now() + idle;
    *has_begun = true;
    loop {
        let frame = match timeout_at(due, body.frame()).await {
            Ok(None) => return Ok((read.freeze(), charge.into_grant())),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => return Err(Unread::Broken(e)),
            Err(_) => return Err(Unread::Late),
        };
        let Ok(data) = frame.into_data() else { continue };
        let size = read.len() + data.len();
        if size as u64 > limit {
            return Err(Unread::TooLarge);
        }
        if charge.grow_to(size, QUEUE).await.map_err(|_| Unread::NoMemory)? {
            due = Instant::now() + PACE.min(idle);
        } else if charge.is_free() {
            due = Instant::now() + idle;
        }
        read.extend_from_slice(&data);
    }
}

/// Translates a body, when there is room for what that takes. Whoever has to wait for it is next.
pub(super) async fn translate<T: Send + 'static>(
    egress: &Egress,
    body: Bytes,
    translation: impl FnOnce(Bytes) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let length = body.len();
    if length <= STEP {
        return Ok(translation(body));
    }
    let counted = body.clone();
    let needed = read_off_runtime(length, move || work(&counted)).await?;
    if needed > WORK {
        return Err(Refusal::bad_request("the body has too many members and elements to be translated").permanent());
    }
    let work = egress.model_work.acquire_many(u32::try_from(needed).unwrap_or(u32::MAX)).await;
    let _work = work.map_err(|_| Refusal::overloaded("egress is ending"))?;
    read_off_runtime(length, move || translation(body)).await
}

/// The most memory that a JSON document takes while it is translated, beside itself: its texts twice, and its
/// structure.
fn work(body: &[u8]) -> usize {
    let (mut structure, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' => structure += OBJECT,
            b'[' => structure += LIST,
            b',' => structure += ELEMENT,
            _ => {}
        }
    }
    structure.saturating_add(body.len() * 2)
}

/// Parses a body of this many bytes: a large one off the async runtime.
pub(super) async fn read_off_runtime<T: Send + 'static>(
    length: usize,
    parse: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if length <= PARSED_INLINE {
        return Ok(parse());
    }
    tokio::task::spawn_blocking(parse).await.map_err(|e| {
        tracing::error!("parsing a body of a model failed: {e}");
        Refusal::overloaded("the request could not be read now")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translation_memory_is_estimated_from_json_structure() {
        assert_eq!(work(br#"{"a\"{":["{,[",1]}"#), 2 * 18 + OBJECT + LIST + ELEMENT);
        assert_eq!(work(br#""\\",{"#), 2 * 6 + ELEMENT + OBJECT);
        assert!(work("[{}],".repeat(1 << 20).as_bytes()) > WORK, "5 MiB that become much more");
    }
}
