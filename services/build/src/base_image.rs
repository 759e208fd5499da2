//! The base image that an operator may configure: one in the embedded registry or in a remote one, whose Python and
//! platform are those that agents are built for.

use crate::{
    base_libc,
    image::{ExistingImage, UnusableImage},
    log::BuildLog,
    platform::{ImageIndex, Platform},
    python::{Interpreter, Libc, Target},
    registry::{BlobStore, MANIFEST_TYPES, Reference, RepoName, store::find_manifest},
    remote_registry::{RemoteRegistries, is_away},
    store::Store,
};
use bytes::Bytes;
use hoistway_model::{
    Code, Digest, Error, Result,
    image::{label, names_host},
};
use oci_client::Reference as RemoteReference;
use std::{
    io::{ErrorKind, Read},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The time for which what a remote tag named is not asked for again.
const ASKED_RECENTLY: Duration = Duration::from_secs(60);
/// The largest configuration of a base that is read, in bytes: those of real images have a few kilobytes.
const MAX_CONFIG: u64 = 4 << 20;
/// Looks the configured base up anew for every build, because its tag may move; each image is read once.
#[derive(Debug)]
pub struct BaseImage {
    text: String,
    place: Place,
    /// The platform to build for; nothing is that of the base, and of an index the host's.
    platform: Option<Platform>,
    remotes: Arc<RemoteRegistries>,
    known: Mutex<Option<(FoundBase, Instant)>>,
    reading: tokio::sync::Mutex<()>,
    copying: tokio::sync::Mutex<()>,
}

/// The registry that has the base.
#[derive(Debug)]
enum Place {
    /// The embedded one.
    Embedded(RepoName, Reference),
    /// Another one.
    Remote(RemoteReference),
}

/// A base as it is now.
#[derive(Debug, Clone)]
pub struct FoundBase {
    /// The digest of its manifest; of an index, that of the image for the platform.
    pub digest: Digest,
    /// Its manifest and configuration.
    pub image: Arc<ExistingImage>,
    /// Its Python and platform.
    pub target: Target,
    /// Its name by digest, where a remote registry has its layers.
    pub remote: Option<RemoteReference>,
}

impl BaseImage {
    /// Reads `REPOSITORY:TAG` or `REPOSITORY@DIGEST`, of the embedded registry, or the same behind the `HOST/` of a
    /// remote one. As for Docker, a host has a dot or a port in it, or is `localhost`. With the platform to build for.
    pub fn parse(text: &str, platform: Option<&str>, remotes: Arc<RemoteRegistries>) -> Result<Self> {
        let wrong = || {
            let text =
                format!("base_image: \"{text}\" is neither [HOST/]REPOSITORY:TAG nor [HOST/]REPOSITORY@sha256:DIGEST");
            Error::new(Code::InvalidArgument, text)
        };
        let (repo, reference) = text.split_once('@').or_else(|| text.rsplit_once(':')).ok_or_else(wrong)?;
        let is_remote = repo.split_once('/').is_some_and(|(first, _)| names_host(first));
        let place = match is_remote {
            true => Place::Remote(text.parse().map_err(|_| wrong())?),
            false => Place::Embedded(
                RepoName::from_str(repo).map_err(|_| wrong())?,
                Reference::from_str(reference).map_err(|_| wrong())?,
            ),
        };
        Ok(Self {
            text: text.to_owned(),
            place,
            platform: platform.map(str::parse).transpose()?,
            remotes,
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            copying: tokio::sync::Mutex::default(),
        })
    }

    /// Where it is in the embedded registry, if it is there.
    pub fn embedded_place(&self) -> Option<(RepoName, Reference)> {
        match &self.place {
            Place::Embedded(repo, reference) => Some((repo.clone(), reference.clone())),
            Place::Remote(_) => None,
        }
    }

    /// The host of the registry that has it, unless that is the embedded one, and its repository.
    pub fn repository(&self) -> (Option<String>, String) {
        match &self.place {
            Place::Embedded(repo, _) => (None, repo.to_string()),
            Place::Remote(image) => (Some(image.registry().to_owned()), image.repository().to_owned()),
        }
    }

    /// The base as it is now. One of a remote registry is asked for at most once a minute, and as it was last while that
    /// registry does not answer.
    pub async fn find(&self, store: &Store, blobs: &BlobStore, host: &Interpreter) -> Result<FoundBase> {
        let known = self.known().clone();
        if let (Place::Remote(image), Some((base, asked))) = (&self.place, &known)
            && (image.digest().is_some() || asked.elapsed() < ASKED_RECENTLY)
        {
            return Ok(base.clone());
        }
        let (digest, manifest) = match (self.manifest(store, host).await, known.clone()) {
            (Ok(found), _) => found,
            (Err(e), Some((base, _))) if is_away(&e) => {
                tracing::warn!(
                    cause = e.chain(),
                    "builds go on with the base image {} that was there last: {e}",
                    base.digest
                );
                *self.known() = Some((base.clone(), Instant::now()));
                return Ok(base);
            }
            (Err(e), _) => return Err(e),
        };
        // One deploy reads it, and others find what it has read.
        let _alone = self.reading.lock().await;
        let known = self.known().clone();
        let base = match known {
            Some((base, _)) if base.digest == digest => base,
            _ => self.read(digest, &manifest, blobs, host).await?,
        };
        *self.known() = Some((base.clone(), Instant::now()));
        Ok(base)
    }

    /// The manifest that the base's name means now; of an index, the one of the image for the platform to build for.
    async fn manifest(&self, store: &Store, host: &Interpreter) -> Result<(Digest, Bytes)> {
        let (named, bytes) = self.document(store, None).await?;
        let Some(index) = ImageIndex::parse(&bytes) else { return Ok((named, bytes)) };
        let own = Platform::new(&host.os, &host.architecture);
        let wanted = self.platform.as_ref().unwrap_or(&own);
        let Some(digest) = index.image_for(wanted) else {
            let there = index.platforms();
            let there = if there.is_empty() { "none that is named".to_owned() } else { there.join(", ") };
            let why = format!("it has no image for {wanted}; the platforms of its images are: {there}");
            return Err(self.unfit(why));
        };
        self.document(store, Some(digest)).await
    }

    /// The manifest or index that the base's name means now, or another one of its repository.
    async fn document(&self, store: &Store, other: Option<Digest>) -> Result<(Digest, Bytes)> {
        match &self.place {
            Place::Remote(image) => {
                let other = other.map(|digest| image.clone_with_digest(digest.to_string()));
                self.remotes.manifest(other.as_ref().unwrap_or(image), &MANIFEST_TYPES).await
            }
            Place::Embedded(repo, reference) => {
                let other = other.map(Reference::Digest);
                let found = find_manifest(store.db().read(), repo, other.as_ref().unwrap_or(reference)).await?;
                let missing = || {
                    let text = format!("the base image \"{}\" is not in the registry: push it there first", self.text);
                    Error::new(Code::BuildFailed, text)
                };
                found.map(|manifest| (manifest.digest, manifest.bytes)).ok_or_else(missing)
            }
        }
    }

    /// Reads the configuration that a manifest names.
    async fn read(&self, digest: Digest, manifest: &[u8], blobs: &BlobStore, host: &Interpreter) -> Result<FoundBase> {
        let config = ExistingImage::config_digest(manifest).map_err(|why| self.unusable(why))?;
        let remote = match &self.place {
            Place::Remote(image) => Some(image.clone_with_digest(digest.to_string())),
            Place::Embedded(..) => None,
        };
        let config = match &remote {
            Some(image) => self.remotes.blob(image, config, MAX_CONFIG).await?,
            None => {
                tokio::fs::read(blobs.path(&config)).await.map_err(|e| Error::internal("reading the base image", e))?
            }
        };
        let image = ExistingImage::parse(manifest, &config).map_err(|why| self.unusable(why))?;
        // Packages for another C library would fail when they are imported, so it is not assumed.
        let target = self.target(&image, self.libc(&image, remote.as_ref(), blobs).await?, host)?;
        Ok(FoundBase { digest, image: Arc::new(image), target, remote })
    }

    /// The C library of the lowest layer that has one.
    async fn libc(
        &self,
        image: &ExistingImage,
        remote: Option<&RemoteReference>,
        blobs: &BlobStore,
    ) -> Result<Option<Libc>> {
        let architecture = image.platform().architecture;
        let failed = |e: std::io::Error| {
            let text = format!("a layer of the base image \"{}\" cannot be read", self.text);
            Error::new(Code::BuildFailed, text).with_source(e)
        };
        for (digest, _) in image.layers() {
            let layer: Box<dyn Read + Send> = match (blobs.read(&digest)?, remote) {
                (Some((blob, _)), _) => Box::new(blob),
                (None, Some(remote)) => Box::new(self.remotes.open_blob(remote, digest).await?),
                (None, None) => continue,
            };
            let architecture = architecture.clone();
            let search = move || base_libc::find(layer, &architecture);
            match tokio::task::spawn_blocking(search).await.map_err(|e| failed(e.into()))? {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                // Compressed in another way, or no archive at all.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::Other | ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof
                    ) =>
                {
                    tracing::info!(layer = %digest, "a layer of the base image cannot be searched: {e}");
                }
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(None)
    }

    /// Has the layers of a remote base in the embedded registry, as they are.
    pub async fn copy_layers(&self, base: &FoundBase, blobs: &BlobStore, log: &BuildLog) -> Result<()> {
        let Some(image) = &base.remote else { return Ok(()) };
        // One build copies, and others find what it has copied.
        let _alone = self.copying.lock().await;
        for (digest, size) in base.image.layers() {
            let (store, looked_up) = (blobs.clone(), digest);
            let is_here = tokio::task::spawn_blocking(move || store.contains(&looked_up));
            if !is_here.await.map_err(|e| Error::internal("looking for a layer of the base image", e))? {
                log.write_line(format!("copying the layer {digest} of {}, {size} bytes", self.text));
                self.remotes.copy_blob(image, digest, size, blobs).await?;
            }
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Option<(FoundBase, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unusable(&self, why: UnusableImage) -> Error {
        let text = format!("the base image \"{}\" cannot be used: {why}", self.text);
        Error::new(Code::UnsupportedImage, text).with_source(why)
    }

    /// The Python and the platform that the image's configuration names.
    fn target(&self, image: &ExistingImage, libc: Option<Libc>, host: &Interpreter) -> Result<Target> {
        let platform = image.platform();
        if let Some(wanted) = self.platform.as_ref().filter(|wanted| !platform.suits(wanted)) {
            return Err(self.unfit(format!("it is for {platform}, and the setting platform is {wanted}")));
        }
        let version = image.env("PYTHON_VERSION").filter(|exact| {
            // The label has no patch version, and wins where it says otherwise.
            let minor = image.label(label::PYTHON);
            minor.is_none_or(|minor| *exact == minor || exact.strip_prefix(minor).is_some_and(|p| p.starts_with('.')))
        });
        let version = version.or_else(|| image.label(label::PYTHON)).ok_or_else(|| {
            self.unfit(format!(
                "neither its label {} nor its variable PYTHON_VERSION says which Python it has",
                label::PYTHON
            ))
        })?;
        Target::of_base(host, version, &platform, libc).map_err(|why| self.unfit(why))
    }

    fn unfit(&self, why: String) -> Error {
        Error::new(Code::UnsupportedImage, format!("the base image \"{}\" cannot be used: {why}", self.text))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_kit::registry_logins::RegistryLogins;

    #[test]
    fn a_base_with_a_host_is_in_a_remote_registry() {
        let remotes = Arc::new(RemoteRegistries::new(RegistryLogins::new(None), Vec::new()));
        let parse = |text: &str| BaseImage::parse(text, None, remotes.clone());
        let digest = Digest::of(b"base");
        for embedded in ["python:3.12", "team/python:3.12", &format!("python@{digest}")] {
            assert!(parse(embedded).unwrap().embedded_place().is_some(), "{embedded}");
        }
        for remote in [
            "docker.io/library/python:3.12",
            "localhost/python:3",
            "127.0.0.1:5000/python:3",
            &format!("r.example/a@{digest}"),
        ] {
            assert!(parse(remote).unwrap().embedded_place().is_none(), "{remote}");
        }
        for wrong in
            ["python", "registry.example/python", "127.0.0.1:5000/python", "registry.example/Python:3", "python:"]
        {
            let refused = parse(wrong).unwrap_err().message;
            assert!(refused.contains("neither [HOST/]REPOSITORY:TAG nor"), "{wrong}: {refused}");
        }
    }
}
