//! The installer's cache on disk. Everything in here blocks.

use std::{
    fs,
    io::{ErrorKind, Result},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// A block of [`MetadataExt::blocks`].
const BLOCK: u64 = 512;

/// Empties `cache` if there are more than `most` bytes in it and nobody else uses it, which holds as long as what
/// `alone` gives; the bytes that were in it then. `make` makes an empty one.
pub fn trim<G>(
    cache: &Path,
    most: u64,
    alone: impl FnOnce() -> Option<G>,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<Option<u64>> {
    let gone = cache.with_extension("gone");
    // Files that an earlier call did not remove.
    remove(&gone)?;
    let size = size(cache)?;
    if size <= most {
        return Ok(None);
    }
    let Some(alone) = alone() else { return Ok(None) };
    // Moving it takes no time, deleting it does.
    fs::rename(cache, &gone)?;
    make(cache)?;
    drop(alone);
    remove(&gone)?;
    Ok(Some(size))
}

/// The bytes on disk below `dir`; what goes away meanwhile does not count.
fn size(dir: &Path) -> Result<u64> {
    let (mut bytes, mut open) = (0, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * BLOCK;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

/// Removes `dir`, if it is there.
fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cache_that_is_too_large_and_not_in_use_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("uv");
        let make = |cache: &Path| fs::create_dir(cache);
        assert_eq!(trim(&cache, 0, || Some(()), make).unwrap(), None, "there is none yet");
        fs::create_dir_all(cache.join("wheels")).unwrap();
        fs::create_dir(dir.path().join("uv.gone")).unwrap();
        fs::write(cache.join("wheels/a"), [1; 100_000]).unwrap();
        assert_eq!(trim(&cache, 1 << 20, || Some(()), make).unwrap(), None);
        assert_eq!(trim(&cache, 50_000, || None::<()>, make).unwrap(), None);
        assert!(cache.join("wheels/a").exists());
        assert!(trim(&cache, 50_000, || Some(()), make).unwrap().unwrap() >= 100_000);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
