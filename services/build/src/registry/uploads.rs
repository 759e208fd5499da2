//! Uploads in progress: a file that grows by one request after the other, with its digest computed on the way.
//!
//! The task that takes a body in is not the request's own: a client that goes away ends the body, never the task, so
//! file, length and hash always agree and the next request goes on where the last one got. What is in the file counts:
//! after a restart, or when a task was cut off after all, the length is the file's and the hash is computed anew. No
//! flush is needed for that, since a wrong byte would show in the digest at the end.

use super::{
    blobs::{BlobStore, StagedBlob, storing},
    error::{ErrorCode, Refusal},
    name::RepoName,
    upload_files::{self, UploadFiles},
};
use axum::body::Body;
use futures_util::StreamExt;
use hoistway_model::{Digest, digest::Hasher};
use serde_json::json;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tempfile::TempPath;
use tokio::{
    io::{AsyncWriteExt, BufWriter},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use uuid::Uuid;

/// The number of uploads that may be open, most of them waiting for their client's next request.
const MAX_OPEN: usize = 1024;
/// When [`MAX_OPEN`] are open, those that waited this long make room.
const MAKE_ROOM_AFTER: Duration = Duration::from_secs(600);
/// The time that a client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(60);
/// The time that one body may take in all: what a very slow line needs for a very large layer.
const BODY_TIME: Duration = Duration::from_secs(6 * 3600);
/// The disk is looked at again after so many bytes.
const CHECK_DISK_EVERY: u64 = 64 << 20;

/// The bounds that uploads are held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The largest blob.
    pub(super) max_blob_bytes: u64,
    /// The number of bodies that are taken in at a time.
    pub(super) max_concurrent: usize,
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

/// The bytes that were received so far.
pub(super) struct Upload {
    place: Place,
    /// Absent when it has to be computed from the file.
    hasher: Option<Hasher>,
    len: u64,
    touched: SystemTime,
    /// Bytes since the disk was last looked at.
    unchecked: u64,
}

/// Where the bytes are.
enum Place {
    /// A file that goes away with the request.
    Staged(TempPath),
    /// A file that stays until the upload ends.
    Kept(UploadFiles),
}

impl Upload {
    fn new(place: Place) -> Self {
        Self { place, hasher: Some(Hasher::new()), len: 0, touched: SystemTime::now(), unchecked: 0 }
    }

    /// An upload as its file says. Blocks.
    fn found(files: UploadFiles) -> Self {
        let (len, touched) = files.measure();
        Self { place: Place::Kept(files), hasher: None, len, touched, unchecked: 0 }
    }

    /// The number of bytes that were received.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        match &self.place {
            Place::Staged(path) => path,
            Place::Kept(files) => files.data(),
        }
    }

    /// Ends the upload as a blob, if its digest is the one that its client says. Blocks.
    pub(super) fn finish(self, expected: &Digest) -> Result<StagedBlob, Refusal> {
        let path = match self.place {
            Place::Staged(path) => path,
            Place::Kept(files) => files.take().map_err(storing)?,
        };
        let digest = match self.hasher {
            Some(hasher) => hasher.finish(),
            None => upload_files::hash(&path, self.len).map_err(storing)?.finish(),
        };
        if digest != *expected {
            return Err(Refusal::new(ErrorCode::DigestInvalid, format!("the content is {digest}, not {expected}"))
                .detail(json!({ "digest": expected })));
        }
        Ok(StagedBlob::hashed(path, digest, self.len)?)
    }
}

/// An upload that one request works on. Dropped in the middle of the work, it is left as its file says.
pub(super) struct Held {
    uploads: Arc<Uploads>,
    id: Uuid,
    upload: Option<Upload>,
}

impl Held {
    /// The number of bytes that were received.
    pub(super) fn len(&self) -> u64 {
        self.upload.as_ref().map_or(0, Upload::len)
    }

    /// Leaves the upload to the next request.
    pub(super) fn put_back(mut self) {
        let upload = self.upload.take();
        if let Some(session) = self.uploads.sessions().get_mut(&self.id) {
            session.upload = upload;
        }
    }

    /// Takes the upload out for good; nothing when it is over already.
    pub(super) fn into_upload(mut self) -> Option<Upload> {
        self.uploads.sessions().remove(&self.id);
        self.upload.take()
    }

    /// Gives the upload up.
    pub(super) async fn end(self) -> Result<(), Refusal> {
        super::blocking(move || {
            if let Some(Upload { place: Place::Kept(files), .. }) = self.into_upload() {
                files.remove();
            }
            Ok::<_, Refusal>(())
        })
        .await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(Upload { place: Place::Kept(files), .. }) = self.upload.take()
            && let Some(session) = self.uploads.sessions().get_mut(&self.id)
        {
            session.upload = Some(Upload::found(files));
        }
    }
}

/// A body that is being taken in counts against the limit for as long as this lives.
pub(super) type BodySlot = OwnedSemaphorePermit;

impl Uploads {
    /// With the uploads that an earlier process left. Blocks.
    pub(super) fn open(store: BlobStore, limits: Limits) -> hoistway_model::Result<Self> {
        let found = UploadFiles::find(store.uploads_dir());
        let found = found.map_err(|e| hoistway_model::Error::internal("looking for unfinished uploads", e))?;
        let session = |(repo, files)| Session { repo, upload: Some(Upload::found(files)) };
        let open = Mutex::new(found.into_iter().map(|(id, found)| (id, session(found))).collect());
        Ok(Self { store, limits, bodies: Arc::new(Semaphore::new(limits.max_concurrent)), open })
    }

    /// A place for one more body.
    pub(super) fn slot(&self) -> Result<BodySlot, Refusal> {
        self.bodies.clone().try_acquire_owned().map_err(|_| Refusal::busy("too many uploads at a time"))
    }

    /// A new upload that only its maker knows.
    pub(super) async fn create(&self) -> Result<Upload, Refusal> {
        let store = self.store.clone();
        super::blocking(move || {
            store.check_space()?;
            Ok::<_, Refusal>(Upload::new(Place::Staged(store.temp_path()?)))
        })
        .await
    }

    /// A new upload that requests may come back to, also after a restart.
    pub(super) async fn open_session(&self, repo: &RepoName) -> Result<Uuid, Refusal> {
        if self.sessions().len() >= MAX_OPEN && self.purge(MAKE_ROOM_AFTER).await? == 0 {
            return Err(Refusal::busy("too many unfinished uploads"));
        }
        let id = Uuid::now_v7();
        let (store, name) = (self.store.clone(), repo.clone());
        let upload = super::blocking(move || {
            store.check_space()?;
            let files = UploadFiles::create(store.uploads_dir(), id, &name).map_err(storing)?;
            Ok::<_, Refusal>(Upload::new(Place::Kept(files)))
        });
        let upload = Some(upload.await?);
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
        let upload = Some(session.upload.take().ok_or_else(busy)?);
        drop(sessions);
        Ok(Held { uploads: self.clone(), id: key, upload })
    }

    /// Ends uploads that nobody wrote to for this long; how many there were.
    pub(super) async fn purge(&self, older_than: Duration) -> hoistway_model::Result<usize> {
        let now = SystemTime::now();
        let idle = |upload: &Upload| now.duration_since(upload.touched).unwrap_or_default() >= older_than;
        let ended: Vec<Session> = {
            let mut sessions = self.sessions();
            sessions.extract_if(|_, session| session.upload.as_ref().is_some_and(idle)).map(|(_, s)| s).collect()
        };
        let removing = tokio::task::spawn_blocking(move || {
            let count = ended.len();
            for session in ended {
                if let Some(Upload { place: Place::Kept(files), .. }) = session.upload {
                    files.remove();
                }
            }
            count
        });
        removing.await.map_err(|e| hoistway_model::Error::internal("removing unfinished uploads", e))
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
    pub(super) async fn check_space(&self) -> Result<(), Refusal> {
        let store = self.store.clone();
        super::blocking(move || store.check_space()).await
    }

    /// Appends a body to an upload that is held. What came before a failure of the client, or before the disk was
    /// full, stays and counts; a body that makes the blob too large ends the upload.
    pub(super) async fn append(&self, mut held: Held, body: Body) -> Result<Held, Refusal> {
        let Some(upload) = &mut held.upload else { return Ok(held) };
        match self.fill(upload, body).await {
            Ok(()) => Ok(held),
            Err(Stop::Client(refusal)) => {
                held.put_back();
                Err(refusal)
            }
            Err(Stop::Upload(refusal)) => {
                held.end().await?;
                Err(refusal)
            }
        }
    }

    /// Appends a body.
    pub(super) async fn fill(&self, upload: &mut Upload, body: Body) -> Result<(), Stop> {
        let failed = |e| Stop::Upload(storing(e).into());
        if upload.hasher.is_none() {
            let (path, len) = (upload.path().to_owned(), upload.len);
            let hasher = super::blocking(move || upload_files::hash(&path, len).map_err(storing));
            upload.hasher = Some(hasher.await.map_err(Stop::Upload)?);
        }
        let file = tokio::fs::OpenOptions::new().append(true).create(true).open(upload.path()).await.map_err(failed)?;
        // Pieces as they come off the socket are small; this makes few writes of them.
        let mut file = BufWriter::with_capacity(256 << 10, file);
        let received = self.receive(upload, body, &mut file).await;
        file.flush().await.map_err(failed)?;
        upload.touched = SystemTime::now();
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
        let until = Instant::now() + BODY_TIME;
        loop {
            let piece = timeout_at(until, timeout(SILENCE, stream.next())).await;
            let bytes = match piece.unwrap_or_else(Err) {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(_))) => return Err(cut("the request ended before its body was complete", 400)),
                Ok(None) => return Ok(()),
                Err(_) => return Err(cut("the client was silent for too long, or much too slow", 408)),
            };
            let len = upload.len + bytes.len() as u64;
            self.check_size(len).map_err(Stop::Upload)?;
            upload.unchecked += bytes.len() as u64;
            if upload.unchecked >= CHECK_DISK_EVERY {
                upload.unchecked = 0;
                self.check_space().await.map_err(Stop::Client)?;
            }
            // Hashed right here and not on another thread: SHA-256 runs at a gigabyte a second or more with the
            // processor's own instructions, so 64 KiB take less than handing them over and back would.
            for piece in bytes.chunks(64 << 10) {
                if let Some(hasher) = &mut upload.hasher {
                    hasher.update(piece);
                }
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
    /// The client's doing, or the disk's: what came in is good.
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
