//! Removing blobs that nothing needs. It may be cut off anywhere and run beside every push and build:
//!
//! - What came to be used after the sweep began, or is held by a lease, is not touched: its modification time says so.
//! - A link is removed by one statement that also sees that no manifest needs it, and a manifest is stored in a
//!   transaction that sees its links. Whichever comes second finds what the first one did.
//! - A blob is removed after its last link, so a crash in between leaves a blob too many and never one too few.

use super::{
    blobs::BlobStore,
    store::{BATCH, has_dead_links, linked, remove_links},
};
use hoistway_kit::db::Db;
use hoistway_model::{Digest, Error, Result};
use std::time::{Duration, UNIX_EPOCH};

/// The blobs that a sweep removed.
#[derive(Debug, Default)]
pub struct Swept {
    /// The blobs.
    pub blobs: Vec<Digest>,
    /// Their sizes together.
    pub bytes: u64,
}

/// Removes every link that no manifest needs and every blob without a link that nobody has used for `grace`.
pub async fn sweep(db: &Db, blobs: &BlobStore, grace: Duration) -> Result<Swept> {
    let before = blobs.unused_before(grace);
    let since_epoch = before.duration_since(UNIX_EPOCH).unwrap_or_default();
    let before_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    while has_dead_links(db.read(), before_ms).await? && remove_links(db, before_ms).await? >= BATCH {}
    let store = blobs.clone();
    let stale = blocking(move || store.stale(before)).await?;
    let mut swept = Swept::default();
    for batch in stale.chunks(BATCH) {
        let used = linked(db.read(), batch).await?;
        let unused: Vec<Digest> = batch.iter().filter(|digest| !used.contains(*digest)).copied().collect();
        let store = blobs.clone();
        let removed = blocking(move || {
            let mut removed = Swept::default();
            for digest in unused {
                if let Some(size) = store.remove_stale(&digest, before)? {
                    removed.blobs.push(digest);
                    removed.bytes += size;
                }
            }
            Ok(removed)
        });
        let Swept { blobs, bytes } = removed.await?;
        swept.blobs.extend(blobs);
        swept.bytes += bytes;
    }
    Ok(swept)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("removing blobs", e))?
}
