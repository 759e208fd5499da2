//! `hoistway restore`: makes a data directory from a backup, whole or not at all.

use super::{
    ABOUT, About, BLOBS, DATABASES, FILES, FORMAT, KEYS,
    contents::{CONTENTS, Contents, Hashed},
    failed,
};
use hoistway_kit::{
    config, db,
    fs::{PRIVATE_FILE, fsync_dir, private_dir},
    ports::Ports,
};
use hoistway_model::{Code, Digest, Error, Result};
use std::{
    cmp::Ordering,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};
use tar::{Archive, EntryType};
use tempfile::TempDir;

/// The maximum size of the first entry, in bytes, which is never reached.
const MAX_ABOUT: u64 = 64 << 10;
/// The maximum size of the contents list, in bytes: some million entries.
const MAX_CONTENTS: u64 = 256 << 20;

/// The arguments of `hoistway restore`.
#[derive(clap::Args, Debug, Clone)]
pub struct RestoreArgs {
    /// The backup; `-` is standard input
    file: PathBuf,
    /// The data directory to make; it must not exist, or be empty [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Unpacks a backup beside the data directory, checks it, and moves it there when it is whole.
pub async fn restore(args: RestoreArgs) -> Result<()> {
    let dir = config::data_dir(args.data_dir)?;
    let blocking = |e| Error::internal("restoring", e);
    let fresh = {
        let (file, dir) = (args.file, dir.clone());
        tokio::task::spawn_blocking(move || unpack_beside(&file, &dir)).await.map_err(blocking)??
    };
    for name in DATABASES {
        let database = fresh.path().join(name);
        if database.is_file() {
            db::check(&database).await.map_err(|e| e.prefixed(&format!("{name} in the backup: ")))?;
        }
    }
    tokio::task::spawn_blocking(move || move_to(fresh, &dir)).await.map_err(blocking)?
}

/// The error message for a backup that differs from what was written.
const DAMAGED: &str = "the backup is damaged";

fn taken(dir: &Path) -> Error {
    Error::new(Code::Conflict, format!("{} is not empty: name a new directory", dir.display()))
}

/// Unpacks the backup into a directory beside `dir`, which is removed unless it is kept.
fn unpack_beside(file: &Path, dir: &Path) -> Result<TempDir> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(taken(dir));
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    private_dir_if_missing(parent)?;
    let fresh = tempfile::Builder::new().prefix(".hoistway-restore-").tempdir_in(parent);
    let fresh = fresh.map_err(failed("making a directory"))?;
    if file == Path::new("-") {
        unpack(io::stdin().lock(), fresh.path())?;
    } else {
        let wrong = |e| Error::new(Code::InvalidArgument, format!("{}: {e}", file.display()));
        unpack(File::open(file).map_err(wrong)?, fresh.path())?;
    }
    // The original installation may run on this machine.
    Ports::forget_if_taken(fresh.path())?;
    private_dir(fresh.path()).map_err(failed("restoring"))?;
    Ok(fresh)
}

fn move_to(fresh: TempDir, dir: &Path) -> Result<()> {
    // The rename replaces an empty directory, but not one that was filled meanwhile.
    match fs::rename(fresh.path(), dir) {
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => return Err(taken(dir)),
        moved => moved.map_err(failed("moving the restored directory"))?,
    }
    // The directory now has its final place, so it must not be removed as a temporary one.
    let _ = fresh.keep();
    fsync_dir(dir.parent().unwrap_or(Path::new("/"))).map_err(failed("restoring"))
}

fn private_dir_if_missing(dir: &Path) -> Result<()> {
    if dir.is_dir() { Ok(()) } else { private_dir(dir).map_err(failed("making the data directory")) }
}

fn unpack(from: impl Read, to: &Path) -> Result<()> {
    let not_one = || Error::new(Code::InvalidArgument, "this is not a backup of Hoistway");
    let wrong = |why: &str| Error::new(Code::InvalidArgument, format!("{DAMAGED}: {why}"));
    let damaged = |e: io::Error| match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => failed("restoring")(e),
        _ => Error::new(Code::InvalidArgument, DAMAGED).with_source(e),
    };
    let mut archive = Archive::new(BufReader::with_capacity(1 << 20, from));
    let mut entries = archive.entries().map_err(damaged)?;
    let mut found = Contents::default();

    let mut first = entries.next().ok_or_else(not_one)?.map_err(|_| not_one())?;
    if first.path_bytes() != ABOUT.as_bytes() {
        return Err(not_one());
    }
    let mut text = Vec::new();
    first.by_ref().take(MAX_ABOUT).read_to_end(&mut text).map_err(|_| not_one())?;
    let about: About = serde_json::from_slice(&text).map_err(|_| not_one())?;
    readable(&about)?;
    found.add(ABOUT, text.len() as u64, Digest::of(&text));

    let mut list: Option<Contents> = None;
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        if list.is_some() {
            return Err(wrong("something follows the list of its contents"));
        }
        if name == Path::new(CONTENTS) {
            let mut text = Vec::new();
            entry.by_ref().take(MAX_CONTENTS).read_to_end(&mut text).map_err(damaged)?;
            list = Some(serde_json::from_slice(&text).map_err(|_| wrong("the list of its contents cannot be read"))?);
            continue;
        }
        let known = name.to_str().filter(|_| entry.header().entry_type() == EntryType::Regular && belongs(&name));
        let Some(known) = known else {
            return Err(Error::new(Code::InvalidArgument, format!("the backup has a foreign entry: {name:?}")));
        };
        let (size, digest) = write(&mut entry, &to.join(&name)).map_err(damaged)?;
        if expected(&name).is_some_and(|expected| expected != digest.hex()) {
            return Err(wrong("a blob is not what its name says"));
        }
        found.add(known, size, digest);
    }
    let list = list.ok_or_else(|| wrong("it is cut off, the list of its contents is missing"))?;
    match list.differs(&found) {
        Some(difference) => Err(wrong(&difference)),
        None if !to.join(KEYS).is_file() => Err(wrong("it has no keys")),
        None => Ok(()),
    }
}

fn readable(about: &About) -> Result<()> {
    let text = match about.format.cmp(&FORMAT) {
        Ordering::Equal => return Ok(()),
        Ordering::Greater => {
            format!("the backup was made by a newer Hoistway, {}: restore it with that version", about.hoistway)
        }
        Ordering::Less => format!(
            "the backup has format {}, without a list of its contents, so nobody can tell whether it is whole: make a \
             new one",
            about.format
        ),
    };
    Err(Error::new(Code::Conflict, text))
}

/// Whether a backup may hold a file of this name.
fn belongs(name: &Path) -> bool {
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    plain
        && (name == Path::new(KEYS)
            || FILES.iter().chain(&DATABASES).any(|known| name == Path::new(known))
            || BLOBS.iter().any(|dir| name.starts_with(dir)))
}

/// Returns the digest, in hex, in a blob's name.
fn expected(name: &Path) -> Option<&str> {
    BLOBS.iter().any(|dir| name.starts_with(Path::new(dir).join("sha256"))).then(|| name.file_name()?.to_str())?
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

    #[test]
    fn only_what_a_backup_holds() {
        for good in ["master.key", "agent/agent.db", "build/registry/blobs/sha256/ab"] {
            assert!(belongs(Path::new(good)), "{good}");
        }
        for bad in ["../master.key", "/master.key", "build/registry/blobs/../../x", "agent/agent.db-wal", "lock"] {
            assert!(!belongs(Path::new(bad)), "{bad}");
        }
        assert_eq!(expected(Path::new("build/registry/blobs/sha256/ab")), Some("ab"));
        assert_eq!(expected(Path::new("master.key")), None);
    }
}
