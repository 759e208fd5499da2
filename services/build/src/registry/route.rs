//! The resource that a path below `/v2/` means. Repository names have any number of segments and may contain the very
//! words the paths are made of (`a/blobs/b` is a name), so paths are read from the right.

use super::{
    error::{ErrorCode, Refusal},
    name::RepoName,
};
use hoistway_model::Digest;

/// The thing that a request is about. The part after the name is not parsed yet: whether a malformed reference is
/// wrong or merely unknown depends on the method.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `_catalog`
    Catalog,
    /// `NAME/tags/list`
    Tags(RepoName),
    /// `NAME/manifests/REFERENCE`
    Manifest(RepoName, String),
    /// `NAME/referrers/DIGEST`
    Referrers(RepoName, String),
    /// `NAME/blobs/DIGEST`
    Blob(RepoName, String),
    /// `NAME/blobs/uploads/`
    Uploads(RepoName),
    /// `NAME/blobs/uploads/ID`
    Upload(RepoName, String),
}

impl Target {
    /// Reads the decoded path that follows `/v2/`.
    pub(super) fn parse(path: &str) -> Result<Self, Refusal> {
        if path == "_catalog" {
            return Ok(Self::Catalog);
        }
        let unknown = || Refusal::new(ErrorCode::Unsupported, "there is nothing at this path").status(404);
        let (rest, last) = path.rsplit_once('/').ok_or_else(unknown)?;
        let (rest, kind) = rest.rsplit_once('/').ok_or_else(unknown)?;
        match (kind, last) {
            ("blobs", "uploads") => Ok(Self::Uploads(repo(rest)?)),
            ("uploads", id) if rest.ends_with("/blobs") => {
                let name = repo(rest.strip_suffix("/blobs").unwrap_or(rest))?;
                Ok(if id.is_empty() { Self::Uploads(name) } else { Self::Upload(name, id.to_owned()) })
            }
            ("blobs", digest) => Ok(Self::Blob(repo(rest)?, digest.to_owned())),
            ("manifests", reference) => Ok(Self::Manifest(repo(rest)?, reference.to_owned())),
            ("referrers", digest) => Ok(Self::Referrers(repo(rest)?, digest.to_owned())),
            ("tags", "list") => Ok(Self::Tags(repo(rest)?)),
            _ => Err(unknown()),
        }
    }

    /// The methods it answers, for `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, PATCH, PUT, DELETE",
        }
    }
}

fn repo(text: &str) -> Result<RepoName, Refusal> {
    text.parse().map_err(|e: hoistway_model::Error| Refusal::new(ErrorCode::NameInvalid, e.message))
}

/// A digest of a path or query. Other algorithms than SHA-256 are valid elsewhere and not known here.
pub(super) fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|e: hoistway_model::Error| {
        let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match text.split_once(':') {
            Some((algorithm @ ("sha384" | "sha512" | "blake3"), encoded)) if is_word(encoded) => {
                let message = format!("digests are sha256 here; {algorithm} is not supported");
                Refusal::new(ErrorCode::Unsupported, message).status(400)
            }
            _ => Refusal::new(ErrorCode::DigestInvalid, e.message),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_are_read_from_the_right() {
        let n = |text: &str| text.parse::<RepoName>().unwrap();
        let s = str::to_owned;
        for (path, target) in [
            ("_catalog", Target::Catalog),
            ("a/b/referrers/sha256:00", Target::Referrers(n("a/b"), s("sha256:00"))),
            ("a/tags/list", Target::Tags(n("a"))),
            ("a/b/c/manifests/v1", Target::Manifest(n("a/b/c"), s("v1"))),
            ("a/manifests/x/manifests/v1", Target::Manifest(n("a/manifests/x"), s("v1"))),
            ("a/blobs/sha256:00", Target::Blob(n("a"), s("sha256:00"))),
            ("a/blobs/uploads", Target::Uploads(n("a"))),
            ("a/blobs/uploads/", Target::Uploads(n("a"))),
            ("a/b/blobs/uploads/77", Target::Upload(n("a/b"), s("77"))),
            ("a/blobs/uploads/blobs/sha256:00", Target::Blob(n("a/blobs/uploads"), s("sha256:00"))),
            ("uploads/manifests/list", Target::Manifest(n("uploads"), s("list"))),
        ] {
            assert_eq!(Target::parse(path).unwrap(), target, "{path}");
        }
        for (path, status) in [
            ("", 404),
            ("a", 404),
            ("token", 404),
            ("_catalog/a", 404),
            ("manifests/v1", 404),
            ("uploads/77", 404),
            ("A/manifests/v1", 400),
            ("../manifests/v1", 400),
            ("a//manifests/v1", 400),
        ] {
            assert_eq!(Target::parse(path).unwrap_err().status_code(), status, "{path}");
        }
    }
}
