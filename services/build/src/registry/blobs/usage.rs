//! Which blobs are in use without any link in the database saying so yet, so that garbage collection leaves them alone.
//!
//! Every blob's modification time is when it was last stored or requested, and what is younger than the grace time
//! stays. Work that needs its blobs for longer, or until something is committed, holds a [`Lease`]: what it has asked
//! for stays until the lease ends, however long that takes.

use super::BlobStore;
use hoistway_model::{Digest, Error, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use std::{
    collections::{BTreeMap, HashSet},
    io::{self, ErrorKind},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Some file systems keep times of whole seconds or two.
const COARSEST: Duration = Duration::from_secs(2);

/// Held while a blob is looked at and touched, named, or removed, so that none of them comes between the steps of
/// another.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pinned: HashSet<Digest>,
    /// When each lease began.
    leases: BTreeMap<u64, SystemTime>,
    next: u64,
}

impl Usage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps every blob that is stored or requested from now on, until it is dropped.
#[must_use = "the blobs are kept for as long as this lives"]
#[derive(Debug)]
pub struct Lease {
    store: BlobStore,
    id: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.0.usage.lock().leases.remove(&self.id);
    }
}

impl BlobStore {
    /// Whether the blob is here. If it is, it stays for the grace time at least, or as long as a lease that the caller
    /// holds.
    pub fn contains(&self, digest: &Digest) -> bool {
        let path = self.path(digest);
        let _one_at_a_time = self.0.usage.lock();
        match touch(&path) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(_) => path.exists(),
        }
    }

    /// The blob's size, if it is here; it stays as with [`BlobStore::contains`].
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        if !self.contains(digest) {
            return Ok(None);
        }
        let found = std::fs::metadata(self.path(digest)).map_err(|e| Error::internal("looking at a blob", e))?;
        Ok(Some(found.len()))
    }

    /// Begins a lease.
    pub fn lease(&self) -> Lease {
        let mut state = self.0.usage.lock();
        let id = state.next;
        state.next += 1;
        let now = SystemTime::now();
        state.leases.insert(id, now.checked_sub(COARSEST).unwrap_or(now));
        Lease { store: self.clone(), id }
    }

    /// Keeps a blob for as long as this process runs.
    pub fn pin(&self, digest: Digest) {
        self.0.usage.lock().pinned.insert(digest);
    }

    /// Gives a blob its name.
    pub(super) fn named<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _one_at_a_time = self.0.usage.lock();
        work()
    }

    /// Blobs that were used before this moment are not in use: `grace` ago, or when the oldest lease began.
    pub(in crate::registry) fn unused_before(&self, grace: Duration) -> SystemTime {
        let now = SystemTime::now();
        let grace = now.checked_sub(grace).unwrap_or(UNIX_EPOCH);
        let state = self.0.usage.lock();
        state.leases.values().copied().chain([grace]).min().unwrap_or(grace)
    }

    /// Blobs that were used before this moment last.
    pub(in crate::registry) fn stale(&self, before: SystemTime) -> Result<Vec<Digest>> {
        let failed = |e: io::Error| Error::internal("listing blobs", e);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.0.blobs).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(Ok(digest)) = entry.file_name().to_str().map(|hex| format!("sha256:{hex}").parse()) else {
                continue;
            };
            let used = entry.metadata().and_then(|m| m.modified());
            if used.is_ok_and(|used| used < before) {
                found.push(digest);
            }
        }
        let state = self.0.usage.lock();
        found.retain(|digest| !state.pinned.contains(digest));
        Ok(found)
    }

    /// Removes a blob that no repository has, unless it was used since that moment; its size if it is gone.
    pub(in crate::registry) fn remove_stale(&self, digest: &Digest, before: SystemTime) -> Result<Option<u64>> {
        let path = self.path(digest);
        let state = self.0.usage.lock();
        let used = match std::fs::metadata(&path) {
            Ok(meta) => meta.modified().map(|used| (used, meta.len())),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => Err(e),
        };
        let (used, size) = used.map_err(|e| Error::internal("removing a blob", e))?;
        if used >= before || state.pinned.contains(digest) {
            return Ok(None);
        }
        std::fs::remove_file(&path).map_err(|e| Error::internal("removing a blob", e))?;
        Ok(Some(size))
    }
}

/// Sets the modification time to now. The kernel's own idea of now is a few milliseconds behind, which would make a
/// blob look older than a lease that began before it.
fn touch(path: &Path) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let modified =
        Timespec { tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(now.subsec_nanos()) };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified };
    utimensat(CWD, path, &times, AtFlags::empty()).map_err(Into::into)
}
