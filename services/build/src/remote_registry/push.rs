//! Pushing a built image to the registry that the installation's images are pulled from.

use super::{RemoteRegistries, failed, is_missing, is_transient};
use crate::{
    log::BuildLog,
    registry::{BlobStore, Manifest},
};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use hoistway_kit::backoff::Backoff;
use hoistway_model::{Digest, Error, Result};
use http::HeaderValue;
use oci_client::{
    Client, Reference, client::LayerDescriptor, errors::OciDistributionError as E, secrets::RegistryAuth,
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio_util::io::ReaderStream;

/// Blobs that are pushed at the same time.
const AT_ONCE: usize = 4;
/// Tries for each blob and manifest.
const TRIES: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));

/// The registry that the installation's images are pushed to, and the part of it that is the installation's.
#[derive(Debug, Clone)]
pub struct ImageRegistry {
    host: String,
    /// In front of each repository, without a slash at its end; may be empty.
    prefix: String,
    remotes: Arc<RemoteRegistries>,
}

/// What is pushed.
pub struct Push<'a> {
    /// The repository, without the registry's prefix.
    pub repository: &'a str,
    /// The tag, which is never moved.
    pub tag: &'a str,
    /// The image.
    pub manifest: &'a Manifest,
    /// Where the blobs are that Hoistway wrote.
    pub blobs: &'a BlobStore,
    /// The image whose layers are below, where it is a remote one.
    pub base: Option<&'a Reference>,
}

impl ImageRegistry {
    /// Reads `HOST[:PORT][/PREFIX]`.
    pub fn parse(text: &str, remotes: Arc<RemoteRegistries>) -> Result<Self> {
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let registry = Self { host: host.to_owned(), prefix: prefix.trim_end_matches('/').to_owned(), remotes };
        let is_host = host == "localhost" || host.contains(['.', ':']);
        if !is_host || registry.reference("agent", ":tag").is_err() {
            let text = format!("\"{text}\" is not HOST[:PORT][/PREFIX], such as registry.example.com/agents");
            return Err(Error::field("image_registry", text));
        }
        Ok(registry)
    }

    /// The name of an image there; `selector` is `:TAG` or `@DIGEST`.
    fn reference(&self, repository: &str, selector: &str) -> Result<Reference> {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let text = format!("{}/{prefix}{repository}{selector}", self.host);
        text.parse().map_err(|e| Error::internal("naming an image", format!("{text}: {e}")))
    }

    /// Pushes an image: the blobs that are not there, and then its manifest. A base's layers are mounted where its
    /// registry is the same, and streamed from one to the other where it is not.
    pub async fn push(&self, push: Push<'_>, log: &BuildLog) -> Result<()> {
        let image = self.reference(push.repository, &format!(":{}", push.tag))?;
        let client = self.remotes.client(&image).await?;
        let pushing =
            push.manifest.blobs().iter().map(|digest| self.push_blob(&client, &image, &push, *digest).boxed());
        let pushing: Vec<_> = pushing.collect();
        let pushed: Vec<Option<u64>> = stream::iter(pushing).buffer_unordered(AT_ONCE).try_collect().await?;
        let doing = format!("pushing {image}");
        let media_type = HeaderValue::from_static(push.manifest.media_type());
        retry(|| client.push_manifest_raw(&image, push.manifest.bytes().clone(), media_type.clone()))
            .await
            .map_err(|e| failed(&image, &doing, e))?;
        let new: Vec<u64> = pushed.into_iter().flatten().collect();
        log.write_line(format!(
            "pushed {image}: {} of its blobs were new, {} bytes",
            new.len(),
            new.iter().sum::<u64>()
        ));
        Ok(())
    }

    /// Whether the image is there.
    pub async fn has(&self, repository: &str, digest: Digest) -> Result<bool> {
        let image = self.reference(repository, &format!("@{digest}"))?;
        let client = self.remotes.client(&image).await?;
        match client.fetch_manifest_digest(&image, &RegistryAuth::Anonymous).await {
            Ok(_) => Ok(true),
            Err(e) if is_missing(&e) => Ok(false),
            Err(e) => Err(failed(&image, &format!("asking for {image}"), e)),
        }
    }

    /// Has a blob there; its size if it was not there.
    async fn push_blob(
        &self,
        client: &Client,
        image: &Reference,
        push: &Push<'_>,
        digest: Digest,
    ) -> Result<Option<u64>> {
        let doing = format!("pushing {digest} of {image}");
        let text = digest.to_string();
        let refused = |e| failed(image, &doing, e);
        if retry(|| client.blob_exists(image, &text)).await.map_err(refused)? {
            return Ok(None);
        }
        let size = push.manifest.size_of(&digest).unwrap_or_default();
        let here = push.blobs.path(&digest);
        if tokio::fs::try_exists(&here).await.map_err(|e| Error::internal("reading a layer", e))? {
            let from_disk = || async {
                let file = tokio::fs::File::open(&here).await?;
                let bytes = ReaderStream::new(file).map(|chunk| chunk.map_err(E::IoError));
                client.push_blob_stream(image, bytes, &text, Some(size)).await
            };
            retry(from_disk).await.map_err(refused)?;
            return Ok(Some(size));
        }
        let Some(base) = push.base else {
            return Err(Error::internal("pushing an image", format!("the blob {digest} is not here")));
        };
        if base.registry() == image.registry() && client.mount_blob(image, base, &text).await.is_ok() {
            return Ok(Some(0));
        }
        let source = self.remotes.client(base).await?;
        let between = || async {
            let layer = LayerDescriptor { digest: &text, urls: &None };
            let bytes = source.pull_blob_stream(base, &layer).await?;
            let bytes = bytes.map(|chunk| chunk.map_err(E::IoError));
            client.push_blob_stream(image, bytes, &text, Some(size)).await
        };
        retry(between).await.map_err(refused)?;
        Ok(Some(size))
    }
}

/// Tries again what may succeed then.
async fn retry<T, F>(attempt: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = BACKOFF;
    for _ in 1..TRIES {
        match attempt().await {
            Err(e) if is_transient(&e) => tracing::debug!("a registry failed, it is asked again: {e}"),
            outcome => return outcome,
        }
        tokio::time::sleep(backoff.jittered_pause()).await;
    }
    attempt().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_kit::registry_logins::RegistryLogins;

    #[test]
    fn a_registry_to_push_to_is_a_host_with_or_without_a_prefix() {
        let remotes = Arc::new(RemoteRegistries::new(RegistryLogins::new(None), Vec::new()));
        let parse = |text: &str| ImageRegistry::parse(text, remotes.clone());
        let place = |text: &str| parse(text).unwrap().reference("team/agent", ":1").unwrap().whole();
        assert_eq!(place("registry.example.com"), "registry.example.com/team/agent:1");
        assert_eq!(place("127.0.0.1:5000/a/b/"), "127.0.0.1:5000/a/b/team/agent:1");
        for wrong in ["", "agents", "registry/agents", "https://registry.example.com", "registry.example.com/A"] {
            let refused = parse(wrong).unwrap_err();
            assert!(refused.message.contains("HOST[:PORT][/PREFIX]"), "{wrong}: {refused}");
        }
    }
}
