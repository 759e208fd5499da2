//! Removes files that an agent has written, however deeply nested: directories may be deeper than a path can express
//! and than recursion can follow.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, chmodat, openat, renameat_with, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    fs, io,
    path::Path,
};

/// The number of directory entries read at a time.
const AT_A_TIME: usize = 1024;

/// Removes a directory and its contents, without following links; a missing directory is not an error. No process that
/// could still change it may be alive. Blocks.
///
/// Directories in a directory of `path` are moved up into `path` before that one is removed, so that nothing is ever
/// opened but `path` and one directory in it.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let top = open(CWD, path)?;
    let mut moved: u64 = 0;
    loop {
        let entries = entries(&top)?;
        if entries.is_empty() {
            return fs::remove_dir(path);
        }
        for (name, is_dir) in entries {
            if is_dir {
                empty(&top, &name, &mut moved)?;
                gone(unlinkat(&top, &*name, AtFlags::REMOVEDIR))?;
            } else {
                gone(unlinkat(&top, &*name, AtFlags::empty()))?;
            }
        }
    }
}

/// Empties a directory of `top`: its files are removed, its directories become directories of `top`.
fn empty(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    let dir = open(top.as_fd(), name)?;
    loop {
        let entries = entries(&dir)?;
        if entries.is_empty() {
            return Ok(());
        }
        for (name, is_dir) in entries {
            if !is_dir {
                gone(unlinkat(&dir, &*name, AtFlags::empty()))?;
                continue;
            }
            // A directory without write permission for its owner cannot be moved.
            chmodat(&dir, &*name, Mode::RWXU, AtFlags::empty())?;
            loop {
                *moved += 1;
                match renameat_with(&dir, &*name, top, format!(".{moved}"), RenameFlags::NOREPLACE) {
                    Err(Errno::EXIST) => {}
                    done => break done?,
                }
            }
        }
    }
}

/// Opens a directory, which may lack permissions for its owner.
fn open<P: rustix::path::Arg + Copy>(parent: BorrowedFd<'_>, name: P) -> io::Result<OwnedFd> {
    chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Returns some entries of a directory, and whether each is a directory.
fn entries(dir: &OwnedFd) -> io::Result<Vec<(CString, bool)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)?.take(AT_A_TIME + 2) {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push((entry.file_name().to_owned(), entry.file_type() == FileType::Directory));
        }
    }
    Ok(found)
}

fn gone(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::mkdirat;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn directories_deeper_than_any_path_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app");
        fs::create_dir(&path).unwrap();
        let mut at = open(CWD, &path).unwrap();
        for _ in 0..5_000 {
            mkdirat(&at, "a", Mode::RWXU).unwrap();
            at = open(at.as_fd(), "a").unwrap();
        }
        remove_tree(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn unreadable_directories_busy_names_and_links_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, outside) = (dir.path().join("app"), dir.path().join("outside"));
        fs::create_dir_all(path.join(".1/b/.2/d")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        for name in ["file", ".1/file", ".1/b/.2/d/file"] {
            fs::write(path.join(name), "").unwrap();
        }
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, path.join(".1/link")).unwrap();
        for closed in [".1/b/.2", ".1/b", "."] {
            fs::set_permissions(path.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&path).unwrap();
        assert!(!path.exists() && outside.join("kept").exists());
        remove_tree(&path).unwrap();
    }
}
