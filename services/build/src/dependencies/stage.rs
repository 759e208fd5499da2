//! A directory in which packages are put together before they are layers.

use crate::python::CacheUse;
use std::{
    io::{self, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};
use tempfile::TempDir;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};

/// A scratch directory, with its place among those that there may be, and the wheels in the installer's cache. When the
/// last one who shares it is done, it is removed in the background, since thousands of files take their time; its place
/// is taken until then.
#[derive(Debug)]
pub struct Stage {
    held: Option<(TempDir, OwnedSemaphorePermit)>,
    _cache: CacheUse,
    abandoned: AtomicBool,
}

impl Stage {
    /// A new directory below `work`. Blocks.
    pub fn new(work: &Path, place: OwnedSemaphorePermit, cache: CacheUse) -> io::Result<Self> {
        let dir = tempfile::tempdir_in(work)?;
        Ok(Self { held: Some((dir, place)), _cache: cache, abandoned: AtomicBool::new(false) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.held.as_ref().map_or(Path::new(""), |(dir, _)| dir.path())
    }

    /// Nobody wants what is still being made of it: its build has ended.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let held = self.held.take();
        // The directory goes first, and then the place.
        let remove = move || drop(held);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// What is made of a stage, as long as somebody wants it: whoever writes it is told when nobody does.
pub struct WhileWanted<'a, W> {
    pub stage: &'a Stage,
    pub out: W,
}

impl<W: Write> Write for WhileWanted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stage.abandoned.load(Ordering::Acquire) {
            true => Err(io::Error::other("the build has ended")),
            false => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use tokio::sync::{RwLock, Semaphore};

    #[tokio::test]
    async fn its_place_is_free_when_the_last_who_shares_it_is_done_and_it_is_removed() {
        let (work, places) = (tempfile::tempdir().unwrap(), Arc::new(Semaphore::new(1)));
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let cache = Arc::new(RwLock::new(()));
        let stage = Arc::new(Stage::new(work.path(), place, Arc::clone(&cache).read_owned().await).unwrap());
        let path = stage.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        let packing = Arc::clone(&stage);
        // As when the build is cancelled.
        stage.abandon();
        drop(stage);
        assert_eq!((places.available_permits(), path.exists()), (0, true));
        assert!(cache.try_write().is_err(), "the wheels that are read stay");
        let mut out = WhileWanted { stage: &packing, out: Vec::new() };
        assert_eq!(out.write_all(b"x").unwrap_err().to_string(), "the build has ended");
        drop(packing);
        drop(places.acquire().await.unwrap());
        assert!(!path.exists());
    }
}
