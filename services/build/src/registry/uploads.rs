//! Uploads in progress: a file that grows by one request after the other, with its digest computed on the way.
//!
//! The task that takes a body in is not the request's own: a client that goes away ends the body, never the task, so
//! file, length and hash always agree and the next request goes on where the last one got.

use super::{
    blobs::{BlobStore, StagedBlob, storing},
    error::{ErrorCode, Refusal},
    name::RepoName,
};
use axum::body::Body;
use futures_util::StreamExt;
use hoistway_model::{Digest, digest::Hasher};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tempfile::TempPath;
use tokio::{
    io::{AsyncWriteExt, BufWriter},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use uuid::Uuid;

/// How many uploads may be open, most of them waiting for their client's next request.
const MAX_OPEN: usize = 1024;
/// When [`MAX_OPEN`] are open, those that waited this long make room.
const MAKE_ROOM_AFTER: Duration = Duration::from_secs(600);
/// The time that a client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(60);
/// The disk is looked at again after so many bytes.
const CHECK_DISK_EVERY: u64 = 64 << 20;

/// The bounds that uploads are held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The largest blob.
    pub(super) max_blob_bytes: u64,
    /// How many bodies are taken in at a time.
    pub(super) max_concurrent: usize,
    /// The free disk space under which nothing more is taken in.
    pub(super) min_free_bytes: u64,
}

/// Every upload in progress.
pub(super) struct Uploads {
    store: BlobStore,
    limits: Limits,
    bodies: Arc<Semaphore>,
    open: Mutex<HashMap<Uuid, Session>>,
}

struct Session {
    repo: RepoName,
    /// Absent while a request works on it.
    upload: Option<Upload>,
}

/// What came in so far.
pub(super) struct Upload {
    path: TempPath,
    hasher: Hasher,
    len: u64,
    touched: Instant,
    /// Bytes since the disk was last looked at.
    unchecked: u64,
}

impl Upload {
    /// How many bytes are in.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Ends the upload as a blob, if its digest is the one that its client says. Blocks.
    pub(super) fn finish(self, expected: &Digest) -> Result<StagedBlob, Refusal> {
        let digest = self.hasher.finish();
        if digest != *expected {
            return Err(Refusal::new(ErrorCode::DigestInvalid, format!("the content is {digest}, not {expected}"))
                .detail(json!({ "digest": expected })));
        }
        Ok(StagedBlob::hashed(self.path, digest, self.len)?)
    }
}

/// An upload that one request works on. Dropping it ends the upload; [`Held::put_back`] keeps it for the next request.
pub(super) struct Held {
    claim: Claim,
    upload: Upload,
}

impl Held {
    /// What came in so far.
    pub(super) fn upload(&self) -> &Upload {
        &self.upload
    }

    /// Takes the upload out for good.
    pub(super) fn into_upload(self) -> Upload {
        self.upload
    }

    /// Leaves the upload to the next request.
    pub(super) fn put_back(self) {
        let Self { mut claim, upload } = self;
        claim.released = true;
        if let Some(session) = claim.uploads.sessions().get_mut(&claim.id) {
            session.upload = Some(upload);
        }
    }
}

/// The right to work on an upload; whichever way the work ends, nothing is left claimed.
struct Claim {
    uploads: Arc<Uploads>,
    id: Uuid,
    released: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.released {
            self.uploads.sessions().remove(&self.id);
        }
    }
}

/// A body that is being taken in counts against the limit for as long as this lives.
pub(super) type BodySlot = OwnedSemaphorePermit;

impl Uploads {
    pub(super) fn new(store: BlobStore, limits: Limits) -> Self {
        let bodies = Arc::new(Semaphore::new(limits.max_concurrent));
        Self { store, limits, bodies, open: Mutex::new(HashMap::new()) }
    }

    /// A place for one more body.
    pub(super) fn slot(&self) -> Result<BodySlot, Refusal> {
        self.bodies.clone().try_acquire_owned().map_err(|_| Refusal::busy("too many uploads at a time"))
    }

    /// A new upload that only its maker knows.
    pub(super) async fn create(&self) -> Result<Upload, Refusal> {
        self.check_disk().await?;
        let store = self.store.clone();
        let path = super::blocking(move || store.temp_path()).await?;
        Ok(Upload { path, hasher: Hasher::new(), len: 0, touched: Instant::now(), unchecked: 0 })
    }

    /// A new upload that requests may come back to.
    pub(super) async fn open(&self, repo: &RepoName) -> Result<Uuid, Refusal> {
        if self.sessions().len() >= MAX_OPEN && self.purge(MAKE_ROOM_AFTER) == 0 {
            return Err(Refusal::busy("too many unfinished uploads"));
        }
        let upload = Some(self.create().await?);
        let id = Uuid::now_v7();
        self.sessions().insert(id, Session { repo: repo.clone(), upload });
        Ok(id)
    }

    /// The upload `id` of a repository, for one request alone.
    pub(super) fn hold(self: &Arc<Self>, repo: &RepoName, id: &str) -> Result<Held, Refusal> {
        let unknown =
            || Refusal::new(ErrorCode::BlobUploadUnknown, "there is no such upload").detail(json!({ "id": id }));
        let key = id.parse::<Uuid>().map_err(|_| unknown())?;
        let mut sessions = self.sessions();
        let session = sessions.get_mut(&key).filter(|s| s.repo == *repo).ok_or_else(unknown)?;
        let busy = || Refusal::busy("another request to this upload is not finished");
        let upload = session.upload.take().ok_or_else(busy)?;
        Ok(Held { claim: Claim { uploads: self.clone(), id: key, released: false }, upload })
    }

    /// Ends uploads that nobody wrote to for this long; how many there were.
    pub(super) fn purge(&self, older_than: Duration) -> usize {
        let mut sessions = self.sessions();
        let before = sessions.len();
        sessions.retain(|_, session| session.upload.as_ref().is_none_or(|u| u.touched.elapsed() < older_than));
        before - sessions.len()
    }

    /// Refuses a blob that is too large.
    pub(super) fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes <= self.limits.max_blob_bytes {
            return Ok(());
        }
        let message = format!("a blob may have {} bytes", self.limits.max_blob_bytes);
        Err(Refusal::new(ErrorCode::SizeInvalid, message).status(413))
    }

    /// Refuses when the disk is nearly full.
    pub(super) async fn check_disk(&self) -> Result<(), Refusal> {
        let store = self.store.clone();
        match super::blocking(move || store.free_bytes()).await? {
            free if free >= self.limits.min_free_bytes => Ok(()),
            _ => Err(Refusal::new(ErrorCode::Unavailable, "the registry's disk is nearly full").status(507)),
        }
    }

    /// Appends a body to an upload that is held. What came before a failure of the client stays and counts; any other
    /// failure ends the upload.
    pub(super) async fn append(&self, mut held: Held, body: Body) -> Result<Held, Refusal> {
        match self.fill(&mut held.upload, body).await {
            Ok(()) => Ok(held),
            Err(Stop::Client(refusal)) => {
                held.put_back();
                Err(refusal)
            }
            Err(Stop::Upload(refusal)) => Err(refusal),
        }
    }

    /// Appends a body.
    pub(super) async fn fill(&self, upload: &mut Upload, body: Body) -> Result<(), Stop> {
        let failed = |e| Stop::Upload(storing(e).into());
        let file = tokio::fs::OpenOptions::new().append(true).open(&upload.path).await.map_err(failed)?;
        // Pieces as they come off the socket are small; this makes few writes of them.
        let mut file = BufWriter::with_capacity(256 << 10, file);
        let received = self.receive(upload, body, &mut file).await;
        file.flush().await.map_err(failed)?;
        upload.touched = Instant::now();
        received
    }

    async fn receive(
        &self,
        upload: &mut Upload,
        body: Body,
        file: &mut BufWriter<tokio::fs::File>,
    ) -> Result<(), Stop> {
        let cut = |message, status| Stop::Client(Refusal::new(ErrorCode::BlobUploadInvalid, message).status(status));
        let mut stream = body.into_data_stream();
        loop {
            let bytes = match timeout(SILENCE, stream.next()).await {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(_))) => return Err(cut("the request ended before its body was complete", 400)),
                Ok(None) => return Ok(()),
                Err(_) => return Err(cut("the client was silent for too long", 408)),
            };
            let len = upload.len + bytes.len() as u64;
            self.check_size(len).map_err(Stop::Upload)?;
            upload.unchecked += bytes.len() as u64;
            if upload.unchecked >= CHECK_DISK_EVERY {
                upload.unchecked = 0;
                self.check_disk().await.map_err(Stop::Upload)?;
            }
            // Hashed right here and not on another thread: SHA-256 runs at a gigabyte a second or more with the
            // processor's own instructions, so 64 KiB take less than handing them over and back would.
            for piece in bytes.chunks(64 << 10) {
                upload.hasher.update(piece);
                tokio::task::consume_budget().await;
            }
            file.write_all(&bytes).await.map_err(|e| Stop::Upload(storing(e).into()))?;
            upload.len = len;
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Uuid, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a body was not taken in to its end.
pub(super) enum Stop {
    /// The client's doing: what came in is good.
    Client(Refusal),
    /// The upload is over.
    Upload(Refusal),
}

impl From<Stop> for Refusal {
    fn from(stop: Stop) -> Self {
        let (Stop::Client(refusal) | Stop::Upload(refusal)) = stop;
        refusal
    }
}
