//! What agents write, kept for each agent: bounded, masked, readable while it grows and after the agent ended.
//!
//! Every line goes through one bounded channel to the agent's one writer. When that is full the reader of the agent's
//! pipe waits, the pipe fills, and the agent's own `print` waits: nothing is lost and nothing grows.

mod file;
mod follow;

pub(crate) use follow::Sink;

use super::{Masker, now_ms};
use file::LogFile;
use hoistway_model::{Error, Name, Result, RevisionId};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};
use tokio::sync::{mpsc, oneshot};

/// Lines that may wait for one agent's writer.
const QUEUE: usize = 64;

/// The longest line kept, in bytes; what is longer is cut and says so.
pub const MAX_LINE: usize = 16 << 10;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The agent's standard output.
    Out,
    /// The agent's standard error.
    Err,
    /// Hoistway itself: starts, crashes, restarts.
    Platform,
}

impl Stream {
    const fn letter(self) -> &'static str {
        match self {
            Stream::Out => "o",
            Stream::Err => "e",
            Stream::Platform => "h",
        }
    }
}

/// One line of an agent's log. `Display` is its text alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read, in milliseconds since the epoch.
    pub time_ms: i64,
    /// Where it came from.
    pub stream: Stream,
    /// Which revision wrote it.
    pub revision: RevisionId,
    /// The line, masked, without its end.
    pub text: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

enum Entry {
    Line(LogLine),
    Tail(usize, oneshot::Sender<io::Result<Vec<LogLine>>>),
    Delete(oneshot::Sender<io::Result<()>>),
}

/// The logs of all agents, each in `DIR/<agent>/`.
pub struct LogBook {
    dir: PathBuf,
    /// The size at which a file becomes the previous one; there are two.
    file_size: u64,
    writers: Mutex<HashMap<Name, mpsc::Sender<Entry>>>,
}

impl LogBook {
    /// Keeps logs in `dir`, for each agent at most two files of `file_size` bytes.
    pub fn new(dir: PathBuf, file_size: u64) -> Self {
        Self { dir, file_size, writers: Mutex::default() }
    }

    /// Where one instance's lines go.
    pub(crate) fn sink(&self, agent: &Name, revision: RevisionId, masker: Arc<Masker>) -> Sink {
        Sink::new(self.writer(agent), revision, masker)
    }

    fn writer(&self, agent: &Name) -> mpsc::Sender<Entry> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writers.entry(agent.clone()).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(QUEUE);
            tokio::spawn(write(self.file(agent), queue));
            sender
        });
        writer.clone()
    }

    fn file(&self, agent: &Name) -> LogFile {
        LogFile::new(self.dir.join(agent.as_str()), self.file_size)
    }

    fn known(&self, agent: &Name) -> Option<mpsc::Sender<Entry>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).get(agent).cloned()
    }

    /// The last `count` lines of an agent, oldest first; none for an agent that never wrote.
    pub async fn tail(&self, agent: &Name, count: usize) -> Result<Vec<LogLine>> {
        let failed = |error| Error::internal("reading the agent's log", error);
        if let Some(writer) = self.known(agent) {
            // Through the writer: so the answer holds every line that was read before, and no rotation is under way.
            let (answer, lines) = oneshot::channel();
            if writer.send(Entry::Tail(count, answer)).await.is_ok()
                && let Ok(lines) = lines.await
            {
                return lines.map_err(failed);
            }
        }
        let file = self.file(agent);
        blocking(move || file.tail(count)).await.map_err(failed)
    }

    /// Deletes an agent's log. What its last processes still write is dropped.
    pub async fn remove(&self, agent: &Name) -> Result<()> {
        let failed = |error| Error::internal("deleting the agent's log", error);
        let writer = self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(agent);
        if let Some(writer) = writer {
            let (answer, deleted) = oneshot::channel();
            if writer.send(Entry::Delete(answer)).await.is_ok()
                && let Ok(deleted) = deleted.await
            {
                return deleted.map_err(failed);
            }
        }
        let mut file = self.file(agent);
        blocking(move || file.delete()).await.map_err(failed)
    }
}

/// The one writer of an agent's log: takes all lines that wait and writes them in one go.
async fn write(mut file: LogFile, mut queue: mpsc::Receiver<Entry>) {
    let mut batch = Vec::with_capacity(QUEUE);
    let mut broken = false;
    while queue.recv_many(&mut batch, QUEUE).await > 0 {
        let entries = std::mem::replace(&mut batch, Vec::with_capacity(QUEUE));
        let Ok((back, written, deleted)) = tokio::task::spawn_blocking(move || {
            let (written, deleted) = file.handle(entries);
            (file, written, deleted)
        })
        .await
        else {
            return;
        };
        file = back;
        match written {
            Ok(()) => broken = false,
            // A full disk must not stop agents: lines are dropped, and the operator hears of it once.
            Err(error) if !broken => {
                broken = true;
                tracing::error!(%error, file = %file.path().display(), "agent log lines cannot be written and are dropped");
            }
            Err(_) => {}
        }
        if deleted {
            return;
        }
    }
}

impl LogFile {
    /// Handles entries in their order; says whether the log was deleted at the end.
    fn handle(&mut self, entries: Vec<Entry>) -> (io::Result<()>, bool) {
        let mut lines = Vec::with_capacity(entries.len());
        let mut written = Ok(());
        for entry in entries {
            match entry {
                Entry::Line(line) => lines.push(line),
                Entry::Tail(count, answer) => {
                    written = self.append(&lines).and(written);
                    lines.clear();
                    let _ = answer.send(self.tail(count));
                }
                Entry::Delete(answer) => {
                    let _ = answer.send(self.delete());
                    return (written, true);
                }
            }
        }
        (self.append(&lines).and(written), false)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
