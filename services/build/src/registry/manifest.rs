//! Reading a manifest: what kind it is and which blobs and manifests it needs. Its bytes are kept as they came, since
//! the digest is of the bytes.

use bytes::Bytes;
use hoistway_model::{Code, Digest, Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The largest manifest that is taken, in bytes: what the specification asks every registry to take.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// More references than any image has; it bounds the database query that looks for them.
const MAX_REFERENCES: usize = 4096;

/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The media types of the manifests that are known: of images and of indexes.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// A manifest that was read and found well-formed.
#[derive(Debug, Clone)]
pub struct Manifest {
    digest: Digest,
    media_type: &'static str,
    bytes: Bytes,
    blobs: Vec<Digest>,
    manifests: Vec<Digest>,
    /// The sizes of both, as it states them.
    sizes: BTreeMap<Digest, u64>,
    subject: Option<Digest>,
    artifact_type: Option<String>,
}

impl Manifest {
    /// Reads `bytes`. `content_type` is what the client said they are; it must agree with what they say themselves.
    pub fn parse(content_type: Option<&str>, bytes: Bytes) -> Result<Self> {
        let document: Document = serde_json::from_slice(&bytes).map_err(|e| invalid(format!("not a manifest: {e}")))?;
        if document.schema_version != 2 {
            return Err(invalid(format!("schemaVersion {} is not supported, 2 is", document.schema_version)));
        }
        let said = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let media_type = match (said, document.media_type.as_deref()) {
            (Some(said), Some(own)) if said != own => {
                return Err(invalid(format!("Content-Type is {said}, the manifest's mediaType is {own}")));
            }
            (Some(text), _) | (None, Some(text)) => known(text)?,
            (None, None) => return Err(invalid("neither Content-Type nor mediaType is given")),
        };
        let subject = document.subject.as_ref().map(|subject| subject.digest.parse()).transpose()?;
        let said_type = document.artifact_type.clone().filter(|kind| !kind.is_empty());
        let mut sizes = BTreeMap::new();
        let (blobs, manifests, artifact_type) = match (media_type, document) {
            (
                OCI_MANIFEST | DOCKER_MANIFEST,
                Document { config: Some(config), layers: Some(layers), manifests: None, .. },
            ) => {
                let stored = layers.iter().filter(|layer| !layer.is_foreign());
                let blobs = digests(std::iter::once(&config).chain(stored), &mut sizes)?;
                (blobs, Vec::new(), said_type.or(Some(config.media_type)))
            }
            (OCI_INDEX | DOCKER_LIST, Document { config: None, layers: None, manifests: Some(entries), .. }) => {
                // An index may list plain blobs too; build caches do.
                let (manifests, blobs): (Vec<_>, Vec<_>) =
                    entries.iter().partition(|entry| known(&entry.media_type).is_ok());
                (digests(blobs.into_iter(), &mut sizes)?, digests(manifests.into_iter(), &mut sizes)?, said_type)
            }
            // Both shapes in one document would mean one thing to one client and another to the next.
            _ => return Err(invalid(format!("the members are not those of {media_type}"))),
        };
        if blobs.len() + manifests.len() > MAX_REFERENCES {
            return Err(invalid(format!("more than {MAX_REFERENCES} references")));
        }
        Ok(Self { digest: Digest::of(&bytes), media_type, bytes, blobs, manifests, sizes, subject, artifact_type })
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its media type.
    pub fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// Its bytes, as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The blobs it needs, each once: its config and its layers, without those that live elsewhere.
    pub fn blobs(&self) -> &[Digest] {
        &self.blobs
    }

    /// The manifests it lists, each once.
    pub fn manifests(&self) -> &[Digest] {
        &self.manifests
    }

    /// The size that it states for one of its blobs or manifests.
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.sizes.get(digest).copied()
    }

    /// The manifest that it says something about, which need not be there.
    pub fn subject(&self) -> Option<&Digest> {
        self.subject.as_ref()
    }

    /// Its artifact type: the one that it states, else the type of its configuration.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
}

impl Descriptor {
    /// A layer that its owner serves from elsewhere and no registry has to hold.
    fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
            && (self.media_type.contains(".rootfs.foreign.") || self.media_type.contains(".layer.nondistributable."))
    }
}

fn known(text: &str) -> Result<&'static str> {
    MANIFEST_TYPES
        .into_iter()
        .find(|known| *known == text)
        .ok_or_else(|| invalid(format!("media type \"{}\" is not supported", text.escape_debug())))
}

/// The digests, each once; their sizes go into `sizes`, where nothing can have two.
fn digests<'a>(
    descriptors: impl Iterator<Item = &'a Descriptor>,
    sizes: &mut BTreeMap<Digest, u64>,
) -> Result<Vec<Digest>> {
    let mut out = Vec::new();
    for descriptor in descriptors {
        let digest: Digest = descriptor.digest.parse()?;
        if *sizes.entry(digest).or_insert(descriptor.size) != descriptor.size {
            return Err(invalid(format!("{digest} is given two sizes")));
        }
        out.push(digest);
    }
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn parse(content_type: Option<&str>, document: &Value) -> Result<Manifest> {
        Manifest::parse(content_type, document.to_string().into())
    }

    #[test]
    fn an_image_needs_its_config_and_its_stored_layers() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let layer = |digest: &Digest| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1});
        let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": Digest::of(b"c"), "size": 1, "urls": ["https://elsewhere.example/"]});
        let m = json!({"schemaVersion": 2, "config": layer(&a), "layers": [layer(&b), layer(&b), foreign]});
        let m = parse(Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"), &m).unwrap();
        assert_eq!((m.blobs().len(), m.manifests().len(), m.media_type()), (2, 0, OCI_MANIFEST));
        let entry = json!({"mediaType": OCI_MANIFEST, "digest": a, "size": 1});
        let m = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry, layer(&b)]});
        let m = parse(None, &m).unwrap();
        assert_eq!((m.manifests(), m.blobs()), (&[a][..], &[b][..]), "build caches list plain blobs");
    }

    #[test]
    fn ambiguous_manifests_are_refused() {
        let d = json!({"mediaType": "x", "digest": Digest::of(b"a"), "size": 1});
        for (content_type, document) in [
            (None, json!({"schemaVersion": 2, "config": d, "layers": []})),
            (Some("text/plain"), json!({"schemaVersion": 2, "config": d, "layers": []})),
            (Some(OCI_INDEX), json!({"schemaVersion": 2, "config": d, "layers": []})),
            (Some(OCI_MANIFEST), json!({"schemaVersion": 1, "config": d, "layers": []})),
            (Some(OCI_MANIFEST), json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "config": d, "layers": []})),
            (Some(OCI_MANIFEST), json!({"schemaVersion": 2, "config": d, "layers": [], "manifests": [d]})),
            (
                Some(OCI_MANIFEST),
                json!({"schemaVersion": 2, "config": {"mediaType": "x", "digest": "md5:0", "size": 1}, "layers": []}),
            ),
            (
                Some(OCI_MANIFEST),
                json!({"schemaVersion": 2, "config": d, "layers": [{"mediaType": "x", "digest": Digest::of(b"a"), "size": 2}]}),
            ),
            (Some(OCI_MANIFEST), json!([])),
        ] {
            assert!(parse(content_type, &document).is_err(), "{content_type:?} {document}");
        }
        let twice = r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
        assert!(Manifest::parse(Some(OCI_INDEX), twice.into()).is_err());
    }
}
