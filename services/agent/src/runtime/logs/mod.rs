//! The output of agents, kept for each agent: bounded, masked, readable while it grows and after the agent ended.
//!
//! Every line goes through one bounded channel to the agent's one writer. When that is full the reader of the agent's
//! pipe waits, the pipe fills, and the agent's own `print` waits: nothing is lost and nothing grows. Whoever reads or
//! follows asks the writer, too: so the kept lines and those to come have no gap and no line twice between them,
//! whatever is rotated meanwhile.

mod file;
mod followers;
mod sink;

pub(crate) use sink::Sink;

use super::{Masker, now_ms};
use file::{Cursor, LogFile};
use followers::{Follower, Following, follow};
use futures_util::stream;
use hoistway_kit::metrics::Counter;
use hoistway_model::{
    Code, Error, Name, Result, RevisionId,
    log::{LogLine, LogPiece, LogPieces, LogQuery},
    metric::Family,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// The pieces that may wait for one agent's writer: so many pieces, each of what was read from a pipe at a time.
const QUEUE: usize = 16;
/// The number of clients that may follow logs at a time, all agents together.
const MAX_FOLLOWERS: usize = 128;
const READING: &str = "reading the agent's log";
/// The most lines and bytes of one piece of kept lines.
const PIECE_LINES: usize = 1_000;
const PIECE_BYTES: usize = 256 << 10;

/// The amount that is kept of an agent's log. The newest lines are always among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogLimits {
    /// Bytes of each agent's log on disk; at least half of them are kept.
    pub bytes: u64,
    /// Lines of each agent's log; at least half of them are kept.
    pub lines: u64,
    /// The longest line, in bytes; what is longer is cut and says so.
    pub line_bytes: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { bytes: 8 << 20, lines: 200_000, line_bytes: 16 << 10 }
    }
}

enum Entry {
    Lines(Vec<LogLine>),
    Read(LogQuery, Option<Follower>, oneshot::Sender<io::Result<Cursor>>),
    Delete(oneshot::Sender<io::Result<()>>),
}

/// The logs of all agents, each in `DIR/<agent>/`.
pub struct LogBook {
    dir: PathBuf,
    limits: LogLimits,
    writers: Mutex<HashMap<Name, mpsc::Sender<Entry>>>,
    places: Arc<Semaphore>,
    counts: Arc<Counts>,
}

/// Counts of lines by their outcome.
struct Counts {
    lines: Counter,
    bytes: Counter,
    dropped: Counter,
}

impl LogBook {
    /// Keeps logs in `dir`.
    pub fn new(dir: PathBuf, limits: LogLimits) -> Self {
        let counts = Counts {
            lines: Counter::new("hoistway_agent_log_lines_total", "Lines that agents wrote.", &["agent"]),
            bytes: Counter::new("hoistway_agent_log_bytes_total", "Bytes of the lines that agents wrote.", &["agent"]),
            dropped: Counter::new(
                "hoistway_agent_log_dropped_bytes_total",
                "Bytes of agents' lines that could not be written to disk.",
                &["agent"],
            ),
        };
        let places = Arc::new(Semaphore::new(MAX_FOLLOWERS));
        Self { dir, limits, writers: Mutex::default(), places, counts: Arc::new(counts) }
    }

    /// Where one instance's lines go.
    pub(crate) fn sink(&self, agent: &Name, revision: RevisionId, masker: Arc<Masker>) -> Sink {
        Sink::new(self.writer(agent), revision, masker, self.limits.line_bytes)
    }

    /// The measurements.
    pub fn metrics(&self) -> Vec<Family> {
        let Counts { lines, bytes, dropped } = &*self.counts;
        vec![lines.family(), bytes.family(), dropped.family()]
    }

    fn writer(&self, agent: &Name) -> mpsc::Sender<Entry> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writers.entry(agent.clone()).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(QUEUE);
            let writer = Writer {
                agent: agent.clone(),
                file: self.file(agent),
                followers: Vec::new(),
                counts: Arc::clone(&self.counts),
            };
            tokio::spawn(write(writer, queue));
            sender
        });
        writer.clone()
    }

    fn file(&self, agent: &Name) -> LogFile {
        LogFile::new(self.dir.join(agent.as_str()), self.limits)
    }

    fn known(&self, agent: &Name) -> Option<mpsc::Sender<Entry>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).get(agent).cloned()
    }

    /// The lines of an agent that are wanted, oldest first; none for an agent that never wrote. Following them ends
    /// when the log is deleted.
    pub async fn read(&self, agent: &Name, query: LogQuery) -> Result<LogPieces> {
        let failed = |error| Error::internal(READING, error);
        let following = query.follow.then(|| self.place()).transpose()?;
        // Through the writer: so the answer holds every line that was read before, and no rotation is under way.
        let writer = if query.follow { Some(self.writer(agent)) } else { self.known(agent) };
        if let Some(writer) = writer {
            let (follower, following) = following.map(|place| follow(query.clone(), place)).unzip();
            let (answer, kept) = oneshot::channel();
            if writer.send(Entry::Read(query.clone(), follower, answer)).await.is_ok()
                && let Ok(kept) = kept.await
            {
                return Ok(pieces(kept.map_err(failed)?, following));
            }
        }
        let file = self.file(agent);
        Ok(pieces(blocking(move || file.read(&query)).await.map_err(failed)?, None))
    }

    fn place(&self) -> Result<OwnedSemaphorePermit> {
        let full = |_| Error::new(Code::ResourceExhausted, format!("{MAX_FOLLOWERS} logs are being followed already"));
        Arc::clone(&self.places).try_acquire_owned().map_err(full)
    }

    /// Deletes an agent's log. What its last processes still write is dropped.
    pub async fn remove(&self, agent: &Name) -> Result<()> {
        let failed = |error| Error::internal("deleting the agent's log", error);
        let writer = self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(agent);
        let mut deleted = None;
        if let Some(writer) = writer {
            let (answer, done) = oneshot::channel();
            if writer.send(Entry::Delete(answer)).await.is_ok() {
                deleted = done.await.ok();
            }
        }
        let deleted = match deleted {
            Some(deleted) => deleted,
            None => {
                let mut file = self.file(agent);
                blocking(move || file.delete()).await
            }
        };
        for counter in [&self.counts.lines, &self.counts.bytes, &self.counts.dropped] {
            counter.forget(agent.as_str());
        }
        deleted.map_err(failed)
    }
}

/// Kept lines in pieces, each read when it is requested: who reads slowly, or not at all, costs no memory. Then those
/// that come.
fn pieces(kept: Cursor, following: Option<Following>) -> LogPieces {
    let state = (Some(kept), following);
    Box::pin(stream::unfold(state, |(kept, mut following)| async move {
        if let Some(mut kept) = kept {
            let read = blocking(move || kept.next(PIECE_LINES, PIECE_BYTES).map(|lines| (lines, kept))).await;
            match read {
                Ok((lines, _)) if lines.is_empty() => {}
                Ok((lines, kept)) => return Some((Ok(LogPiece::Lines(lines)), (Some(kept), following))),
                Err(error) => return Some((Err(Error::internal(READING, error)), (None, None))),
            }
        }
        let piece = following.as_mut()?.next().await?;
        Some((Ok(piece), (None, following)))
    }))
}

/// The one writer of an agent's log.
struct Writer {
    agent: Name,
    file: LogFile,
    followers: Vec<Follower>,
    counts: Arc<Counts>,
}

/// Takes everything that waits and handles it in one go.
async fn write(mut writer: Writer, mut queue: mpsc::Receiver<Entry>) {
    let mut broken = false;
    loop {
        let mut batch = Vec::with_capacity(QUEUE);
        if queue.recv_many(&mut batch, QUEUE).await == 0 {
            return;
        }
        let Ok((back, written, deleted)) = tokio::task::spawn_blocking(move || {
            let (written, deleted) = writer.handle(batch);
            (writer, written, deleted)
        })
        .await
        else {
            return;
        };
        writer = back;
        match written {
            Ok(()) => broken = false,
            // A full disk must not stop agents: lines are dropped, and the operator hears of it once.
            Err(error) if !broken => {
                broken = true;
                let file = writer.file.path().display();
                tracing::error!(%error, %file, "agent log lines cannot be written and are dropped");
            }
            Err(_) => {}
        }
        if deleted {
            return;
        }
    }
}

impl Writer {
    /// Handles entries in their order; says whether the log was deleted at the end.
    fn handle(&mut self, entries: Vec<Entry>) -> (io::Result<()>, bool) {
        let mut written = Ok(());
        for entry in entries {
            match entry {
                Entry::Lines(lines) => written = self.append(&lines).and(written),
                Entry::Read(query, follower, answer) => {
                    let kept = self.file.read(&query);
                    if answer.send(kept).is_ok() {
                        self.followers.extend(follower);
                    }
                }
                Entry::Delete(answer) => {
                    let _ = answer.send(self.file.delete());
                    return (written, true);
                }
            }
        }
        (written, false)
    }

    fn append(&mut self, lines: &[LogLine]) -> io::Result<()> {
        let written = self.file.append(lines);
        let (agent, bytes) = ([self.agent.as_str()], lines.iter().map(|line| line.text.len()).sum::<usize>() as f64);
        self.counts.lines.add(&agent, lines.len() as f64);
        self.counts.bytes.add(&agent, bytes);
        if written.is_err() {
            self.counts.dropped.add(&agent, bytes);
        }
        self.followers.retain(|follower| follower.send(lines));
        written
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
