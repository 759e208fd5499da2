//! The disk that packages may take while they are installed: a small wheel can unpack to any size.

use crate::registry::BlobStore;
use hoistway_model::{Code, Error, Result, unpacked_layers::UnpackedLayers};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::task::spawn_blocking;

/// The interval at which the free space is checked: nothing tells when it goes.
const EVERY: Duration = Duration::from_millis(500);

/// The disk space that one build's packages may take.
#[derive(Debug, Clone)]
pub struct DiskQuota {
    blobs: BlobStore,
    /// Where layers are unpacked as well, which may be another disk.
    unpacked: Arc<OnceLock<Arc<dyn UnpackedLayers>>>,
    /// Unpacked bytes of all of them.
    most: u64,
}

impl DiskQuota {
    /// So many unpacked bytes, and no more than leaves the disks the space that is to be kept free.
    pub fn new(blobs: BlobStore, unpacked: Arc<OnceLock<Arc<dyn UnpackedLayers>>>, most: u64) -> Self {
        Self { blobs, unpacked, most }
    }

    /// Refuses to go on when a disk is nearly full. Blocks.
    fn check_space(&self) -> Result<()> {
        self.blobs.check_space()?;
        let Some(unpacked) = self.unpacked.get() else { return Ok(()) };
        let free = unpacked.free_bytes().map_err(|e| Error::internal("asking for the agents' free disk space", e))?;
        self.blobs.check_free("the agents' disk", free, "agents")
    }

    /// Refuses packages that are larger together than is allowed.
    pub fn allows(&self, bytes: u64) -> Result<()> {
        if bytes <= self.most {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let text = format!(
            "the requirements cannot be installed: they take {} MiB and more unpacked, and {} MiB is the limit (setting \
             max_unpacked_bytes of the build service)",
            mib(bytes),
            mib(self.most)
        );
        Err(Error::new(Code::RequirementFailed, text))
    }

    /// Ends, with what is to be said, when the disk is nearly full.
    pub async fn runs_out(&self) -> Error {
        loop {
            let quota = self.clone();
            match spawn_blocking(move || quota.check_space()).await {
                Ok(Err(full)) => return full,
                Ok(Ok(())) | Err(_) => tokio::time::sleep(EVERY).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::Space;
    use hoistway_model::unpacked_layers::UnpackingLayer;
    use std::io;

    /// A directory on a disk with so many free bytes.
    #[derive(Debug)]
    struct Disk(u64);

    impl UnpackedLayers for Disk {
        fn begin(&self) -> io::Result<Box<dyn UnpackingLayer>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn free_bytes(&self) -> io::Result<u64> {
            Ok(self.0)
        }
    }

    #[tokio::test]
    async fn the_disk_of_the_agents_counts_too() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space { keep_free: 3 << 20, free: |_| Ok(3 << 20) };
        let quota = DiskQuota::new(BlobStore::open(dir.path(), space).unwrap(), Arc::default(), 1);
        quota.check_space().unwrap();
        quota.unpacked.set(Arc::new(Disk(2 << 20))).unwrap();
        let e = quota.runs_out().await;
        assert_eq!(e.code, Code::InsufficientStorage);
        assert!(e.message.starts_with("the agents' disk is nearly full: 2 MiB are free and 3 MiB are to be"), "{e}");
    }
}
