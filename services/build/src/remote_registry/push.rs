//! Pushing a built image to the registry that the installation's images are pulled from.

use super::{ANSWER_LIMIT, Access, Clients, RemoteRegistries, failed, is_away, is_missing, silent, within};
use crate::{
    log::BuildLog,
    registry::{BlobStore, Manifest},
};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use hoistway_kit::{backoff::Backoff, image_registry::ImageRegistry};
use hoistway_model::{Digest, Error, Result};
use http::HeaderValue;
use oci_client::{Client, Reference, errors::OciDistributionError as E, secrets::RegistryAuth};
use std::{io, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
use tokio_util::io::ReaderStream;

/// Blobs that are pushed at the same time.
const AT_ONCE: usize = 4;
/// Tries for each blob and manifest.
const TRIES: u32 = 3;
/// The time for which a registry may take nothing of a blob, or not answer once it has all of it.
const STALL_LIMIT: Duration = Duration::from_secs(120);
/// The bytes of a blob that are read from the disk at a time.
const CHUNK: usize = 256 << 10;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));

/// Pushes to the registry that the installation's images are pulled from.
#[derive(Debug, Clone)]
pub struct ImagePusher {
    registry: ImageRegistry,
    remotes: Arc<RemoteRegistries>,
}

/// What is pushed.
pub struct Push<'a> {
    /// The repository, without the registry's prefix.
    pub repository: &'a str,
    /// The tag, which is never moved, or the manifest's digest.
    pub tag: &'a str,
    /// The image.
    pub manifest: &'a Manifest,
    /// Where the blobs are that Hoistway wrote.
    pub blobs: &'a BlobStore,
    /// The image whose layers are below, where it is a remote one.
    pub base: Option<&'a Reference>,
}

impl ImagePusher {
    /// To `registry`, as one of `remotes`.
    pub fn new(registry: ImageRegistry, remotes: Arc<RemoteRegistries>) -> Self {
        Self { registry, remotes }
    }

    /// The name of a manifest there by its tag, or by its digest in the place of one.
    pub(super) fn tagged(&self, repository: &str, tag: &str) -> Reference {
        Reference::with_tag(self.registry.host().to_owned(), self.registry.path(repository), tag.to_owned())
    }

    /// The name of an image there by its digest.
    pub(super) fn digested(&self, repository: &str, digest: Digest) -> Reference {
        Reference::with_digest(self.registry.host().to_owned(), self.registry.path(repository), digest.to_string())
    }

    /// Pushes an image: the blobs that are not there, and then its manifest. A base's layers are mounted where its
    /// registry is the same, and streamed from one to the other where it is not.
    pub async fn push(&self, push: Push<'_>, log: &BuildLog) -> Result<()> {
        let new = self.push_manifest(&push).await?;
        let place = self.registry.repository(push.repository);
        let (count, bytes) = (new.len(), new.iter().sum::<u64>());
        log.write_line(format!("pushed {place}:{}: {count} of its blobs were new, {bytes} bytes", push.tag));
        Ok(())
    }

    /// Pushes a manifest and the blobs that it needs; the sizes of those that were not there.
    pub(super) async fn push_manifest(&self, push: &Push<'_>) -> Result<Vec<u64>> {
        let image = self.tagged(push.repository, push.tag);
        let pushing = push.manifest.blobs().iter().map(|digest| self.push_blob(&image, push, *digest).boxed());
        let pushing: Vec<_> = pushing.collect();
        let pushed: Vec<Option<u64>> = stream::iter(pushing).buffer_unordered(AT_ONCE).try_collect().await?;
        let media_type = HeaderValue::from_static(push.manifest.media_type());
        retry(|| async {
            let clients = self.pushing(&image, push).await?;
            let pushed = clients.ask.push_manifest_raw(&image, push.manifest.bytes().clone(), media_type.clone()).await;
            pushed.map_err(|e| failed(&image, &format!("pushing {image}"), e))
        })
        .await?;
        Ok(pushed.into_iter().flatten().collect())
    }

    /// A client that reads an image's repository and writes to it next.
    pub(super) async fn client(&self, image: &Reference) -> Result<Client> {
        Ok(self.remotes.clients_of(image, Access::Push { mounting: None }).await?.ask)
    }

    /// The clients that push next. A push takes longer than a token may last, so each step of it asks for them.
    async fn pushing(&self, image: &Reference, push: &Push<'_>) -> Result<Clients> {
        let mounting = push.base.filter(|base| base.registry() == image.registry());
        self.remotes.clients_of(image, Access::Push { mounting }).await
    }

    /// Whether the image is there.
    pub async fn has(&self, repository: &str, digest: Digest) -> Result<bool> {
        let image = self.digested(repository, digest);
        let client = self.remotes.clients_of(&image, Access::Pull).await?.ask;
        let doing = format!("asking for {image}");
        match within(ANSWER_LIMIT, client.fetch_manifest_digest(&image, &RegistryAuth::Anonymous)).await {
            Ok(_) => Ok(true),
            Err(e) if is_missing(&e) => Ok(false),
            Err(e) => Err(failed(&image, &doing, e)),
        }
    }

    /// Has a blob there; its size if it was not there.
    async fn push_blob(&self, image: &Reference, push: &Push<'_>, digest: Digest) -> Result<Option<u64>> {
        let text = digest.to_string();
        let refused = |e| failed(image, &format!("pushing {digest} of {image}"), e);
        let is_there =
            || async { self.pushing(image, push).await?.ask.blob_exists(image, &text).await.map_err(refused) };
        if retry(is_there).await? {
            return Ok(None);
        }
        let size = push.manifest.size_of(&digest).unwrap_or_default();
        let (blobs, wanted) = (push.blobs.clone(), digest);
        // One that is here stays while the build runs.
        let here = tokio::task::spawn_blocking(move || blobs.contains(&wanted).then(|| blobs.path(&wanted)));
        if let Some(here) = here.await.map_err(|e| Error::internal("reading a layer", e))? {
            retry(|| async {
                let file = tokio::fs::File::open(&here).await.map_err(|e| refused(E::IoError(e)))?;
                let bytes = ReaderStream::with_capacity(file, CHUNK);
                self.pushing(image, push).await?.upload(image, bytes, &text, size).await.map_err(refused)
            })
            .await?;
            return Ok(Some(size));
        }
        let Some(base) = push.base else {
            return Err(Error::internal("pushing an image", format!("the blob {digest} is not here")));
        };
        if base.registry() == image.registry() {
            let client = self.pushing(image, push).await?.ask;
            if client.mount_blob(image, base, &text).await.is_ok() {
                return Ok(Some(0));
            }
        }
        retry(|| async {
            let bytes = self.remotes.read(base, digest).await?;
            self.pushing(image, push).await?.upload(image, bytes, &text, size).await.map_err(refused)
        })
        .await?;
        Ok(Some(size))
    }
}

impl Clients {
    /// Sends a blob in one request. It ends once the registry has taken nothing for [`STALL_LIMIT`].
    async fn upload(
        &self,
        image: &Reference,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        digest: &str,
        size: u64,
    ) -> Result<String, E> {
        let (taken, mut progress) = watch::channel(());
        let bytes = bytes.map(move |chunk| {
            taken.send_replace(());
            chunk.map_err(E::IoError)
        });
        let stalled = async {
            loop {
                match timeout(STALL_LIMIT, progress.changed()).await {
                    Ok(Ok(())) => {}
                    // Behind the last chunk comes the answer.
                    Ok(Err(_)) => break tokio::time::sleep(STALL_LIMIT).await,
                    Err(_) => break,
                }
            }
        };
        tokio::select! {
            pushed = self.upload.push_blob_stream(image, bytes, digest, Some(size)) => pushed,
            () = stalled => Err(silent(STALL_LIMIT)),
        }
    }
}

/// Tries again what may succeed then.
async fn retry<T, F>(attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut backoff = BACKOFF;
    for _ in 1..TRIES {
        match attempt().await {
            Err(e) if is_away(&e) => tracing::debug!("a registry failed, it is asked again: {e}"),
            outcome => return outcome,
        }
        tokio::time::sleep(backoff.jittered_pause()).await;
    }
    attempt().await
}
