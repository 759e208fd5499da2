//! `hoistway backup`: the whole state of an installation in one tar file, taken while it runs.
//!
//! The databases written by a deploy's last steps are copied first: whatever the copy of one of them refers to is in
//! the copies made after it. Steps that are not yet in the copy of the journal are repeated by recovery, which is safe.
//! Content that can be made again (unpacked layers, caches, logs) is left out.
//!
//! The last entry lists every other one with its size and digest, so that a truncated or corrupted file is detected.

mod contents;
mod keys;
mod restore;

pub use restore::{RestoreArgs, restore};

use crate::rotate;
use contents::{CONTENTS, Contents, Hashed};
use hoistway_kit::{
    config, db,
    fs::{DirLock, PRIVATE_FILE, fsync_dir},
    time::{now_ms, rfc3339},
};
use hoistway_model::{Code, Error, Result};
use keys::Keys;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};

/// The databases in the order in which they are copied.
const DATABASES: [&str; 5] =
    ["gateway/gateway.db", "agent/agent.db", "build/build.db", "tool-registry/tool-registry.db", "egress/egress.db"];
/// The keys that open all secrets in the databases' copies.
const KEYS: &str = "master.key";
/// Optional files of an installation.
const FILES: [&str; 6] = ["api-key", "service-token", "egress-token", "egress-key", "egress/ca-key.pem", "ports.json"];
/// Directories that are copied whole. Their files are named by their content's digest and never change.
const BLOBS: [&str; 1] = ["build/registry/blobs"];
/// The first entry of every backup.
const ABOUT: &str = "backup.json";
/// The format that this version writes, and the only one that it reads: format 1 had no list of its contents.
const FORMAT: u32 = 2;

/// The description of a backup in its first entry.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    format: u32,
    hoistway: String,
    created_at: String,
}

/// The arguments of `hoistway backup`.
#[derive(clap::Args, Debug, Clone)]
pub struct BackupArgs {
    /// The file to write, which must not be there yet; `-` is standard output
    file: PathBuf,
    /// The data directory [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Writes a backup. It contains the installation's keys, so it is as secret as the data directory.
pub async fn backup(args: BackupArgs) -> Result<()> {
    let dir = config::data_dir(args.data_dir)?;
    if !rotate::key_file(&dir).is_file() {
        return Err(Error::new(Code::InvalidArgument, format!("{} holds no installation", dir.display())));
    }
    if let Some(service) = config::SERVICES.iter().find(|service| db::is_in_postgres(service, &dir.join(service))) {
        let text = format!(
            "the tables of {service} are in PostgreSQL: stop Hoistway, copy {} and dump the database with pg_dump",
            dir.display()
        );
        return Err(Error::new(Code::InvalidArgument, text));
    }
    let copies = Copies::make(&dir)?;
    // The blobs are linked both before and after the databases are copied: blobs that the registry's copy refers to
    // were there when it was made.
    let copies = hold(copies, dir.clone()).await?;
    let mut keys = Keys::new(rotate::key_file(&dir));
    let mut databases = Vec::new();
    for name in DATABASES {
        let (from, to) = (dir.join(name), copies.dir.join(copy_of(name)));
        if from.is_file() {
            keys.while_copying(async || {
                remove_if_there(&to).map_err(failed("removing an old copy"))?;
                db::snapshot(&from, &to).await
            })
            .await?;
            databases.push((name, to));
        }
    }
    let keys = keys.all()?;
    let copies = hold(copies, dir.clone()).await?;
    let written = tokio::task::spawn_blocking(move || {
        let blobs = if copies.holds { &copies.dir } else { &dir };
        if args.file == Path::new("-") {
            return write(&dir, &keys, &databases, blobs, io::stdout().lock()).map(drop);
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(PRIVATE_FILE).open(&args.file)?;
        let whole = write(&dir, &keys, &databases, blobs, file).and_then(|file| file.sync_all()).and_then(|()| {
            let parent = args.file.parent().filter(|dir| !dir.as_os_str().is_empty());
            fsync_dir(parent.unwrap_or(Path::new(".")))
        });
        // A partial backup is worse than none.
        whole.inspect_err(|_| drop(fs::remove_file(&args.file)))
    });
    written.await.map_err(|e| Error::internal("writing the backup", e))?.map_err(failed("writing the backup"))
}

/// The directory for the databases' copies, beside them, for one backup at a time. The copies of a killed backup are
/// removed by the next one.
struct Copies {
    dir: PathBuf,
    /// Whether the blobs are here too, as hard links: garbage collection may remove their names meanwhile.
    holds: bool,
    _lock: DirLock,
}

impl Copies {
    fn make(data_dir: &Path) -> Result<Self> {
        let dir = data_dir.join("backup");
        let lock = DirLock::acquire(&dir)?;
        for name in DATABASES {
            remove_if_there(&dir.join(copy_of(name))).map_err(failed("removing an old copy"))?;
        }
        match fs::remove_dir_all(dir.join("build")) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed("removing old links")(e)),
            _ => {}
        }
        Ok(Self { dir, holds: true, _lock: lock })
    }
}

/// Links the present blobs beside the copies. On a file system without links the original is read: blobs that garbage
/// collection removes meanwhile are then missing, and no agent uses them.
async fn hold(mut copies: Copies, dir: PathBuf) -> Result<Copies> {
    let linking = move || {
        copies.holds =
            copies.holds && BLOBS.iter().all(|name| link_tree(&dir.join(name), &copies.dir.join(name)).is_ok());
        copies
    };
    tokio::task::spawn_blocking(linking).await.map_err(|e| Error::internal("linking the registry's blobs", e))
}

fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    fs::create_dir_all(to)?;
    for entry in entries {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        let linked = if entry.is_dir() { link_tree(&entry, &to) } else { fs::hard_link(&entry, &to) };
        match linked {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

impl Drop for Copies {
    fn drop(&mut self) {
        // The next backup removes what is left.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn copy_of(name: &str) -> String {
    name.replace('/', "-")
}

fn failed(doing: &str) -> impl FnOnce(io::Error) -> Error {
    move |e| match e.kind() {
        ErrorKind::AlreadyExists => Error::new(Code::Conflict, format!("{doing}: it exists already")),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::new(Code::InsufficientStorage, format!("{doing}: the disk is full"))
        }
        _ => Error::internal(doing, e),
    }
}

fn write<W: Write>(dir: &Path, keys: &[u8], databases: &[(&str, PathBuf)], blobs: &Path, to: W) -> io::Result<W> {
    let mut tar = Archive::new(to);
    let about = About { format: FORMAT, hoistway: env!("CARGO_PKG_VERSION").to_owned(), created_at: rfc3339(now_ms()) };
    tar.append_bytes(ABOUT, &serde_json::to_vec(&about)?)?;
    tar.append_bytes(KEYS, keys)?;
    for name in FILES {
        tar.append(&dir.join(name), name)?;
    }
    for (name, copy) in databases {
        tar.append(copy, name)?;
    }
    for name in BLOBS {
        tar.append_tree(&blobs.join(name), name)?;
    }
    tar.finish()
}

/// A backup that is being written, with the list of its entries so far.
struct Archive<W: Write> {
    tar: Builder<BufWriter<W>>,
    contents: Contents,
}

impl<W: Write> Archive<W> {
    fn new(to: W) -> Self {
        Self { tar: Builder::new(BufWriter::with_capacity(1 << 20, to)), contents: Contents::default() }
    }

    fn append_bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.append_from(name, bytes.len() as u64, bytes)
    }

    /// Adds a file, if it exists: nothing that was copied before needs a file that is removed meanwhile.
    fn append(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        self.append_from(name, file.metadata()?.len(), file)
    }

    fn append_from(&mut self, name: &str, size: u64, from: impl Read) -> io::Result<()> {
        // A file that has grown is cut to the size in its header; one that has shrunk is detected.
        let mut from = Hashed::new(from.take(size));
        self.tar.append_data(&mut header(size), name, &mut from)?;
        let (read, digest) = from.finish();
        if read != size {
            return Err(io::Error::other(format!("{name} became shorter while it was read")));
        }
        self.contents.add(name, size, digest);
        Ok(())
    }

    fn append_tree(&mut self, dir: &Path, name: &str) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.append_tree(&entry.path(), &name)?;
            } else if kind.is_file() {
                self.append(&entry.path(), &name)?;
            }
        }
        Ok(())
    }

    /// Adds the list of entries.
    fn finish(mut self) -> io::Result<W> {
        let list = serde_json::to_vec(&self.contents)?;
        self.tar.append_data(&mut header(list.len() as u64), CONTENTS, list.as_slice())?;
        self.tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(PRIVATE_FILE);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_collected_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("blobs"), dir.path().join("held"));
        link_tree(&from, &to).unwrap();
        fs::create_dir_all(from.join("sha256")).unwrap();
        fs::write(from.join("sha256/a"), "a").unwrap();
        link_tree(&from, &to).unwrap();
        fs::remove_file(from.join("sha256/a")).unwrap();
        fs::write(from.join("sha256/b"), "b").unwrap();
        link_tree(&from, &to).unwrap();
        link_tree(&from, &to).unwrap();
        let read = |name: &str| fs::read_to_string(to.join("sha256").join(name)).unwrap();
        assert_eq!((read("a"), read("b")), ("a".to_owned(), "b".to_owned()));
    }
}
