//! The base image that an operator may configure: one in the embedded registry whose Python is the one that
//! dependencies are installed for.

use crate::{
    image::{ExistingImage, UnusableImage},
    python::Interpreter,
    registry::{BlobStore, Reference, RepoName, store::find_manifest},
    store::Store,
};
use hoistway_model::{Code, Digest, Error, Result, image::label};
use std::{
    str::FromStr,
    sync::{Arc, Mutex},
};

/// Looks the configured base up anew for every build, because its tag may move; each image is read once.
#[derive(Debug)]
pub struct BaseImage {
    text: String,
    repo: RepoName,
    reference: Reference,
    read: Mutex<Option<(Digest, Arc<ExistingImage>)>>,
}

impl BaseImage {
    /// Reads `REPOSITORY:TAG` or `REPOSITORY@DIGEST`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            let text = format!("base_image: \"{text}\" is neither REPOSITORY:TAG nor REPOSITORY@sha256:DIGEST");
            Error::new(Code::InvalidArgument, text)
        };
        let (repo, reference) = text.split_once('@').or_else(|| text.rsplit_once(':')).ok_or_else(wrong)?;
        let repo = RepoName::from_str(repo).map_err(|_| wrong())?;
        let reference = Reference::from_str(reference).map_err(|_| wrong())?;
        Ok(Self { text: text.to_owned(), repo, reference, read: Mutex::new(None) })
    }

    /// Where it is in the registry.
    pub fn place(&self) -> (RepoName, Reference) {
        (self.repo.clone(), self.reference.clone())
    }

    /// The base as it is now, with its manifest's digest.
    pub async fn find(
        &self,
        store: &Store,
        blobs: &BlobStore,
        python: &Interpreter,
    ) -> Result<(Digest, Arc<ExistingImage>)> {
        let found = find_manifest(store.db().read(), &self.repo, &self.reference).await?;
        let manifest = found.ok_or_else(|| {
            Error::new(
                Code::BuildFailed,
                format!("the base image \"{}\" is not in the registry: push it there first", self.text),
            )
        })?;
        let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if read.as_ref().is_none_or(|(digest, _)| *digest != manifest.digest) {
            let blobs = blobs.clone();
            let bytes = manifest.bytes.clone();
            let base = tokio::task::spawn_blocking(move || read_base(&blobs, &bytes))
                .await
                .map_err(|e| Error::internal("reading the base image", e))??;
            self.check(&base, python)?;
            read = Some((manifest.digest, Arc::new(base)));
            *self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = read.clone();
        }
        read.ok_or_else(|| Error::internal("reading the base image", "it is gone"))
    }

    /// Dependencies are installed by the host's interpreter, so the base's must be of the same version and platform.
    fn check(&self, base: &ExistingImage, python: &Interpreter) -> Result<()> {
        let unfit = |why: String| {
            Error::new(Code::UnsupportedImage, format!("the base image \"{}\" cannot be used: {why}", self.text))
        };
        if base.platform() != python.platform() {
            return Err(unfit(format!("it is for {}, this machine is {}", base.platform(), python.platform())));
        }
        let version = base.label(label::PYTHON).or_else(|| base.env("PYTHON_VERSION")).ok_or_else(|| {
            unfit(format!(
                "neither its label {} nor its variable PYTHON_VERSION says which Python it has",
                label::PYTHON
            ))
        })?;
        let mut parts = version.split('.');
        let minor = format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if minor != python.python() {
            return Err(unfit(format!("it has Python {minor}, packages are installed for {}", python.python())));
        }
        Ok(())
    }
}

fn read_base(blobs: &BlobStore, manifest: &[u8]) -> Result<ExistingImage> {
    let unusable = |why: UnusableImage| {
        Error::new(Code::UnsupportedImage, format!("the base image cannot be used: {why}")).with_source(why)
    };
    let digest = ExistingImage::config_digest(manifest).map_err(unusable)?;
    let config = std::fs::read(blobs.path(&digest)).map_err(|e| Error::internal("reading the base image", e))?;
    ExistingImage::parse(manifest, &config).map_err(unusable)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::Space;

    #[test]
    fn an_index_as_base_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path(), Space::keep_free(0)).unwrap();
        let refused = read_base(&blobs, br#"{"manifests":[]}"#).unwrap_err();
        assert_eq!(refused.code, Code::UnsupportedImage);
        assert_eq!(refused.message, "the base image cannot be used: its manifest is not that of one image");
    }
}
