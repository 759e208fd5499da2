//! Files that instances leave behind are moved aside at once and removed in the background: an agent may have made so
//! many files that the next start, or a deletion, would wait long for them.

use hoistway_confine::remove_tree;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use tokio::sync::Semaphore;

/// The number of directories that are removed in the background at a time; what is beyond is removed while its caller
/// waits, so that an agent that crashes again and again cannot leave more behind than is removed.
const AT_A_TIME: usize = 4;

/// The directory of what is to be removed, `DIR/gone`. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Leftovers {
    dir: Arc<Path>,
    next: Arc<AtomicU64>,
    room: Arc<Semaphore>,
}

impl Leftovers {
    /// Makes the directory. What an earlier run has left in it stays until [`Self::sweep`].
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = dir.join("gone");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let number = |entry: Result<fs::DirEntry>| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
        let taken: Vec<Option<u64>> = fs::read_dir(&dir)?.map(number).collect::<Result<_>>()?;
        let next = taken.into_iter().flatten().max().map_or(0, |last: u64| last + 1);
        Ok(Self { dir: dir.into(), next: Arc::new(next.into()), room: Arc::new(Semaphore::new(AT_A_TIME)) })
    }

    /// Takes a directory away; it is no error if it is not there. No process that could still change it may be alive.
    /// Blocks, for long only if much is being removed already, or if it cannot be moved.
    pub fn take(&self, path: &Path) -> Result<()> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else { return remove_tree(path) };
        let Some(aside) = self.put_aside(path)? else { return Ok(()) };
        // A thread of its own does not hold up the end of the program: what is left then, the next start removes.
        let removing = thread::Builder::new().name("leftovers".to_owned()).spawn({
            let aside = aside.clone();
            move || {
                remove(&aside);
                drop(room);
            }
        });
        removing.map_or_else(|_| remove_tree(&aside), |_| Ok(()))
    }

    /// Moves a directory here, or removes it where it cannot be moved. Says where it is, if there is anything.
    pub fn put_aside(&self, path: &Path) -> Result<Option<PathBuf>> {
        // Whoever moves a directory must be able to write to it, which its owner may have forbidden himself.
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(meta) if meta.is_dir() => fs::set_permissions(path, Permissions::from_mode(0o700))?,
            _ => {}
        }
        let aside = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::rename(path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(_) => remove_tree(path).map(|()| None),
        }
    }

    /// Removes in the background what is here now.
    pub fn sweep(&self) -> Result<()> {
        let left = fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        if !left.is_empty() {
            thread::Builder::new()
                .name("leftovers".to_owned())
                .spawn(move || left.iter().for_each(|path| remove(path)))?;
        }
        Ok(())
    }
}

fn remove(path: &Path) {
    if let Err(error) = remove_tree(path) {
        // They only cost space, and the next start tries again.
        tracing::warn!(%error, dir = %path.display(), "cannot remove what an agent has left behind");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::{Duration, Instant};

    fn wait_until_empty(dir: &Path) {
        let limit = Instant::now() + Duration::from_secs(30);
        while fs::read_dir(dir.join("gone")).unwrap().next().is_some() {
            assert!(Instant::now() < limit, "not removed");
            thread::yield_now();
        }
    }

    #[test]
    fn a_leftover_directory_is_moved_aside_then_removed() {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = Leftovers::open(dir.path()).unwrap();
        for round in 0..3 * AT_A_TIME {
            let path = dir.path().join("run");
            fs::create_dir_all(path.join("a/b")).unwrap();
            fs::write(path.join("a/b/file"), round.to_string()).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o500)).unwrap();
            leftovers.take(&path).unwrap();
            assert!(!path.exists());
        }
        leftovers.take(&dir.path().join("run")).unwrap();
        wait_until_empty(dir.path());
    }

    #[test]
    fn no_more_is_left_behind_than_is_being_removed() {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = Leftovers::open(dir.path()).unwrap();
        let _all = leftovers.room.try_acquire_many(AT_A_TIME as u32).unwrap();
        fs::create_dir_all(dir.path().join("run/a")).unwrap();
        leftovers.take(&dir.path().join("run")).unwrap();
        assert!(!dir.path().join("run").exists());
        assert_eq!(fs::read_dir(dir.path().join("gone")).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_removed_and_names_not_reused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("gone/7/a")).unwrap();
        fs::create_dir_all(dir.path().join("run/a")).unwrap();
        let leftovers = Leftovers::open(dir.path()).unwrap();
        assert_eq!(leftovers.put_aside(&dir.path().join("run")).unwrap(), Some(dir.path().join("gone/8")));
        leftovers.sweep().unwrap();
        wait_until_empty(dir.path());
    }
}
