//! Operating system and processor of an image, and the choice among the images of an index.

use hoistway_confine::python::oci_architecture;
use hoistway_model::{Code, Digest, Error, Result};
use serde::Deserialize;
use std::{fmt, str::FromStr};

/// The platform of an image in the terms of the OCI specification.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// The generation of the processor that is needed: `v8` of `arm64`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// A platform without a variant.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether agents can be built for it.
    pub fn is_supported(&self) -> bool {
        self.os == "linux" && oci_architecture(&self.architecture) == Some(&self.architecture)
    }

    /// Whether it is the same but for a variant that only one of them names.
    pub fn suits(&self, other: &Self) -> bool {
        let variants = [&self.variant, &other.variant].map(|variant| variant.as_deref());
        let same = matches!(variants, [None, _] | [_, None]) || variants[0] == variants[1];
        self.os == other.os && self.architecture == other.architecture && same
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT` of a supported platform.
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (os, architecture, variant) = (next(), next(), Some(next()).filter(|variant| !variant.is_empty()));
        let platform = Self { os, architecture, variant };
        if platform.is_supported() && platform.to_string() == text {
            return Ok(platform);
        }
        let text = format!("platform: \"{text}\" is not supported; linux/amd64 and linux/arm64 are");
        Err(Error::new(Code::InvalidArgument, text))
    }
}

/// The images that an index lists, by platform.
#[derive(Debug, Deserialize)]
pub struct ImageIndex {
    manifests: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    digest: Digest,
    #[serde(default)]
    platform: Option<Platform>,
}

impl ImageIndex {
    /// Reads the document of an index or a manifest list; nothing for that of one image.
    pub fn parse(manifest: &[u8]) -> Option<Self> {
        serde_json::from_slice(manifest).ok()
    }

    /// The image for a platform. Of several that differ in their variants, it is the one that every processor of the
    /// platform runs.
    pub fn image_for(&self, wanted: &Platform) -> Option<Digest> {
        let exact = |variant: &Option<String>| *variant == wanted.variant;
        let usual = |variant: &Option<String>| matches!(variant.as_deref(), None | Some("v1" | "v8"));
        let mut suitable: Vec<(&Platform, Digest)> = self.images().filter(|(own, _)| own.suits(wanted)).collect();
        suitable.sort_by_key(|(own, _)| (!exact(&own.variant), !usual(&own.variant)));
        suitable.first().map(|(_, digest)| *digest)
    }

    /// The platforms that it has, in its order.
    pub fn platforms(&self) -> Vec<String> {
        self.images().map(|(platform, _)| platform.to_string()).collect()
    }

    /// Attestations are listed as images of an unknown platform.
    fn images(&self) -> impl Iterator<Item = (&Platform, Digest)> {
        let known = self.manifests.iter().filter_map(|entry| Some((entry.platform.as_ref()?, entry.digest)));
        known.filter(|(platform, _)| platform.os != "unknown")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn only_supported_platforms_are_read() {
        for text in ["linux/amd64", "linux/arm64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for bad in ["", "linux", "linux/x86_64", "linux/arm/v7", "windows/amd64", "linux/arm64/", "linux/arm64/v8/x"] {
            let e = bad.parse::<Platform>().expect_err(bad);
            assert_eq!(e.message, format!("platform: \"{bad}\" is not supported; linux/amd64 and linux/arm64 are"));
        }
    }

    #[test]
    fn an_image_of_an_index_is_chosen_by_its_platform() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let entry = |name: &str, os: &str, architecture: &str, variant: Option<&str>| {
            let mut platform = json!({"os": os, "architecture": architecture});
            if let Some(variant) = variant {
                platform["variant"] = json!(variant);
            }
            json!({"mediaType": "x", "size": 1, "digest": digest(name), "platform": platform})
        };
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("v3", "linux", "amd64", Some("v3")), entry("amd64", "linux", "amd64", None),
            entry("attestation", "unknown", "unknown", None), entry("arm", "linux", "arm", Some("v7")),
            entry("arm64", "linux", "arm64", Some("v8")), {"digest": digest("no platform")},
        ]});
        let index = ImageIndex::parse(index.to_string().as_bytes()).unwrap();
        let chosen = |text: &str| index.image_for(&text.parse().unwrap());
        assert_eq!(chosen("linux/amd64"), Some(digest("amd64")));
        assert_eq!(chosen("linux/amd64/v3"), Some(digest("v3")));
        for text in ["linux/arm64", "linux/arm64/v8"] {
            assert_eq!(chosen(text), Some(digest("arm64")), "{text}");
        }
        assert_eq!(chosen("linux/arm64/v9"), None);
        let named = ["linux/amd64/v3", "linux/amd64", "linux/arm/v7", "linux/arm64/v8"];
        assert_eq!(index.platforms(), named);
        assert!(ImageIndex::parse(br#"{"config": {}, "layers": []}"#).is_none());
    }
}
