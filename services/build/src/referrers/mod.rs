//! Documents about an image that the registry lists as its referrers: an SBOM and the provenance of its build. The SBOM
//! depends on agent, interpreter and packages alone, so that a redeploy of other source finds it stored already.

mod package;
mod provenance;
mod sbom;

pub use package::Package;

use crate::{
    image::{Image, media_type},
    layer::Layer,
    registry::Manifest,
};
use hoistway_model::{BuildAttemptId, Digest, Error, Name, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

/// The media type of an SBOM, and its artifact type.
pub const SBOM: &str = "application/vnd.cyclonedx+json";
/// The media type of a statement, and its artifact type.
pub const STATEMENT: &str = "application/vnd.in-toto+json";
/// The annotation by which clients tell statements apart before they fetch them.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// The configuration of an artifact that needs none.
pub const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The name that clients give to the file.
const TITLE: &str = "org.opencontainers.image.title";

/// The version of the program that builds.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The characters of a package URL's parts that stay as they are.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~').remove(b':');

/// The parts of an image but for the agent's source.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The agent, which is also the repository's name.
    pub agent: Name,
    /// The version of the interpreter, as exact as it is known.
    pub python: String,
    /// The base image.
    pub base: Option<Base>,
    /// The layer of the runner.
    pub runner: Digest,
    /// The installed packages.
    pub packages: Vec<Package>,
}

/// A base image.
#[derive(Debug, Clone)]
pub struct Base {
    /// The host of its registry, unless that is the embedded one.
    pub registry: Option<String>,
    /// Its repository.
    pub repository: String,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// The build of an image.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The attempt.
    pub attempt: BuildAttemptId,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// `os/architecture`.
    pub platform: String,
    /// The entry file.
    pub entry_point: String,
    /// The text of the requirements that were given; without it the imports decided.
    pub requirements: Option<String>,
    /// The versions of Python that the source asks for.
    pub requires_python: Option<String>,
    /// Whether packages were resolved anew.
    pub refresh: bool,
}

/// A document and the manifest that attaches it to an image.
#[derive(Debug, Clone)]
pub struct Referrer {
    /// The manifest.
    pub manifest: Manifest,
    /// The blob that it needs besides [`EMPTY`].
    pub document: Vec<u8>,
}

/// Writes the documents about an image whose source is this layer, and which is finished `now` (milliseconds since the
/// epoch).
pub fn write(
    contents: &Contents,
    invocation: &Invocation,
    image: &Image,
    source: &Layer,
    now: i64,
) -> Result<[Referrer; 2]> {
    let sbom = sbom::write(contents)?;
    let statement = provenance::write(contents, invocation, image.digest, source, now)?;
    let predicate = json!({ PREDICATE_TYPE: provenance::PREDICATE_TYPE });
    Ok([
        referrer(SBOM, "sbom.cdx.json", sbom, &json!({}), image)?,
        referrer(STATEMENT, "provenance.intoto.json", statement, &predicate, image)?,
    ])
}

/// A manifest of the image specification 1.1 with a subject.
fn referrer(
    kind: &str,
    file: &str,
    document: Vec<u8>,
    annotations: &serde_json::Value,
    image: &Image,
) -> Result<Referrer> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::MANIFEST,
        "artifactType": kind,
        // Its content, so that nobody has to fetch it.
        "config": { "mediaType": EMPTY_TYPE, "digest": Digest::of(EMPTY), "size": EMPTY.len(), "data": "e30=" },
        "layers": [{
            "mediaType": kind,
            "digest": Digest::of(&document),
            "size": document.len(),
            "annotations": { TITLE: file },
        }],
        "subject": { "mediaType": media_type::MANIFEST, "digest": image.digest, "size": image.manifest.len() },
        "annotations": annotations,
    });
    let manifest = Manifest::parse(Some(media_type::MANIFEST), bytes(&manifest)?.into());
    let manifest = manifest.map_err(|e| Error::internal("writing a referrer's manifest", e))?;
    Ok(Referrer { manifest, document })
}

fn bytes(document: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| Error::internal("writing a document about an image", e))
}

/// A package URL of something that has no namespace.
fn package_url(kind: &str, name: &str, version: &str) -> String {
    let encoded = |text| utf8_percent_encode(text, PLAIN);
    format!("pkg:{kind}/{}@{}", encoded(name), encoded(version))
}

impl Base {
    /// The last part of the repository's name, by which package URLs name images.
    fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }

    /// Registry and repository.
    fn full_name(&self) -> String {
        let registry = self.registry.as_ref().map(|host| format!("{host}/")).unwrap_or_default();
        format!("{registry}{}", self.repository)
    }

    fn package_url(&self) -> String {
        let url = package_url("oci", self.name(), &self.digest.to_string());
        match self.registry {
            Some(_) => format!("{url}?repository_url={}", self.full_name()),
            None => url,
        }
    }
}

#[cfg(test)]
mod build_tests;
#[cfg(test)]
mod tests;
