//! Bodies of models that are held in memory: read up to a bound, and counted against one for all of them.

use crate::{Egress, refuse::Refusal};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::{sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Bytes of all large bodies that may be in memory at a time.
pub(crate) const MEMORY: usize = 512 << 20;
/// Larger bodies count against [`MEMORY`].
const SMALL: usize = 64 << 10;
/// Larger bodies are parsed off the async runtime.
const PARSED_INLINE: usize = 256 << 10;

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread {
    TooLarge,
    NoMemory,
    Late,
    Broken(hyper::Error),
}

/// Reads a body, and what it holds of [`MEMORY`].
pub(super) async fn collect(
    egress: &Egress,
    mut body: Incoming,
    limit: u64,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Unread> {
    if body.size_hint().lower() > limit {
        return Err(Unread::TooLarge);
    }
    let idle = Duration::from_millis(egress.config.limits.idle_ms);
    let (mut read, mut memory): (_, Option<OwnedSemaphorePermit>) = (BytesMut::new(), None);
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
        read.extend_from_slice(&data);
        let held = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = read.len().saturating_sub(SMALL).saturating_sub(held);
        if needed > 0 {
            let needed = u32::try_from(needed).unwrap_or(u32::MAX);
            let free = Arc::clone(&egress.model_memory);
            let more = free.try_acquire_many_owned(needed).map_err(|_| Unread::NoMemory)?;
            match &mut memory {
                Some(memory) => memory.merge(more),
                None => memory = Some(more),
            }
        }
    }
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
