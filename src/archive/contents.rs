//! The contents list of an archive: the name, size and digest of every entry, sorted by name.

use hoistway_model::{Digest, digest::Hasher};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Read},
};

/// The list, which is the last entry but for its code.
pub(super) const CONTENTS: &str = "contents.json";
/// The authentication code of the list, in an archive with a key.
pub(super) const CODE: &str = "contents.code";

/// The entries of an archive except the list itself.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    size: u64,
    digest: Digest,
}

impl Contents {
    /// Adds an entry; returns false if there is one of this name.
    pub(super) fn add(&mut self, name: &str, size: u64, digest: Digest) -> bool {
        self.entries.insert(name.to_owned(), Entry { size, digest }).is_none()
    }

    /// Describes the first difference between this list and the entries found, if there is one.
    pub(super) fn differs(&self, found: &Self) -> Option<String> {
        let changed = self.entries.iter().find_map(|(name, entry)| match found.entries.get(name) {
            None => Some(format!("{name} is missing")),
            Some(found) if found != entry => Some(format!("{name} is not what was written")),
            Some(_) => None,
        });
        changed.or_else(|| {
            let added = found.entries.keys().find(|name| !self.entries.contains_key(*name));
            added.map(|name| format!("{name} was added"))
        })
    }
}

/// A reader that computes the size and digest of the bytes read.
pub(super) struct Hashed<R> {
    from: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, hasher: Hasher::new(), size: 0 }
    }

    pub(super) fn finish(self) -> (u64, Digest) {
        (self.size, self.hasher.finish())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.size += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named() {
        let of = |entries: &[(&str, u64, &[u8])]| {
            let mut contents = Contents::default();
            for (name, size, bytes) in entries {
                assert!(contents.add(name, *size, Digest::of(bytes)));
            }
            contents
        };
        let list = of(&[("a", 1, b"a"), ("b", 1, b"b")]);
        assert_eq!(list.differs(&of(&[("b", 1, b"b"), ("a", 1, b"a")])), None);
        for (found, said) in [
            (of(&[("a", 1, b"a")]), "b is missing"),
            (of(&[("a", 1, b"a"), ("b", 2, b"b")]), "b is not what was written"),
            (of(&[("a", 1, b"a"), ("b", 1, b"c")]), "b is not what was written"),
            (of(&[("a", 1, b"a"), ("b", 1, b"b"), ("c", 1, b"c")]), "c was added"),
        ] {
            assert_eq!(list.differs(&found).as_deref(), Some(said));
        }
        assert!(!of(&[("a", 1, b"a")]).add("a", 1, Digest::of(b"a")));
    }
}
