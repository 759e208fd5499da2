//! Manifests and indexes of images, in the forms of OCI and of Docker.

use super::http::Trouble;
use hoistway_model::Digest;
use serde::Deserialize;

/// The media types that are requested of a registry.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The limit of common registries and runtimes.
const MAX_LAYERS: usize = 127;

/// A layer of an image, as its manifest and configuration describe it.
#[derive(Debug)]
pub(in crate::images) struct Layer {
    pub digest: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
    pub(super) gzip: bool,
}

/// The manifest of an image for this machine.
#[derive(Debug)]
pub(in crate::images) struct Manifest {
    pub(super) config: Digest,
    layers: Vec<Descriptor>,
}

impl Manifest {
    /// The layers, lowest first; nothing if they are of a kind that our build service does not write.
    pub fn layers(&self, diff_ids: &[Digest]) -> Option<Vec<Layer>> {
        if self.layers.len() != diff_ids.len() || diff_ids.len() > MAX_LAYERS {
            return None;
        }
        let layer = |(layer, diff_id): (&Descriptor, &Digest)| {
            let gzip = match layer.media_type.as_str() {
                "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                    true
                }
                "application/vnd.oci.image.layer.v1.tar" => false,
                _ => return None,
            };
            Some(Layer { digest: layer.digest, size: layer.size, diff_id: *diff_id, gzip })
        };
        self.layers.iter().zip(diff_ids).map(layer).collect()
    }
}

/// The manifest under a tag or a digest.
#[derive(Debug)]
pub(super) enum Found {
    Manifest(Manifest),
    /// The digest of the manifest for this machine, if there is one.
    Index(Option<Digest>),
}

impl Found {
    /// Reads a manifest or an index.
    pub fn parse(bytes: &[u8]) -> Result<Self, Trouble> {
        let silent = |why: String| Trouble::Silent(format!("what it sent is no manifest: {why}"));
        let document: Document = serde_json::from_slice(bytes).map_err(|e| silent(e.to_string()))?;
        // A document that is both is read as one by some and as the other by others.
        match (document.config, document.layers, document.manifests) {
            _ if document.schema_version != 2 => Err(silent("its schema is not version 2".to_owned())),
            (Some(config), Some(layers), None) => Ok(Self::Manifest(Manifest { config: config.digest, layers })),
            (None, None, Some(entries)) => {
                let ours = entries.into_iter().find(|entry| entry.platform.as_ref().is_some_and(Platform::is_ours));
                Ok(Self::Index(ours.map(|entry| entry.digest)))
            }
            _ => Err(silent("it is neither of an image nor an index".to_owned())),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
struct Entry {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl Platform {
    fn is_ours(&self) -> bool {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os == std::env::consts::OS && self.architecture == architecture
    }
}
