//! From an agent's pipe to its log: lines, bounded and masked.

use super::{Entry, Masker, now_ms};
use hoistway_model::{
    RevisionId,
    log::{LogLine, LogStream},
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Lines remembered for the account of a failure.
const RECENT: usize = 100;

/// How much is read from a pipe at a time: as much as a pipe holds.
const READ: usize = 64 << 10;

/// What stands at the end of a line that was cut.
const CUT: &str = " … [line cut]";

/// Where one instance's lines go: to its agent's log, and the latest into memory.
#[derive(Clone)]
pub(crate) struct Sink {
    writer: mpsc::Sender<Entry>,
    revision: RevisionId,
    masker: Arc<Masker>,
    max_line: usize,
    recent: Arc<Mutex<VecDeque<(LogStream, String)>>>,
}

impl Sink {
    pub(super) fn new(writer: mpsc::Sender<Entry>, revision: RevisionId, masker: Arc<Masker>, max_line: usize) -> Self {
        Self { writer, revision, masker, max_line, recent: Arc::default() }
    }

    /// Adds a remark of the platform's own.
    pub async fn remark(&self, text: &str) {
        let text = self.masker.text(text).replace(['\n', '\r'], " ");
        self.put(vec![self.dated(LogStream::Platform, text)]).await;
    }

    /// Begins a new run: what an earlier one wrote does not explain a later failure.
    pub fn begin(&self) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The last `count` lines that the agent itself wrote.
    pub fn recent(&self, count: usize) -> Vec<String> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().skip(recent.len().saturating_sub(count)).map(|(_, text)| text.clone()).collect()
    }

    /// The last line on standard error that says something.
    pub fn last_error(&self) -> Option<String> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let last = recent.iter().rev().find(|(stream, text)| *stream == LogStream::Stderr && !text.trim().is_empty());
        last.map(|(_, text)| text.trim().to_owned())
    }

    /// Reads a stream to its end.
    pub async fn follow(self, stream: LogStream, mut from: impl AsyncRead + Unpin) {
        // So much of a line is kept that a secret across the limit is seen whole.
        let keep = self.max_line + self.masker.longest();
        let mut buffer = vec![0; READ];
        let mut line = Vec::new();
        let mut begun = false;
        while let Ok(got @ 1..) = from.read(&mut buffer).await {
            let mut lines = Vec::new();
            for piece in buffer[..got].split_inclusive(|&b| b == b'\n') {
                let (text, ended) = match piece.split_last() {
                    Some((b'\n', text)) => (text, true),
                    _ => (piece, false),
                };
                let room = keep.saturating_sub(line.len());
                line.extend_from_slice(&text[..text.len().min(room)]);
                begun = true;
                if ended {
                    lines.push(self.line(stream, &line));
                    line.clear();
                    begun = false;
                }
            }
            self.put(lines).await;
        }
        if begun {
            self.put(vec![self.line(stream, &line)]).await;
        }
    }

    fn line(&self, stream: LogStream, raw: &[u8]) -> LogLine {
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        let masked = self.masker.prefix(raw, self.max_line);
        let mut text = String::from_utf8_lossy(&masked).into_owned();
        if raw.len() > self.max_line {
            text.push_str(CUT);
        }
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back((stream, text.clone()));
        }
        self.dated(stream, text)
    }

    fn dated(&self, stream: LogStream, text: String) -> LogLine {
        LogLine { time_ms: now_ms(), stream, revision: Some(self.revision), text }
    }

    async fn put(&self, lines: Vec<LogLine>) {
        if !lines.is_empty() {
            // The writer ends when the agent is deleted: then nobody wants its lines.
            let _ = self.writer.send(Entry::Lines(lines)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::runtime::{LogBook, LogLimits};
    use futures_util::StreamExt;
    use hoistway_model::{
        Name, Secret,
        log::{LogPiece, LogQuery},
    };

    const MAX_LINE: usize = 16 << 10;

    async fn tail(book: &LogBook, agent: &Name) -> Vec<String> {
        let mut pieces = book.read(agent, LogQuery::last(100)).await.unwrap();
        let mut texts = Vec::new();
        while let Some(piece) = pieces.next().await {
            let LogPiece::Lines(lines) = piece.unwrap() else { panic!("nothing is skipped") };
            texts.extend(lines.into_iter().map(|line| line.text));
        }
        texts
    }

    async fn logged(secrets: &[&str], bytes: &[u8]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let book = LogBook::new(dir.path().into(), LogLimits::default());
        let agent = Name::parse("name", "a").unwrap();
        let secrets: Vec<_> = secrets.iter().map(|s| Secret::new(*s)).collect();
        let sink = book.sink(&agent, RevisionId::mint(), Arc::new(Masker::new(&secrets)));
        sink.clone().follow(LogStream::Stderr, bytes).await;
        let lines = tail(&book, &agent).await;
        assert_eq!(lines, sink.recent(100));
        book.remove(&agent).await.unwrap();
        assert!(tail(&book, &agent).await.is_empty());
        lines
    }

    #[tokio::test]
    async fn lines_are_split_masked_and_made_text() {
        let got = logged(&["s3cr3t-value"], b"one\r\n\ntwo s3cr3t-value\n\xff\tlast").await;
        assert_eq!(got, ["one", "", "two ********", "\u{fffd}\tlast"]);
    }

    #[tokio::test]
    async fn a_long_line_is_cut_without_showing_half_a_secret() {
        let long =
            [vec![b'x'; MAX_LINE - 4], b"s3cr3t-value".to_vec(), vec![b'y'; 1 << 20], b"\nnext\n".to_vec()].concat();
        let got = logged(&["s3cr3t-value"], &long).await;
        assert_eq!(got.len(), 2);
        assert!(got[0].ends_with("x******** … [line cut]"), "{}", &got[0][got[0].len() - 40..]);
        assert!(got[0].len() < MAX_LINE + 40);
        assert_eq!(got[1], "next");
    }
}
