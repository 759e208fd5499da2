//! Reading a blob of a remote registry from a thread that may block.

use super::RemoteRegistries;
use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream::BoxStream};
use hoistway_model::{Digest, Result};
use oci_client::Reference;
use std::{
    io::{self, ErrorKind, Read},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

/// The time that one blob may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The bytes of a blob as they come. Dropped before its end, it asks for no more.
pub struct BlobReader {
    runtime: Handle,
    stream: BoxStream<'static, io::Result<Bytes>>,
    chunk: Bytes,
    /// When it ends whether or not there is more.
    due: Instant,
}

impl RemoteRegistries {
    /// Begins to read a blob of `image`. Who does not read to the end does not learn whether it has the digest.
    pub async fn open_blob(&self, image: &Reference, digest: Digest) -> Result<BlobReader> {
        let stream = self.read(image, digest).await?;
        Ok(BlobReader { runtime: Handle::current(), stream, chunk: Bytes::new(), due: Instant::now() + LIMIT })
    }
}

impl Read for BlobReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let next = self.runtime.block_on(async { timeout_at(self.due, self.stream.next()).await });
            match next.map_err(|_| io::Error::from(ErrorKind::TimedOut))? {
                Some(Ok(chunk)) => self.chunk = chunk,
                // Readers of archives use other kinds for what is wrong with an archive.
                Some(Err(e)) => return Err(io::Error::new(ErrorKind::ConnectionAborted, e)),
                None => return Ok(0),
            }
        }
        let length = self.chunk.len().min(into.len());
        self.chunk.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}
