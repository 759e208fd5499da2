//! Ownership of control groups. A live installation holds a lock on the directory of its groups; the next installation
//! that starts removes the groups of dead ones, whose data directories may no longer exist.

use hoistway_model::Digest;
use std::fs::{self, File, TryLockError};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "hoistway-";
/// The number of digits of the tag after the prefix.
const DIGITS: usize = 12;
/// The number of attempts to lock a directory that another process is examining, and the pause between them.
const TRIES: usize = 400;
const PAUSE: Duration = Duration::from_millis(5);
/// Younger groups are not removed, even if unlocked: earlier versions did not lock theirs, and their agents join a
/// moment after the start.
const OLD: Duration = Duration::from_secs(600);

/// Returns the name of the directory of an installation's groups.
pub(super) fn name(dir: &Path) -> String {
    format!("{PREFIX}{}", &Digest::of(dir.as_os_str().as_encoded_bytes()).hex()[..DIGITS])
}

fn is_name(name: &str) -> bool {
    let hex = |tag: &str| tag.len() == DIGITS && tag.bytes().all(|b| b.is_ascii_hexdigit());
    name.strip_prefix(PREFIX).is_some_and(hex)
}

/// The locked directories of one installation's groups. Dropping it removes those that are empty.
#[derive(Debug)]
pub(super) struct Claim(Vec<(PathBuf, File)>);

impl Claim {
    /// Creates and locks these directories. A directory that is named twice is locked once.
    pub fn new<'a>(dirs: impl Iterator<Item = &'a PathBuf>) -> Result<Self> {
        let mut claim = Self(Vec::new());
        for dir in dirs {
            if claim.0.iter().all(|(held, _)| held != dir) {
                claim.0.push((dir.clone(), hold(dir)?));
            }
        }
        Ok(claim)
    }

    /// Removes sibling groups of dead installations, but not those with processes.
    pub fn sweep_abandoned(&self) {
        for (own, _) in &self.0 {
            for dir in own.parent().map(directories).unwrap_or_default() {
                let ours = dir.file_name().and_then(|name| name.to_str()).is_some_and(is_name);
                if ours && dir != *own && is_old(&dir) {
                    abandon(&dir);
                }
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for (dir, held) in &self.0 {
            // The exclusive lock shows that no other holder is left. Otherwise the others continue.
            if held.try_lock().is_ok() {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}

/// Creates and locks the directory.
fn hold(dir: &Path) -> Result<File> {
    for _ in 0..TRIES {
        make(dir)?;
        let file = match File::open(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match file.try_lock_shared() {
            // It may have been removed and replaced before it was locked.
            Ok(()) if fs::metadata(dir).is_ok_and(|now| file.metadata().is_ok_and(|it| it.ino() == now.ino())) => {
                return Ok(file);
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(Error::other(format!("{} is held by somebody else", dir.display())))
}

/// Removes the empty groups of an installation, unless it is alive.
fn abandon(dir: &Path) {
    let Ok(file) = File::open(dir) else { return };
    if file.try_lock().is_err() {
        return;
    }
    for group in directories(dir).into_iter().filter(|group| is_old(group)) {
        let _ = fs::remove_dir(group);
    }
    let _ = fs::remove_dir(dir);
}

fn directories(of: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(of) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

/// Whether a group is old. The kernel may report it as younger than it is, never older.
fn is_old(dir: &Path) -> bool {
    let age = fs::metadata(dir).and_then(|meta| meta.modified()).ok().and_then(|then| then.elapsed().ok());
    age.is_some_and(|age| age > OLD)
}

/// Creates a directory unless it exists.
pub(super) fn make(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::SystemTime;

    /// Directories stand for groups, and a directory inside for a process, which prevents removal.
    fn group(path: &Path, old: bool) -> PathBuf {
        fs::create_dir_all(path).unwrap();
        if old {
            let then = SystemTime::now() - 2 * OLD;
            for dir in [path, path.parent().unwrap()] {
                File::open(dir).unwrap().set_modified(then).unwrap();
            }
        }
        path.to_owned()
    }

    #[test]
    fn only_old_and_empty_groups_of_the_gone_are_removed() {
        let top = tempfile::tempdir().unwrap();
        let at = |tag: u8| top.path().join(format!("hoistway-{tag:012x}"));
        let own = Claim::new([at(1)].iter()).unwrap();
        let alive = Claim::new([at(2), at(2)].iter()).unwrap();
        let kept = [
            group(&at(1).join("run"), true),
            group(&at(2).join("run"), true),
            group(&at(3).join("run"), false),
            group(&at(4).join("run/process"), true),
            group(&top.path().join("hoistway-else/run"), true),
            group(&top.path().join("system.slice/run"), true),
        ];
        group(&at(4), true);
        let gone = [group(&at(5).join("run"), true), group(&at(6), true)];
        group(&at(5), true);
        own.sweep_abandoned();
        for path in &kept {
            assert!(path.exists(), "{path:?}");
        }
        for path in &gone {
            assert!(!path.exists(), "{path:?}");
        }
        assert!(!at(5).exists());
        drop(alive);
        group(&at(2).join("run"), true);
        own.sweep_abandoned();
        assert!(!at(2).exists());
    }

    #[test]
    fn the_last_who_holds_a_directory_removes_it() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join(name(Path::new("/somewhere")));
        assert!(is_name(dir.file_name().unwrap().to_str().unwrap()));
        let (one, other) = (Claim::new([&dir].into_iter()).unwrap(), Claim::new([&dir].into_iter()).unwrap());
        drop(one);
        assert!(dir.exists());
        drop(other);
        assert!(!dir.exists());
        // A directory that another process examines is locked as soon as that one releases it.
        fs::create_dir(&dir).unwrap();
        let looking = File::open(&dir).unwrap();
        looking.try_lock().unwrap();
        let holding = std::thread::scope(|scope| {
            let holding = scope.spawn(|| Claim::new([&dir].into_iter()));
            fs::remove_dir(&dir).unwrap();
            drop(looking);
            holding.join().unwrap()
        });
        assert!(holding.is_ok() && dir.exists());
    }
}
