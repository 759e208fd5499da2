//! Image references: `HOST/REPOSITORY[:TAG][@DIGEST]`, with one symbolic host for the platform's own registry.

use crate::{Digest, Error, text_serde::serde_by_text};
use std::{fmt, net::Ipv6Addr, str::FromStr};

/// The host that stands for the platform's registry wherever an image is stored; only the outer interfaces map it to an
/// address, so a changed port or host breaks nothing.
pub const PLATFORM_REGISTRY: &str = "registry.hoistway.internal";

/// Labels of images of our build service.
pub mod label {
    /// The version of the layout, one of [`super::layout`]; its presence identifies our images.
    pub const IMAGE: &str = "dev.hoistway.image";
    /// `major.minor` of the Python of the layers.
    pub const PYTHON: &str = "dev.hoistway.python";
    /// `os/architecture` as in the OCI image index.
    pub const PLATFORM: &str = "dev.hoistway.platform";
    /// The agent's entry file, relative to [`super::APP_DIR`].
    pub const ENTRY_POINT: &str = "dev.hoistway.entry-point";
    /// The requirements from which its packages were resolved, one in each line; the resolved versions are stored
    /// elsewhere. A rebuild uses it together with the source layer.
    pub const REQUIREMENTS: &str = "dev.hoistway.requirements";
}

/// Versions of the layout of our images. Supported are [`layout::FORMER`] and [`layout::CURRENT`].
pub mod layout {
    /// Packages' layers were cut out of a shared directory, so that one could contain another's files. Such images run
    /// and are rebuilt.
    pub const FORMER: &str = "1";
    /// Every package's layer is made of its own wheel alone.
    pub const CURRENT: &str = "2";
}

/// The prefix of the history lines of our own layers; layers below them are the base image's.
pub const LAYER_HISTORY: &str = "hoistway: ";

/// The directory of the user's source in an image.
pub const APP_DIR: &str = "/app";
/// The path of the runner in an image.
pub const RUNNER_PATH: &str = "/opt/hoistway/runner/hoistway_runner.py";
/// The directory of the dependencies in an image.
pub const SITE_DIR: &str = "/opt/hoistway/site-packages";

/// A parsed image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// Registry host, with its port if it names one.
    pub host: String,
    /// Repository, without host.
    pub repository: String,
    /// Tag.
    pub tag: Option<String>,
    /// Manifest digest.
    pub digest: Option<Digest>,
}

impl ImageRef {
    /// Returns a reference to an image in the platform's own registry.
    pub fn platform(repository: impl Into<String>, tag: Option<String>, digest: Digest) -> Self {
        Self { host: PLATFORM_REGISTRY.into(), repository: repository.into(), tag, digest: Some(digest) }
    }

    /// Whether it is in the platform's own registry.
    pub fn is_platform(&self) -> bool {
        self.host == PLATFORM_REGISTRY
    }

    /// Returns the same image with another registry host.
    pub fn with_host(&self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self.clone() }
    }

    /// Formats `HOST/REPOSITORY:TAG` for people, or by digest if there is no tag; without the host if that is only our
    /// internal name for it.
    pub fn display_tagged(&self) -> String {
        let digest = self.digest.filter(|_| self.tag.is_none());
        let shown = Self { digest, ..self.clone() }.to_string();
        match shown.strip_prefix(PLATFORM_REGISTRY).and_then(|rest| rest.strip_prefix('/')) {
            Some(path) => path.to_owned(),
            None => shown,
        }
    }

    /// Returns the tag or digest to request from the registry; the digest is preferred because it cannot move.
    pub fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

serde_by_text!(to_string of ImageRef);

impl FromStr for ImageRef {
    type Err = Error;

    /// Parses a reference as Docker does: the part before the first `/` is a host if it has a `.` or `:` or is
    /// `localhost`; otherwise the image is Docker Hub's, where a single name is below `library/`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::field("image", format!("\"{}\" is not an image reference", text.escape_debug()));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (host, repository) = match rest.split_once('/') {
            Some((host, path)) if names_host(host) => (host.to_owned(), path.to_owned()),
            Some(_) => ("docker.io".to_owned(), rest.to_owned()),
            None => ("docker.io".to_owned(), format!("library/{rest}")),
        };
        let tag_ok = tag.as_ref().is_none_or(|t| {
            (1..=128).contains(&t.len())
                && !t.starts_with(['.', '-'])
                && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        });
        if !is_host(&host) || !tag_ok || !is_repository(&repository) {
            return Err(wrong());
        }
        Ok(Self { host, repository, tag, digest })
    }
}

/// Whether the part of an image's name before the first `/` is the host of its registry, by Docker's rule.
pub fn names_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

/// Whether a text is a DNS name or an address of IPv4 or, in brackets, IPv6; with or without a port.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let (host_ok, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address.parse::<Ipv6Addr>().is_ok(), None),
        Some((address, port)) => (port.starts_with(':') && address.parse::<Ipv6Addr>().is_ok(), Some(&port[1..])),
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            (name.split('.').all(is_label), port)
        }
    };
    host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether a path matches the name grammar of the OCI distribution specification.
fn is_repository(path: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    path.len() <= 255
        && path.split('/').all(|part| {
            let bytes = part.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
        })
}

/// An image in the platform's own registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredImage {
    /// Repository, without host.
    pub repository: String,
    /// Manifest digest.
    pub digest: Digest,
}

impl StoredImage {
    /// Returns the referenced image, if it is in the platform's registry and has a digest.
    pub fn of(image: &ImageRef, digest: Option<Digest>) -> Option<Self> {
        let digest = image.digest.or(digest)?;
        image.is_platform().then(|| Self { repository: image.repository.clone(), digest })
    }
}

impl fmt::Display for StoredImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.digest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let read = |text: &str| {
            let r: ImageRef = text.parse().unwrap();
            (r.host, r.repository, r.tag)
        };
        let t = |s: &str| Some(s.to_owned());
        assert_eq!(read("myregistry.io/my-agent:v1.2.0"), ("myregistry.io".into(), "my-agent".into(), t("v1.2.0")));
        assert_eq!(read("127.0.0.1:5000/a/b:c"), ("127.0.0.1:5000".into(), "a/b".into(), t("c")));
        assert_eq!(read("localhost/a"), ("localhost".into(), "a".into(), None));
        assert_eq!(read("x"), ("docker.io".into(), "library/x".into(), None));
        assert_eq!(read("team/x:1"), ("docker.io".into(), "team/x".into(), t("1")));
        assert_eq!(read("[::1]:5000/a").0, "[::1]:5000");
        for bad in ["../x", "./x", ".:5000/x", "a..b/c", "a:b/c", "x:99999/y:z", "x:0/y", "-a.b/c", "[::1/c", "[x]:1/c"]
        {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
        for bad in ["", "Upper/x", "a b", "r.io/x:", "r.io/x@sha256:12", "r.io//x", "r.io/x:-a", "http://r.io/x"] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_registry_of_the_platform_is_left_out_where_images_are_shown() {
        let shown = |text: String| text.parse::<ImageRef>().unwrap().display_tagged();
        assert_eq!(shown(format!("{PLATFORM_REGISTRY}/a:1")), "a:1");
        for other in [format!("{PLATFORM_REGISTRY}.example.com/a:1"), format!("{PLATFORM_REGISTRY}:5000/a:1")] {
            assert_eq!(shown(other.clone()), other);
        }
    }
}
