//! The three words of the distribution specification that name things: repositories, tags and references.

use hoistway_model::{Code, Digest, Error, Name};
use std::{fmt, str::FromStr};

/// The longest repository name, in bytes. Clients cut at 255 with the host's name in front; so do we.
const MAX_REPO: usize = 255;

/// A repository's name: segments of lower-case letters and digits, joined inside by `.`, `_`, `__` or dashes, and to
/// each other by `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(String);

impl RepoName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepoName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() <= MAX_REPO && text.split('/').all(is_segment) {
            return Ok(Self(text.to_owned()));
        }
        Err(invalid(text, "is not a valid repository name"))
    }
}

impl From<&Name> for RepoName {
    /// Every DNS label is a repository name of one segment.
    fn from(name: &Name) -> Self {
        Self(name.as_str().to_owned())
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_segment(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separators = text.as_bytes().split(|&b| word(b)).filter(|run| !run.is_empty());
    let edges = text.bytes().next().is_some_and(word) && text.bytes().next_back().is_some_and(word);
    edges && separators.all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

/// A tag: at most 128 letters, digits, `_`, `.` and `-`, beginning with neither `.` nor `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let begins = text.bytes().next().is_some_and(word);
        if begins && text.len() <= 128 && text.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
            return Ok(Self(text.to_owned()));
        }
        Err(invalid(text, "is not a valid tag"))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reference of a request for a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By content.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // A tag cannot hold a colon and a digest always does.
        if text.contains(':') { text.parse().map(Self::Digest) } else { text.parse().map(Self::Tag) }
    }
}

fn invalid(text: &str, what: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("\"{}\" {what}", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        for good in ["a", "0", "a/b/c", "a.b_c__d---e/f", "library/alpine", &"a".repeat(255)] {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a.",
            ".a",
            "a..b",
            "a___b",
            "a._b",
            "a-_b",
            "ä",
            "a b",
            "..",
            "a/../b",
            "a:b",
            "a\0",
            &"a".repeat(256),
        ] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad:?}");
        }
        assert_eq!(RepoName::from(&Name::parse("agent_name", "a--b").unwrap()), "a--b".parse().unwrap());
    }

    #[test]
    fn a_reference_is_a_tag_or_a_digest() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Reference>().unwrap(), Reference::Digest(digest));
        assert!(matches!("_v1.0-rc".parse::<Reference>().unwrap(), Reference::Tag(_)));
        for bad in ["", ".x", "-x", "a/b", "sha256:00", "a:b", "a b", &"a".repeat(129)] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
