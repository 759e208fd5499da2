//! Copying blobs of a remote registry into the embedded one, as they are.

use super::{RemoteRegistries, failed, reading_of};
use crate::registry::{BlobStore, StagedBlob, storing};
use bytes::Bytes;
use futures_util::StreamExt;
use hoistway_model::{Code, Digest, Error, Result};
use oci_client::{Reference, errors::OciDistributionError};
use std::io::{self, Write};
use tokio::sync::mpsc;

/// Chunks of a blob that wait to be written.
const CHUNKS: usize = 16;

impl RemoteRegistries {
    /// The bytes of a small blob of `image`, of which there are at most `limit`.
    pub async fn blob(&self, image: &Reference, digest: Digest, limit: u64) -> Result<Vec<u8>> {
        let mut stream = self.read(image, digest).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| broken(image, digest, e))?);
            if bytes.len() as u64 > limit {
                let text = format!("{digest} of {image} has more than the {limit} bytes that are read");
                return Err(Error::new(Code::BuildFailed, text));
            }
        }
        match Digest::of(&bytes) {
            came if came == digest => Ok(bytes),
            came => Err(other_bytes(image, digest, came)),
        }
    }

    /// Has a blob of `image` in the embedded registry. It is stored once all of it has come and has the digest.
    pub async fn copy_blob(&self, image: &Reference, digest: Digest, size: u64, into: &BlobStore) -> Result<()> {
        let mut stream = self.read(image, digest).await?;
        let (chunks, written) = write(into.clone());
        let mut came = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| broken(image, digest, e))?;
            came += chunk.len() as u64;
            if came > size {
                break;
            }
            // A writer that is gone has its reason, which comes below.
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
        drop(chunks);
        let staged = written.await.map_err(|e| Error::internal("writing a layer of the base image", e))??;
        if staged.digest() != digest {
            return Err(other_bytes(image, digest, staged.digest()));
        }
        let into = into.clone();
        let storing = tokio::task::spawn_blocking(move || {
            let mut batch = into.batch();
            batch.add(staged);
            batch.commit()
        });
        storing.await.map_err(|e| Error::internal("storing a layer of the base image", e))?
    }
}

fn broken(image: &Reference, digest: Digest, e: io::Error) -> Error {
    failed(image, &reading_of(image, digest), OciDistributionError::IoError(e))
}

fn other_bytes(image: &Reference, wanted: Digest, came: Digest) -> Error {
    let text = format!("the registry {} sent {came} instead of {wanted}", image.registry());
    Error::new(Code::BuildFailed, text)
}

/// Writes what is sent; without a sender any more, the blob is whole.
fn write(into: BlobStore) -> (mpsc::Sender<Bytes>, tokio::task::JoinHandle<Result<StagedBlob>>) {
    let (chunks, mut queue) = mpsc::channel::<Bytes>(CHUNKS);
    let written = tokio::task::spawn_blocking(move || {
        into.check_space()?;
        let mut writer = into.writer()?;
        while let Some(chunk) = queue.blocking_recv() {
            writer.write_all(&chunk).map_err(storing)?;
        }
        Ok(writer.finish())
    });
    (chunks, written)
}
