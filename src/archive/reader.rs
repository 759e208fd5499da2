//! Unpacking an archive, with every byte checked.

use super::{
    About, BLOBS, Kind,
    contents::{CODE, CONTENTS, Contents, Hashed},
    failed,
};
use hoistway_kit::{
    fs::{PRIVATE_FILE, private_dir},
    secrets::MasterKey,
};
use hoistway_model::{Code, Digest, Error, Result};
use std::{
    cmp::Ordering,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path},
};
use tar::{Archive, EntryType};

/// The maximum size of the first entry, in bytes, which is never reached.
const MAX_ABOUT: u64 = 64 << 10;
/// The maximum size of the contents list, in bytes: some million entries.
const MAX_CONTENTS: u64 = 256 << 20;

/// Unpacks `file`, or standard input if that is `-`, into the directory `to`. One that was truncated or modified, or is
/// of another format, is refused, and with `key` one that was made or changed without it; what is unpacked by then
/// stays. Another key is noticed before anything but the archive's own keys is unpacked.
pub fn unpack(kind: &Kind, key: Option<&MasterKey>, file: &Path, to: &Path) -> Result<About> {
    if file == Path::new("-") {
        return read(kind, key, io::stdin().lock(), to);
    }
    let wrong = |e| Error::new(Code::InvalidArgument, format!("{}: {e}", file.display()));
    read(kind, key, File::open(file).map_err(wrong)?, to)
}

impl Kind {
    /// For messages: the sort without an article.
    fn noun(&self) -> &'static str {
        self.named.split_once(' ').unwrap_or_default().1
    }

    /// For messages: the sort with the definite article.
    fn the(&self) -> String {
        format!("the {}", self.noun())
    }

    fn check(&self, about: &About) -> Result<()> {
        let (the, verb) = (self.the(), self.verb);
        let text = match about.format.cmp(&self.format) {
            Ordering::Equal => return Ok(()),
            Ordering::Greater => {
                format!("{the} was made by a newer Hoistway, {}: {verb} it with that version", about.hoistway)
            }
            Ordering::Less => format!("{the} has format {}, {}: make a new one", about.format, self.older),
        };
        Err(Error::new(Code::Conflict, text))
    }
}

fn read(kind: &Kind, key: Option<&MasterKey>, from: impl Read, to: &Path) -> Result<About> {
    let the = kind.the();
    let not_one = || Error::new(Code::InvalidArgument, format!("this is not {} of Hoistway", kind.named));
    let is_damaged = || format!("{the} is damaged");
    let wrong_key = || {
        let text =
            format!("the key is not the key that this {} was made with, or {the} was changed since", kind.noun());
        Error::new(Code::InvalidArgument, text)
    };
    let wrong = |why: &str| Error::new(Code::InvalidArgument, format!("{}: {why}", is_damaged()));
    let damaged = |e: io::Error| match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => failed(kind.doing)(e),
        _ => Error::new(Code::InvalidArgument, is_damaged()).with_source(e),
    };
    let mut archive = Archive::new(BufReader::with_capacity(1 << 20, from));
    // Long names, which take memory, are entries of their own then, and foreign: no archive has one.
    let mut entries = archive.entries().map_err(damaged)?.raw(true);
    let mut found = Contents::default();

    let mut first = entries.next().ok_or_else(not_one)?.map_err(|_| not_one())?;
    if first.path_bytes() != kind.about.as_bytes() {
        return Err(not_one());
    }
    let mut text = Vec::new();
    first.by_ref().take(MAX_ABOUT).read_to_end(&mut text).map_err(|_| not_one())?;
    let about: About = serde_json::from_slice(&text).map_err(|_| not_one())?;
    kind.check(&about)?;
    found.add(kind.about, text.len() as u64, Digest::of(&text));

    let mut list: Option<Contents> = None;
    // The code that the list has, and the one that it must have.
    let (mut code, mut expected_code) = (None, None);
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        if name == Path::new(CODE) && expected_code.is_some() && code.is_none() {
            let mut text = String::new();
            entry.by_ref().take(MAX_ABOUT).read_to_string(&mut text).map_err(damaged)?;
            code = Some(text);
            continue;
        }
        if list.is_some() {
            return Err(wrong("something follows the list of its contents"));
        }
        if name == Path::new(CONTENTS) {
            let mut text = Vec::new();
            entry.by_ref().take(MAX_CONTENTS).read_to_end(&mut text).map_err(damaged)?;
            expected_code = key.map(|key| key.fingerprint(CONTENTS, &text).hex());
            list = Some(serde_json::from_slice(&text).map_err(|_| wrong("the list of its contents cannot be read"))?);
            continue;
        }
        let is_known = entry.header().entry_type() == EntryType::Regular && belongs(kind, &name);
        let Some(known) = name.to_str().filter(|_| is_known) else {
            return Err(Error::new(Code::InvalidArgument, format!("{the} has a foreign entry: {name:?}")));
        };
        let (size, digest) = write(&mut entry, &to.join(&name)).map_err(damaged)?;
        if let Some(key) = key
            && name == Path::new(kind.required)
        {
            let sealed = fs::read(to.join(&name)).map_err(damaged)?;
            key.open(kind.required, &sealed).map_err(|_| wrong_key())?;
        }
        if expected(&name).is_some_and(|expected| expected != digest.hex()) {
            return Err(wrong("a blob is not what its name says"));
        }
        found.add(known, size, digest);
    }
    let list = list.ok_or_else(|| wrong("it is cut off, the list of its contents is missing"))?;
    if code != expected_code {
        return Err(wrong_key());
    }
    match list.differs(&found) {
        Some(difference) => Err(wrong(&difference)),
        None if !to.join(kind.required).is_file() => Err(wrong("it has no keys")),
        None => Ok(about),
    }
}

/// Whether an archive may hold a file of this name.
fn belongs(kind: &Kind, name: &Path) -> bool {
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    plain && ((kind.belongs)(name) || is_blob(name))
}

/// Whether a name is that of a blob: `sha256/` and a digest, which is compared with the content.
fn is_blob(name: &Path) -> bool {
    let below = name.strip_prefix(BLOBS).ok();
    below.is_some_and(|below| below.components().count() == 2 && below.starts_with("sha256"))
}

/// Returns the digest, in hex, in a blob's name.
fn expected(name: &Path) -> Option<&str> {
    is_blob(name).then(|| name.file_name()?.to_str())?
}

fn write(from: impl Read, to: &Path) -> io::Result<(u64, Digest)> {
    if let Some(dir) = to.parent() {
        private_dir(dir)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(to)?;
    let mut from = Hashed::new(from);
    io::copy(&mut from, &mut file)?;
    file.sync_all()?;
    Ok(from.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        about: "about.json",
        format: 1,
        named: "a test",
        verb: "read",
        doing: "reading",
        older: "which nobody has",
        required: "master.key",
        belongs: |name| name == Path::new("master.key") || name == Path::new("agent/agent.db"),
    };

    #[test]
    fn only_what_an_archive_holds() {
        for good in ["master.key", "agent/agent.db", "build/registry/blobs/sha256/ab"] {
            assert!(belongs(&KIND, Path::new(good)), "{good}");
        }
        for bad in [
            "../master.key",
            "/master.key",
            "build/registry/blobs/../../x",
            "build/registry/blobs",
            "build/registry/blobs/x/y",
            "agent/agent.db-wal",
        ] {
            assert!(!belongs(&KIND, Path::new(bad)), "{bad}");
        }
        assert_eq!(expected(Path::new("build/registry/blobs/sha256/ab")), Some("ab"));
        assert_eq!(expected(Path::new("master.key")), None);
    }
}
