//! Copies of directories that agents may modify.

use crate::spec::RunAs;
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use std::fs::{self, DirBuilder, Permissions};
use std::io::Result;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The disk usage of the smallest file, in bytes.
const BLOCK: u64 = 4096;

/// The disk usage of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// In whole blocks.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

/// Adds up the contents of a directory, without following links. Blocks.
pub fn size(dir: &Path) -> Result<Size> {
    let (mut size, mut todo) = (Size::default(), vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            size.entries += 1;
            size.bytes = size.bytes.saturating_add(meta.len().max(1).div_ceil(BLOCK).saturating_mul(BLOCK));
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(size)
}

/// Copies the contents of `from` into the new directory `to`. All of it is writable and finally owned by `user`; until
/// then no other user can enter. Anything but files, directories and links is left out. Blocks.
pub fn copy(from: &Path, to: &Path, user: Option<RunAs>) -> Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    fill(from, to, user)
}

/// The same for a directory `to` that is there, is empty, and that nobody else can reach.
pub fn fill(from: &Path, to: &Path, user: Option<RunAs>) -> Result<()> {
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(from.join(&dir))? {
            let entry = entry?;
            let (kind, source, inside) = (entry.file_type()?, entry.path(), dir.join(entry.file_name()));
            let target = to.join(&inside);
            if kind.is_symlink() {
                symlink(fs::read_link(source)?, &target)?;
            } else if kind.is_dir() {
                fs::create_dir(&target)?;
                fs::set_permissions(&target, Permissions::from_mode(0o755))?;
                todo.push(inside);
            } else if kind.is_file() {
                fs::copy(source, &target)?;
                let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
                fs::set_permissions(&target, Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
            } else {
                continue;
            }
            give(&target, user)?;
        }
    }
    give(to, user)
}

fn give(path: &Path, user: Option<RunAs>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    Ok(chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_copy_may_be_changed_and_leaves_the_original_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        for (name, mode) in [("agent.py", 0o444), ("deep/run.sh", 0o555)] {
            fs::write(from.join(name), name).unwrap();
            fs::set_permissions(from.join(name), Permissions::from_mode(mode)).unwrap();
        }
        symlink("agent.py", from.join("link")).unwrap();
        symlink("/nowhere", from.join("deep/dangling")).unwrap();
        fs::set_permissions(from.join("deep"), Permissions::from_mode(0o555)).unwrap();

        copy(&from, &to, None).unwrap();
        assert_eq!(size(&to).unwrap(), Size { bytes: 6 * BLOCK, entries: 6 });
        let modes = ["", "agent.py", "deep", "deep/run.sh"].map(|name| mode(&to.join(name)));
        assert_eq!(modes, [0o700, 0o644, 0o755, 0o755]);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("agent.py"));
        assert_eq!(fs::read_link(to.join("deep/dangling")).unwrap(), Path::new("/nowhere"));
        fs::write(to.join("link"), "changed").unwrap();
        assert_eq!(fs::read_to_string(to.join("agent.py")).unwrap(), "changed");
        assert_eq!(fs::read_to_string(from.join("agent.py")).unwrap(), "agent.py");
        assert!(copy(&from, &to, None).is_err(), "only into a new directory");
    }
}
