//! Copies of an installation's databases and blobs, made while it runs.
//!
//! The databases written by a deploy's last steps are copied first: whatever the copy of one of them refers to is in
//! the copies made after it. Steps that are not yet in the copy of the journal are repeated by recovery, which is safe.

use super::keys::Keys;
use crate::{
    archive::{BLOBS, failed},
    rotate,
    services::{SERVICES, Service},
};
use hoistway_kit::{db, fs::DirLock};
use hoistway_model::{Error, Result};
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// Copies of what belongs together. They are removed when it is dropped.
pub struct Snapshot {
    /// The content of a key file that opens all secrets in the databases' copies.
    pub keys: Vec<u8>,
    /// The name of each database, and its copy.
    pub databases: Vec<(String, PathBuf)>,
    copies: Copies,
    data_dir: PathBuf,
}

impl Snapshot {
    /// Copies the databases of a data directory with SQLite files.
    pub async fn take(dir: &Path) -> Result<Self> {
        let copy = async |service: &Service, to: &Path| {
            let from = dir.join(service.database());
            match from.is_file() {
                true => db::snapshot(&from, to).await.map(|()| true),
                false => Ok(false),
            }
        };
        Self::take_with(dir, copy).await
    }

    /// Copies the databases with `copy`, which makes the copy of a service's and returns whether there is one.
    pub async fn take_with(
        dir: &Path,
        mut copy: impl AsyncFnMut(&'static Service, &Path) -> Result<bool>,
    ) -> Result<Self> {
        let copies = Copies::make(dir)?;
        // The blobs are linked both before and after the databases are copied: blobs that the registry's copy refers to
        // were there when it was made.
        let copies = hold(copies, dir.to_owned()).await?;
        let mut keys = Keys::new(rotate::key_file(dir));
        let mut databases = Vec::new();
        for service in &SERVICES {
            let (to, mut is_there) = (copies.dir.join(copy_of(service)), false);
            keys.while_copying(async || {
                remove_if_there(&to).map_err(failed("removing an old copy"))?;
                is_there = copy(service, &to).await?;
                Ok(())
            })
            .await?;
            if is_there {
                databases.push((service.database(), to));
            }
        }
        let keys = keys.all()?;
        let copies = hold(copies, dir.to_owned()).await?;
        Ok(Self { keys, databases, copies, data_dir: dir.to_owned() })
    }

    /// Returns the directory of the registry's blobs.
    pub fn blobs(&self) -> PathBuf {
        let dir = if self.copies.holds { &self.copies.dir } else { &self.data_dir };
        dir.join(BLOBS)
    }
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
        for service in &SERVICES {
            remove_if_there(&dir.join(copy_of(service))).map_err(failed("removing an old copy"))?;
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
        copies.holds = copies.holds && link_tree(&dir.join(BLOBS), &copies.dir.join(BLOBS)).is_ok();
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

fn copy_of(service: &Service) -> String {
    service.database().replace('/', "-")
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
