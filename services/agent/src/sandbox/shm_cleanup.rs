//! Shared memory that an agent leaves behind in the machine's `/dev/shm`, where it outlives everybody.

use hoistway_confine::RunAs;
use hoistway_confine::remove_tree;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Removes everything in `dir` that is `user`'s, none of whose processes are left. Best effort: what cannot be removed
/// is written to the log, and is nobody's worry but the machine's memory.
pub(super) fn sweep(dir: &Path, user: RunAs) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        // Of the link itself, not of what it leads to.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.uid() != user.uid {
            continue;
        }
        let removed = if meta.is_dir() { remove_tree(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "cannot remove what an agent left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_users_shared_memory_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        let swept = tempfile::tempdir().unwrap();
        fs::create_dir(swept.path().join("sub")).unwrap();
        fs::write(swept.path().join("sub/file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, swept.path().join("link")).unwrap();
        let own = fs::metadata(swept.path()).unwrap().uid();
        sweep(swept.path(), RunAs { uid: own.wrapping_add(1), gid: 0 });
        assert_eq!(fs::read_dir(swept.path()).unwrap().count(), 2);
        sweep(swept.path(), RunAs { uid: own, gid: 0 });
        assert_eq!(fs::read_dir(swept.path()).unwrap().count(), 0);
        assert!(kept.join("file").exists());
    }
}
