//! `hoistway restore`: a backup becomes a data directory, whole or not at all.

use super::{ABOUT, About, BLOBS, DATABASES, FILES, FORMAT, failed};
use hoistway_kit::{
    config::xdg_data_dir,
    fs::{PRIVATE_FILE, fsync_dir, private_dir},
};
use hoistway_model::{Code, Error, Result, digest::Hasher};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};
use tar::{Archive, EntryType};

/// What to restore, and where to.
#[derive(clap::Args, Debug, Clone)]
pub struct RestoreArgs {
    /// The backup; `-` is standard input
    file: PathBuf,
    /// The data directory to make; it must not exist, or be empty [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Unpacks a backup beside the data directory, checks it, and moves it there when it is whole.
pub fn restore(args: &RestoreArgs) -> Result<()> {
    let dir = std::path::absolute(args.data_dir.clone().unwrap_or_else(xdg_data_dir))
        .map_err(failed("finding the data directory"))?;
    let taken = Error::new(Code::Conflict, format!("{} is not empty: name a new directory", dir.display()));
    if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(taken);
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    private_dir_if_missing(parent)?;
    let fresh = tempfile::Builder::new().prefix(".hoistway-restore-").tempdir_in(parent);
    let fresh = fresh.map_err(failed("making a directory"))?;
    if args.file == Path::new("-") {
        unpack(io::stdin().lock(), fresh.path())?;
    } else {
        let wrong = |e| Error::new(Code::InvalidArgument, format!("{}: {e}", args.file.display()));
        unpack(File::open(&args.file).map_err(wrong)?, fresh.path())?;
    }
    private_dir(fresh.path()).map_err(failed("restoring"))?;
    // An empty directory is replaced by the rename; one that was filled meanwhile is not.
    match fs::rename(fresh.path(), &dir) {
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => return Err(taken),
        moved => moved.map_err(failed("moving the restored directory"))?,
    }
    // What is at its place is not the temporary directory's to remove.
    let _ = fresh.keep();
    fsync_dir(parent).map_err(failed("restoring"))
}

fn private_dir_if_missing(dir: &Path) -> Result<()> {
    if dir.is_dir() { Ok(()) } else { private_dir(dir).map_err(failed("making the data directory")) }
}

fn unpack(from: impl Read, to: &Path) -> Result<()> {
    let not_one = || Error::new(Code::InvalidArgument, "this is not a backup of Hoistway");
    let damaged = |e: io::Error| match e.kind() {
        ErrorKind::StorageFull => failed("restoring")(e),
        _ => Error::new(Code::InvalidArgument, "the backup is damaged").with_source(e),
    };
    let mut archive = Archive::new(BufReader::with_capacity(1 << 20, from));
    let mut entries = archive.entries().map_err(damaged)?;

    let mut first = entries.next().ok_or_else(not_one)?.map_err(|_| not_one())?;
    if first.path_bytes() != ABOUT.as_bytes() {
        return Err(not_one());
    }
    let mut text = String::new();
    first.by_ref().take(64 << 10).read_to_string(&mut text).map_err(|_| not_one())?;
    let about: About = serde_json::from_str(&text).map_err(|_| not_one())?;
    if about.format > FORMAT {
        let text = format!("the backup was made by Hoistway {}: restore it with that version", about.hoistway);
        return Err(Error::new(Code::Conflict, text));
    }

    let mut keys = false;
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        if entry.header().entry_type() != EntryType::Regular || !belongs(&name) {
            return Err(Error::new(Code::InvalidArgument, format!("the backup has a foreign entry: {name:?}")));
        }
        keys |= name == Path::new(FILES[0]);
        let size = entry.size();
        let written = write(&mut entry, &to.join(&name), expected(&name)).map_err(damaged)?;
        if written != size {
            return Err(damaged(ErrorKind::UnexpectedEof.into()));
        }
    }
    if keys { Ok(()) } else { Err(Error::new(Code::InvalidArgument, "the backup is cut off: it has no keys")) }
}

/// Whether a backup may hold a file of this name.
fn belongs(name: &Path) -> bool {
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    plain
        && (FILES.iter().chain(&DATABASES).any(|known| name == Path::new(known))
            || BLOBS.iter().any(|dir| name.starts_with(dir)))
}

/// The digest, in hex, that a blob's name promises.
fn expected(name: &Path) -> Option<&str> {
    BLOBS.iter().any(|dir| name.starts_with(Path::new(dir).join("sha256"))).then(|| name.file_name()?.to_str())?
}

fn write(from: &mut impl Read, to: &Path, digest: Option<&str>) -> io::Result<u64> {
    if let Some(dir) = to.parent() {
        private_dir(dir)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(to)?;
    let (mut hasher, mut total, mut buffer) = (Hasher::new(), 0, vec![0; 256 << 10]);
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
        total += n as u64;
    }
    if digest.is_some_and(|digest| digest != hasher.finish().hex()) {
        return Err(io::Error::new(ErrorKind::InvalidData, "a blob is not what its name says"));
    }
    file.sync_all()?;
    Ok(total)
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
