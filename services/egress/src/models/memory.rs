//! Bodies of models that are held in memory: read up to a bound, and counted against one for all of them.

use crate::{Egress, refuse::Refusal};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::{sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Bytes of all large bodies that may be in memory at a time.
pub(crate) const BODIES: usize = 384 << 20;
/// Bytes that all translations of large bodies may take at a time: their parsed form, and what is made of it.
pub(crate) const WORK: usize = 128 << 20;
/// Larger bodies count against [`BODIES`].
const SMALL: usize = 64 << 10;
/// Larger bodies are parsed off the async runtime.
const PARSED_INLINE: usize = 256 << 10;
/// What an object, a list, and one more element of either take at most once they are parsed, in bytes.
const OBJECT: usize = 640;
const LIST: usize = 128;
const ELEMENT: usize = 160;
/// How much of a body that is refused is read, and for how long: clients that cannot send the whole of it do not look at
/// the answer.
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

/// Reads a body, and what it holds of [`BODIES`]. Of one that is refused it is not the rest that is left unread.
pub(super) async fn collect(
    egress: &Egress,
    mut body: Incoming,
    limit: u64,
    expects_continue: bool,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Unread> {
    let mut has_begun = !expects_continue;
    let outcome = read(egress, &mut body, limit, &mut has_begun).await;
    // Who waits for the word to go on has sent nothing yet, and is not told to.
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

async fn read(
    egress: &Egress,
    body: &mut Incoming,
    limit: u64,
    has_begun: &mut bool,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Unread> {
    let announced = body.size_hint().lower();
    if announced > limit {
        return Err(Unread::TooLarge);
    }
    let idle = Duration::from_millis(egress.config.limits.idle_ms);
    let mut memory: Option<OwnedSemaphorePermit> = None;
    let mut read = BytesMut::new();
    hold(egress, usize::try_from(announced).unwrap_or(usize::MAX), &mut memory)?;
    read.reserve(usize::try_from(announced).unwrap_or_default());
    *has_begun = true;
    loop {
        let frame = match timeout(idle, body.frame()).await {
            Ok(None) => return Ok((read.freeze(), memory)),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => return Err(Unread::Broken(e)),
            Err(_) => return Err(Unread::Late),
        };
        let Ok(data) = frame.into_data() else { continue };
        if (read.len() + data.len()) as u64 > limit {
            return Err(Unread::TooLarge);
        }
        if read.capacity() < read.len() + data.len() {
            // It grows as it does by itself, once there is room.
            hold(egress, (read.capacity() * 2).max(read.len() + data.len()), &mut memory)?;
        }
        read.extend_from_slice(&data);
    }
}

/// Holds as much of [`BODIES`] as a body of this many bytes needs.
fn hold(egress: &Egress, bytes: usize, memory: &mut Option<OwnedSemaphorePermit>) -> Result<(), Unread> {
    let held = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let needed = bytes.saturating_sub(SMALL).saturating_sub(held);
    if needed == 0 {
        return Ok(());
    }
    let (free, needed) = (Arc::clone(&egress.model_bodies), u32::try_from(needed).unwrap_or(u32::MAX));
    let more = free.try_acquire_many_owned(needed).map_err(|_| Unread::NoMemory)?;
    match memory {
        Some(memory) => memory.merge(more),
        None => *memory = Some(more),
    }
    Ok(())
}

/// Translates a body, when there is room for what that takes. Whoever has to wait for it is next.
pub(super) async fn translate<T: Send + 'static>(
    egress: &Egress,
    body: Bytes,
    translation: impl FnOnce(Bytes) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let length = body.len();
    if length <= SMALL {
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

/// The most memory that a JSON document takes while it is translated, beside itself: its texts twice, and its structure.
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
    fn what_a_translation_takes_depends_on_the_structure_outside_of_texts() {
        assert_eq!(work(br#"{"a\"{":["{,[",1]}"#), 2 * 18 + OBJECT + LIST + ELEMENT);
        assert_eq!(work(br#""\\",{"#), 2 * 6 + ELEMENT + OBJECT);
        assert!(work("[{}],".repeat(1 << 20).as_bytes()) > WORK, "5 MiB that become much more");
    }
}
