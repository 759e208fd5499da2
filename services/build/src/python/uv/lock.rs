//! Exact versions with hashes: what requirements came to, once.

use hoistway_model::{Code, Digest, Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The spelling of a file's digest.
const HASH: &str = "--hash=sha256:";

/// Exact packages with the hashes of their files, in the format that pip and uv read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lock {
    text: String,
    packages: Vec<(String, String)>,
    /// Where in the text each package's entry begins.
    begins: Vec<usize>,
}

impl Lock {
    /// Reads a lock that [`super::Uv::resolve`] made; anything but pinned packages with hashes is refused.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lock = Self::default();
        let mut hashes = 1;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let wrong = || Error::new(Code::RequirementFailed, format!("the resolver's answer is not a lock: {line}"));
            let content = line.strip_suffix('\\').unwrap_or(line).trim_end();
            if let Some(hash) = content.strip_prefix(HASH) {
                if lock.packages.is_empty() || hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(wrong());
                }
                hashes += 1;
                lock.text.push_str(" \\\n    ");
            } else {
                let pinned = content.split_once(';').map_or(content, |(pin, _)| pin).trim_end();
                let (name, version) = pinned.split_once("==").ok_or_else(wrong)?;
                let package = name.split('[').next().unwrap_or(name);
                let fine =
                    |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '!' | '[' | ']' | ',');
                if hashes == 0
                    || package.is_empty()
                    || version.is_empty()
                    || !pinned.replace("==", "").chars().all(fine)
                {
                    return Err(wrong());
                }
                if !lock.packages.is_empty() {
                    lock.text.push('\n');
                }
                hashes = 0;
                lock.begins.push(lock.text.len());
                lock.packages.push((package.to_owned(), version.to_owned()));
            }
            lock.text.push_str(content);
        }
        if hashes == 0 {
            return Err(Error::new(Code::RequirementFailed, "the resolver's answer lacks a hash"));
        }
        if !lock.packages.is_empty() {
            lock.text.push('\n');
        }
        Ok(lock)
    }

    /// The same with only those files of a package that its requirement names, if it names any.
    pub fn with_hashes(&self, wanted: &BTreeMap<&str, BTreeSet<&str>>) -> Result<Self> {
        let mut narrowed = Self::default();
        for (entry, name, version) in self.pinned() {
            let Some(wanted) = wanted.get(name) else {
                narrowed.push(entry, name, version);
                continue;
            };
            let pin = entry.split_once(HASH).map_or(entry, |(pin, _)| pin);
            let kept: Vec<&str> = Self::hashes(entry).filter(|digest| wanted.contains(digest)).collect();
            if kept.is_empty() {
                let message = format!(
                    "the requirements cannot be resolved: no file of {name} {version} has a hash that they name"
                );
                let remedy = "the index has other files than those that were hashed: lock the requirements again \
                              (`pip-compile --generate-hashes`, `uv export`), or leave the hashes out";
                return Err(Error::new(Code::RequirementFailed, message).with_details([remedy.to_owned()]));
            }
            let entry = format!("{pin}{HASH}{}\n", kept.join(&format!(" \\\n    {HASH}")));
            narrowed.push(&entry, name, version);
        }
        Ok(narrowed)
    }

    /// The same without some packages.
    pub fn without(&self, names: &HashSet<&str>) -> Self {
        let mut left = Self::default();
        let kept = self.pinned().filter(|(_, name, _)| !names.contains(name));
        kept.for_each(|(entry, name, version)| left.push(entry, name, version));
        left
    }

    /// Both together, in the resolver's order. None if a package has different versions in them; where it has the same,
    /// this lock's files are kept.
    pub fn joined(&self, other: &Self) -> Option<Self> {
        let mut entries = BTreeMap::new();
        for (entry, name, version) in self.pinned().chain(other.pinned()) {
            let (_, there) = entries.entry(name).or_insert((entry, version));
            if *there != version {
                return None;
            }
        }
        let mut joined = Self::default();
        entries.into_iter().for_each(|(name, (entry, version))| joined.push(entry, name, version));
        Some(joined)
    }

    fn push(&mut self, entry: &str, name: &str, version: &str) {
        self.begins.push(self.text.len());
        self.text.push_str(entry);
        self.packages.push((name.to_owned(), version.to_owned()));
    }

    /// The text to keep.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The entry of each package: its pin and its hashes, a lock in itself.
    fn entries(&self) -> impl Iterator<Item = &str> {
        let ends = self.begins.iter().skip(1).copied().chain([self.text.len()]);
        self.begins.iter().zip(ends).map(|(begin, end)| &self.text[*begin..end])
    }

    /// The entry, the name without extras, and the version of each package.
    pub fn pinned(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let packages = self.entries().zip(&self.packages);
        packages.map(|(entry, (name, version))| (entry, name.as_str(), version.as_str()))
    }

    /// The SHA-256 digests, in hexadecimal digits, of the files that an entry allows.
    pub fn hashes(entry: &str) -> impl Iterator<Item = &str> {
        entry.split(HASH).skip(1).map(|hash| hash.trim_end_matches(['\n', '\\', ' ']))
    }

    /// Names without extras, and versions.
    pub fn packages(&self) -> &[(String, String)] {
        &self.packages
    }

    /// Whether nothing has to be installed.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// The identity of names, versions and hashes: the key of the layers made from it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_is_kept_to_the_letter() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let text = format!(
            "six==1.17.0 \\\n    --hash=sha256:{a} \\\n    --hash=sha256:{b}\nx==1!2+l ; os_name == \"nt\" \\\n    --hash=sha256:{a}\n"
        );
        let lock = Lock::parse(&text).unwrap();
        assert_eq!(lock.text(), text);
        assert_eq!(lock.packages(), [("six".into(), "1.17.0".into()), ("x".into(), "1!2+l".into())]);
        assert_eq!(Lock::parse(lock.text()).unwrap(), lock);
        let entries: Vec<&str> = lock.entries().collect();
        assert_eq!(entries.concat(), text);
        assert_eq!(Lock::hashes(entries[0]).collect::<Vec<_>>(), [&a, &b]);
        assert_eq!(Lock::parse(entries[1]).unwrap().packages(), [("x".into(), "1!2+l".into())]);
        assert!(Lock::parse("\n").unwrap().is_empty());
    }

    #[test]
    fn a_lock_keeps_only_the_named_files() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let text =
            format!("six[x]==1 \\\n    --hash=sha256:{a} \\\n    --hash=sha256:{b}\ny==2 \\\n    --hash=sha256:{a}\n");
        let lock = Lock::parse(&text).unwrap();
        let left = lock.with_hashes(&BTreeMap::from([("six", BTreeSet::from([b.as_str(), "c"]))])).unwrap();
        assert_eq!(left.text(), format!("six[x]==1 \\\n    --hash=sha256:{b}\ny==2 \\\n    --hash=sha256:{a}\n"));
        assert_eq!(lock.with_hashes(&BTreeMap::new()).unwrap(), lock);
        let e = lock.with_hashes(&BTreeMap::from([("y", BTreeSet::from([b.as_str()]))])).unwrap_err();
        assert!(e.message.contains("no file of y 2 has a hash"), "{e}");
    }

    #[test]
    fn locks_are_joined_unless_their_versions_differ() {
        let lock = |packages: &[(&str, &str, char)]| {
            let entry = |(name, version, hash): &(&str, &str, char)| {
                format!("{name}=={version} \\\n    --hash=sha256:{}\n", hash.to_string().repeat(64))
            };
            Lock::parse(&packages.iter().map(entry).collect::<String>()).unwrap()
        };
        let former = lock(&[("b", "1", 'a'), ("typing-extensions", "4", 'a')]);
        let joined = former.joined(&lock(&[("a", "1", 'b'), ("b", "1", 'b'), ("c", "2", 'b')])).unwrap();
        assert_eq!(joined, lock(&[("a", "1", 'b'), ("b", "1", 'a'), ("c", "2", 'b'), ("typing-extensions", "4", 'a')]));
        assert_eq!(former.joined(&lock(&[("b", "2", 'a')])), None);
        assert_eq!(joined.without(&HashSet::from(["a", "c", "d"])), former);
        assert_eq!(former.joined(&Lock::default()).as_ref(), Some(&former));
    }

    #[test]
    fn a_lock_must_pin_packages_with_hashes() {
        let hash = format!("    --hash=sha256:{}", "a".repeat(64));
        for bad in [
            "six==1",
            "--index-url https://x",
            "six>=1",
            "-e .",
            "a @ https://x",
            &hash,
            &format!("a==1\nb==2 \\\n{hash}"),
            "a==1 \\\n    --hash=md5:00",
            &format!("a==1 --index-url=x \\\n{hash}"),
        ] {
            assert_eq!(Lock::parse(bad).expect_err(bad).code, Code::RequirementFailed);
        }
    }
}
