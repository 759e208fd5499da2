//! Whose the files are that programs of a build write. Everything in here blocks.

use hoistway_confine::RunAs;
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The most files that are handed over one by one. A cache with more of them begins anew: that takes no time.
const MOST: usize = 500_000;

/// Gives a file, or a directory without what is in it, to a user; a symbolic link is not followed.
pub(super) fn change_owner(path: &Path, owner: Option<RunAs>) -> io::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Hands what the installer keeps below `dir` to the user that it has now: the service's own in an earlier version, or
/// another one if the directory was moved.
pub(super) fn hand_over(dir: &Path, owner: Option<RunAs>) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = owner.unwrap_or(RunAs { uid: 0, gid: 0 });
    for kept in ["cache/uv", "tools/home"] {
        let kept = dir.join(kept);
        match fs::symlink_metadata(&kept) {
            Ok(meta) if meta.uid() == owner.uid => {}
            Ok(_) if !hand_over_all(&kept, owner, MOST)? => fs::rename(&kept, kept.with_extension("gone"))?,
            Ok(_) => tracing::info!("{} has another user from now on", kept.display()),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The directory itself goes last: whatever interrupts this, the next time begins again. Says whether it was done.
fn hand_over_all(top: &Path, owner: RunAs, most: usize) -> io::Result<bool> {
    let (mut open, mut done) = (vec![top.to_owned()], 0);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            done += 1;
            if done > most {
                return Ok(false);
            }
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
            change_owner(&entry.path(), Some(owner))?;
        }
    }
    change_owner(top, Some(owner)).map(|()| true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cache_of_an_earlier_version_is_handed_over_whole_or_begins_anew() {
        if !hoistway_testing::need("root", rustix::process::geteuid().is_root(), "files are given to other users") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache/uv");
        fs::create_dir_all(cache.join("wheels/deep")).unwrap();
        fs::write(cache.join("wheels/deep/file"), "x").unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "x").unwrap();
        std::os::unix::fs::symlink(&outside, cache.join("link")).unwrap();
        let uid = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        hand_over(dir.path(), Some(RunAs { uid: 5000, gid: 5000 })).unwrap();
        for path in ["", "wheels", "wheels/deep", "wheels/deep/file", "link"] {
            assert_eq!(uid(&cache.join(path)), 5000, "{path}");
        }
        assert_eq!(uid(&outside), 0);
        // Without users of their own the service's has it again.
        hand_over(dir.path(), None).unwrap();
        assert_eq!(uid(&cache.join("wheels/deep/file")), 0);
        assert!(!hand_over_all(&cache, RunAs { uid: 5000, gid: 5000 }, 2).unwrap());
    }
}
