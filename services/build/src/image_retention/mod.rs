//! Which images are kept. An image that a build made stays for as long as an agent's revision names it or somebody has
//! tagged it besides; without either it goes once it has not been used for the registry's grace time, and its build's
//! record with it. Images that somebody pushed stay while they have a tag or an agent uses them.

use crate::{
    registry::{
        BlobStore, Reference, RegistryConfig,
        store::{Base, Retention, pin_images, replace_pins},
        sweep,
    },
    store::Store,
};
use hoistway_kit::{db::db_error, prune::ago};
use hoistway_model::{Error, Result, build::Collected, image::StoredImage};
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DOING: &str = "noting which images are in use";

/// The images of one installation. Clones share it.
#[derive(Clone)]
pub struct ImageRetention(Arc<Inner>);

struct Inner {
    store: Store,
    blobs: BlobStore,
    grace: Duration,
    untagged: Duration,
    base: Option<StoredImage>,
    /// One collection at a time is enough.
    collecting: Mutex<()>,
}

impl ImageRetention {
    /// The images of a registry; `base` is what builds begin with.
    pub fn new(store: Store, blobs: BlobStore, config: &RegistryConfig, base: &Base) -> Self {
        // A base that is named by its tag has one, and so is kept.
        let base = base.as_ref().and_then(|(repo, reference)| match reference {
            Reference::Digest(digest) => Some(StoredImage { repository: repo.to_string(), digest: *digest }),
            Reference::Tag(_) => None,
        });
        let (grace, untagged) = (config.grace(), DAY * config.untagged_days);
        Self(Arc::new(Inner { store, blobs, grace, untagged, base, collecting: Mutex::default() }))
    }

    /// Refuses to go on when the disk is nearly full.
    pub async fn check_space(&self) -> Result<()> {
        let blobs = self.0.blobs.clone();
        let check = tokio::task::spawn_blocking(move || blobs.check_space());
        check.await.map_err(|e| Error::internal("asking for free disk space", e))?
    }

    /// Keeps images because an agent is going to use them.
    pub async fn keep(&self, images: Vec<StoredImage>) -> Result<()> {
        let txn = self.0.store.db().begin().await?;
        pin_images(&txn, &images).await?;
        txn.commit().await.map_err(db_error(DOING))
    }

    /// Removes the images that nobody uses, `in_use` being all that agents name, and then what
    /// [`ImageRetention::sweep`] does.
    pub async fn collect(&self, in_use: Vec<StoredImage>) -> Result<Collected> {
        let inner = self.0.clone();
        // On its own: a caller that goes away does not cut it off.
        let collecting = tokio::spawn(async move {
            let _alone = inner.collecting.lock().await;
            inner.collect(&in_use).await
        });
        collecting.await.map_err(|e| Error::internal("collecting garbage", e))?
    }

    /// Removes blobs that no image needs and nobody has used for the grace time.
    pub async fn sweep(&self) -> Result<Collected> {
        let _alone = self.0.collecting.lock().await;
        self.0.sweep().await
    }
}

impl Inner {
    async fn collect(&self, in_use: &[StoredImage]) -> Result<Collected> {
        let retention =
            Retention { built_before: ago(self.grace), untagged_before: ago(self.untagged.max(self.grace)) };
        let txn = self.store.db().begin().await?;
        replace_pins(&txn, in_use, retention.built_before).await?;
        txn.commit().await.map_err(db_error(DOING))?;
        let mut images = 0;
        loop {
            let gone = self.store.collect(retention, self.base.as_ref()).await?;
            for image in &gone {
                tracing::debug!("removed the image {image}, which nobody uses");
            }
            images += gone.len() as u64;
            // Behind an index that is gone come the images that it listed.
            if gone.is_empty() {
                break;
            }
        }
        self.store.forget_locks(retention.built_before).await?;
        Ok(Collected { images, ..self.sweep().await? })
    }

    async fn sweep(&self) -> Result<Collected> {
        let swept = sweep(self.store.db(), &self.blobs, self.grace).await?;
        self.store.forget_layers(&swept.blobs).await?;
        self.store.forget_unmade(ago(self.grace)).await?;
        let blobs = swept.blobs.len() as u64;
        if blobs > 0 {
            tracing::info!("removed {blobs} blobs that no image needs, {} bytes", swept.bytes);
        }
        Ok(Collected { images: 0, blobs, bytes: swept.bytes })
    }
}

#[cfg(test)]
mod tests;
