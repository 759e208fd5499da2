//! The disk that packages may take while they are installed: a small wheel can unpack to any size.

use crate::registry::BlobStore;
use hoistway_model::{Code, Error, Result};
use std::time::Duration;
use tokio::task::spawn_blocking;

/// The interval at which the free space is checked: nothing tells when it goes.
const EVERY: Duration = Duration::from_millis(500);

/// The disk space that one build's packages may take.
#[derive(Debug, Clone)]
pub struct DiskQuota {
    blobs: BlobStore,
    /// Unpacked bytes of all of them.
    most: u64,
}

impl DiskQuota {
    /// So many unpacked bytes, and no more than leaves the disk the space that is to be kept free.
    pub fn new(blobs: BlobStore, most: u64) -> Self {
        Self { blobs, most }
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
            let blobs = self.blobs.clone();
            match spawn_blocking(move || blobs.check_space()).await {
                Ok(Err(full)) => return full,
                Ok(Ok(())) | Err(_) => tokio::time::sleep(EVERY).await,
            }
        }
    }
}
