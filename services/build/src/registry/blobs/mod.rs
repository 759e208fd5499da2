//! Blobs on disk: `ROOT/blobs/sha256/HEX`, one flat directory, so that one flush of it makes any number of new blobs
//! durable. A file gets its final name only when its digest was computed from the very bytes that were written and
//! after they were flushed, so a name there is a proof. Files that are being written are in `ROOT/staging`, uploads
//! that clients come back to in `ROOT/uploads`. Everything in here blocks: call it from `spawn_blocking`.

mod usage;

pub use usage::Lease;

use hoistway_kit::fs;
use hoistway_model::{Code, Digest, Error, Result, digest::Hasher};
use std::{
    fmt,
    fs::File,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};
use tempfile::TempPath;
use usage::Usage;

/// The tracing target that every flush to disk is logged under; tests count these events.
const FSYNC: &str = "hoistway::fsync";

/// The number of files that are flushed at the same time.
const FLUSHED_AT_ONCE: usize = 8;

/// The blobs of one installation. Clones share it.
#[derive(Debug, Clone)]
pub struct BlobStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    staging: PathBuf,
    uploads: PathBuf,
    /// Whether names were added since the directory was last flushed.
    unflushed: Mutex<bool>,
    usage: Usage,
    space: Space,
}

/// The part of the disk that is left to others.
#[derive(Clone)]
pub struct Space {
    /// The free bytes under which nothing more is taken in.
    pub keep_free: u64,
    /// Tells the free bytes at a path.
    pub free: fn(&Path) -> io::Result<u64>,
}

impl Space {
    /// The low-water mark `keep_free` on what the file system says.
    pub fn keep_free(keep_free: u64) -> Self {
        Self { keep_free, free: fs::free_bytes }
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("keep_free", &self.keep_free).finish()
    }
}

impl BlobStore {
    /// Opens the store below `root`, which is made when it is not there. What an earlier process left half written is
    /// removed; unfinished uploads stay.
    pub fn open(root: &Path, space: Space) -> Result<Self> {
        let failed = |e: io::Error| Error::internal(&format!("opening {}", root.display()), e);
        let (blobs, staging, uploads) = (root.join("blobs/sha256"), root.join("staging"), root.join("uploads"));
        for dir in [&blobs, &staging, &uploads] {
            fs::private_dir(dir).map_err(failed)?;
        }
        purge(&staging, Duration::ZERO).map_err(failed)?;
        // Files that a former process renamed without flushing are made durable now, and so are the directories
        // themselves.
        for dir in [&blobs, &root.join("blobs"), &root.to_path_buf()] {
            flush_dir(dir).map_err(failed)?;
        }
        let (unflushed, usage) = (Mutex::new(false), Usage::default());
        Ok(Self(Arc::new(Inner { blobs, staging, uploads, unflushed, usage, space })))
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.0.blobs.join(digest.hex())
    }

    /// Opens a blob for reading, with its size; nothing when it is not here.
    pub fn read(&self, digest: &Digest) -> Result<Option<(File, u64)>> {
        let opened = File::open(self.path(digest)).and_then(|file| file.metadata().map(|m| (file, m.len())));
        match opened {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::internal("opening a blob", e)),
        }
    }

    /// Stores one blob, durably.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        let mut batch = self.batch();
        let digest = batch.put_bytes(bytes)?;
        batch.commit()?;
        Ok(digest)
    }

    /// Begins a batch: one flush for each new file and one for the directory, however many blobs.
    pub fn batch(&self) -> Batch {
        Batch { store: self.clone(), staged: Vec::new() }
    }

    /// Begins a blob whose digest is computed while it is written.
    pub fn writer(&self) -> Result<BlobWriter> {
        let (file, path) = self.temp_file()?;
        Ok(BlobWriter { file, path, hasher: Hasher::new(), size: 0 })
    }

    /// Makes the names of all blobs durable; free when no name is new.
    pub fn sync(&self) -> Result<()> {
        let mut unflushed = self.lock();
        if *unflushed {
            flush_dir(&self.0.blobs).map_err(storing)?;
            *unflushed = false;
        }
        Ok(())
    }

    /// Refuses to go on when the disk is nearly full.
    pub fn check_space(&self) -> Result<()> {
        let free = (self.0.space.free)(&self.0.uploads);
        let free = free.map_err(|e| Error::internal("asking for free disk space", e))?;
        self.check_free("the registry's disk", free, "agents and images")
    }

    /// Refuses to go on when a disk has fewer free bytes than are to be kept free. What is deleted to make room is
    /// named for the user.
    pub fn check_free(&self, disk: &str, free: u64, deletable: &str) -> Result<()> {
        let keep_free = self.0.space.keep_free;
        if free >= keep_free {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let text = format!(
            "{disk} is nearly full: {} MiB are free and {} MiB are to be kept free; make room, or delete {deletable} \
             that nobody needs",
            mib(free),
            mib(keep_free)
        );
        Err(Error::new(Code::InsufficientStorage, text))
    }

    /// Removes half-written files that nobody wrote to for this long; how many there were.
    pub fn purge_staging(&self, older_than: Duration) -> Result<usize> {
        purge(&self.0.staging, older_than).map_err(|e| Error::internal("removing half-written files", e))
    }

    /// Where uploads that clients come back to are.
    pub(super) fn uploads_dir(&self) -> &Path {
        &self.0.uploads
    }

    /// A new, empty and private file among the unfinished ones; it goes away unless it is stored.
    pub(super) fn temp_path(&self) -> Result<TempPath> {
        Ok(self.temp_file()?.1)
    }

    fn temp_file(&self) -> Result<(File, TempPath)> {
        let made = tempfile::Builder::new().prefix("").rand_bytes(16).tempfile_in(&self.0.staging);
        Ok(made.map_err(storing)?.into_parts())
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blobs that are stored together. What is not committed is removed.
#[must_use = "nothing is stored before commit"]
pub struct Batch {
    store: BlobStore,
    staged: Vec<StagedBlob>,
}

impl Batch {
    /// Adds a blob; what is here already is not written again.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.store.contains(&digest) {
            let (mut file, path) = self.store.temp_file()?;
            file.write_all(bytes).map_err(storing)?;
            self.staged.push(StagedBlob { file, path, digest, size: bytes.len() as u64 });
        }
        Ok(digest)
    }

    /// Adds a blob that was written with [`BlobStore::writer`].
    pub fn add(&mut self, staged: StagedBlob) -> Digest {
        let digest = staged.digest;
        self.staged.push(staged);
        digest
    }

    /// Stores everything; afterwards it survives a power cut.
    pub fn commit(self) -> Result<()> {
        let new: Vec<_> = self.staged.into_iter().filter(|blob| !self.store.contains(&blob.digest)).collect();
        flush_files(&new).map_err(storing)?;
        for blob in new {
            // Under the lock, so that whoever finds the name also finds that it is not flushed yet.
            let mut unflushed = self.store.lock();
            *unflushed = true;
            self.store
                .named(|| {
                    blob.file.set_modified(SystemTime::now())?;
                    blob.path.persist(self.store.path(&blob.digest)).map_err(|e| e.error)
                })
                .map_err(storing)?;
        }
        self.store.sync()
    }
}

/// A file that is written and hashed, and not yet stored; it goes away unless it is added to a [`Batch`].
#[derive(Debug)]
pub struct StagedBlob {
    file: File,
    path: TempPath,
    digest: Digest,
    size: u64,
}

impl StagedBlob {
    /// A finished upload whose digest was computed as its bytes came in.
    pub(super) fn hashed(path: TempPath, digest: Digest, size: u64) -> Result<Self> {
        let file = File::open(&path).map_err(storing)?;
        Ok(Self { file, path, digest, size })
    }

    /// The digest of what was written.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The number of bytes that were written.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Writes a blob and computes its digest on the way. Give it large pieces: it does not buffer.
pub struct BlobWriter {
    file: File,
    path: TempPath,
    hasher: Hasher,
    size: u64,
}

impl BlobWriter {
    /// Ends the blob.
    pub fn finish(self) -> StagedBlob {
        StagedBlob { file: self.file, path: self.path, digest: self.hasher.finish(), size: self.size }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes the files of a directory that nobody wrote to for this long.
fn purge(dir: &Path, older_than: Duration) -> io::Result<usize> {
    let now = SystemTime::now();
    let mut removed = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A file that is gone by now was finished or given up by its owner.
        let Ok(written) = entry.metadata().and_then(|m| m.modified()) else { continue };
        let idle = now.duration_since(written).unwrap_or_default();
        if idle >= older_than && std::fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Flushes files at the same time, for which a journal is written once: one after the other, each would wait for it.
fn flush_files(blobs: &[StagedBlob]) -> io::Result<()> {
    for together in blobs.chunks(FLUSHED_AT_ONCE) {
        thread::scope(|scope| {
            let begun: Vec<_> = together.iter().map(|blob| scope.spawn(|| blob.file.sync_all())).collect();
            let ended = begun.into_iter().map(|flush| flush.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())));
            ended.collect::<io::Result<()>>()
        })?;
        together.iter().for_each(|blob| flushed(&blob.digest.to_string()));
    }
    Ok(())
}

fn flush_dir(dir: &Path) -> io::Result<()> {
    fs::fsync_dir(dir)?;
    flushed(&dir.to_string_lossy());
    Ok(())
}

/// Leaves a trace of a flush, which is what a redeploy's time is made of.
fn flushed(what: &str) {
    tracing::debug!(target: FSYNC, "flushed {what}");
    #[cfg(test)]
    tests::FLUSHES.set(tests::FLUSHES.get() + 1);
}

/// A failure to write: a full disk has a code of its own, since it is the operator's to mend.
pub(crate) fn storing(e: io::Error) -> Error {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::new(Code::InsufficientStorage, "the registry's disk is full").with_source(e)
        }
        _ => Error::internal("storing a blob", e),
    }
}

#[cfg(test)]
mod tests;
