//! A reserve of disk space: a file of some MiB that is deleted when the disk is full and a call that frees space, such
//! as deleting an agent, cannot write its own changes. It is created again once there is space.

use crate::fs;
use hoistway_model::{Code, Result};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    fs::OpenOptions,
    future::Future,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

const PIECE: usize = 1 << 20;
/// Enough for the write-ahead logs of the databases.
const SIZE: u64 = 8 * PIECE as u64;
/// The free space from which on the file may be created.
const PLENTY: u64 = 4 * SIZE;

/// The reserve of one directory. Clones share it.
#[derive(Debug, Clone)]
pub struct Reserve(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    /// Serialises creation and release.
    turn: Mutex<()>,
}

impl Reserve {
    /// Returns the reserve in `dir`; [`Reserve::keep`] creates the file.
    pub fn new(dir: &Path) -> Self {
        Self(Arc::new(Inner { file: dir.join("reserve"), turn: Mutex::default() }))
    }

    /// Creates the file, if it does not exist and there is enough space.
    pub async fn keep(&self) {
        let inner = self.0.clone();
        match tokio::task::spawn_blocking(move || inner.make()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!("{} is not made: {e}", self.0.file.display()),
            Err(e) => tracing::debug!("{} is not made: {e}", self.0.file.display()),
        }
    }

    /// Runs work that frees space. If the disk is too full for it, releases the reserve and runs it once more.
    pub async fn for_freeing<T, F>(&self, mut work: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let done = match work().await {
            Err(e) if e.code == Code::InsufficientStorage && self.release().await => work().await,
            done => done,
        };
        if done.is_ok() {
            let reserve = self.clone();
            tokio::spawn(async move { reserve.keep().await });
        }
        done
    }

    /// Deletes the file. True if there was one.
    async fn release(&self) -> bool {
        let inner = self.0.clone();
        let released = tokio::task::spawn_blocking(move || {
            let _turn = inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
            std::fs::remove_file(&inner.file).is_ok()
        });
        let released = released.await.unwrap_or(false);
        if released {
            tracing::warn!("the disk is full: the reserve {} is given up", self.0.file.display());
        }
        released
    }
}

impl Inner {
    fn make(&self) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if std::fs::metadata(&self.file).is_ok_and(|found| found.len() == SIZE) {
            return Ok(());
        }
        let _ = std::fs::remove_file(&self.file);
        if fs::free_bytes(self.file.parent().unwrap_or(Path::new("/")))? < PLENTY {
            return Ok(());
        }
        let made = self.write();
        // A partial file would look like a complete reserve.
        made.inspect_err(|_| drop(std::fs::remove_file(&self.file)))
    }

    fn write(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(fs::PRIVATE_FILE).open(&self.file)?;
        // Random bytes, so that a file system that compresses or deduplicates reserves the space too.
        let mut piece = vec![0; PIECE];
        SystemRandom::new().fill(&mut piece).map_err(|_| io::Error::other("no random bytes"))?;
        for _ in 0..SIZE / PIECE as u64 {
            file.write_all(&piece)?;
        }
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::Error;

    #[tokio::test]
    async fn it_is_given_up_once_for_a_full_disk_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (reserve, file) = (Reserve::new(dir.path()), dir.path().join("reserve"));
        let full = || Error::new(Code::InsufficientStorage, "the disk is full");
        let mut calls = 0;
        let without = reserve.for_freeing(|| {
            calls += 1;
            async { Err::<(), _>(full()) }
        });
        assert_eq!(without.await.unwrap_err().code, Code::InsufficientStorage);
        assert_eq!(calls, 1, "there is nothing to give up");

        reserve.keep().await;
        assert_eq!(std::fs::metadata(&file).unwrap().len(), SIZE);
        let other = reserve.for_freeing(|| async { Err::<(), _>(Error::new(Code::Conflict, "no")) });
        assert_eq!(other.await.unwrap_err().code, Code::Conflict);
        assert!(file.exists());

        let still = reserve.for_freeing(|| async { Err::<(), _>(full()) });
        assert_eq!(still.await.unwrap_err().code, Code::InsufficientStorage);
        assert!(!file.exists(), "it is given up, and that was not enough");

        reserve.keep().await;
        let freed = reserve.for_freeing(|| {
            let room = !file.exists();
            async move { if room { Ok(7) } else { Err(full()) } }
        });
        assert_eq!(freed.await.unwrap(), 7);
        reserve.keep().await;
        assert_eq!(std::fs::metadata(&file).unwrap().len(), SIZE);
    }
}
