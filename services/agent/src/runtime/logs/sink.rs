//! From an agent's pipe to its log: lines, bounded and masked.

use super::{Entry, Masker, now_ms};
use hoistway_model::{
    RevisionId,
    log::{LogLine, LogStream},
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Lines remembered for the account of a failure.
const RECENT: usize = 100;

/// The amount that is read from a pipe at a time: as much as a pipe holds.
const READ: usize = 64 << 10;

/// The number of lines that go to the writer at a time: empty ones take more memory than they are read from.
const LINES: usize = 1_000;

/// The time that a line that has begun may pause before what there is of it is a line of its own.
const PAUSE: Duration = Duration::from_secs(1);

/// The mark at the end of a line that was cut.
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

    /// The last words of standard error: the last line that says something, but of an error of the interpreter itself,
    /// if nothing but its stack follows, the one before the stack.
    pub fn last_error(&self) -> Option<String> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let errors =
            || recent.iter().rev().filter(|(stream, _)| *stream == LogStream::Stderr).map(|(_, text)| text.trim());
        let fatal = errors().find(|text| !is_of_a_stack(text)).filter(|text| text.starts_with("Fatal Python error: "));
        fatal.or_else(|| errors().find(|text| !text.is_empty())).map(str::to_owned)
    }

    /// Reads a stream to its end.
    pub async fn follow(self, stream: LogStream, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; READ];
        let mut line = Begun::default();
        let mut waits = false;
        loop {
            let read = from.read(&mut buffer);
            let read = if waits { timeout(PAUSE, read).await } else { Ok(read.await) };
            let mut lines = Vec::new();
            match read {
                Ok(Ok(got @ 1..)) => {
                    for piece in buffer[..got].split_inclusive(|&b| b == b'\n') {
                        match piece.split_last() {
                            Some((b'\n', text)) => {
                                lines.extend(self.add(stream, &mut line, text));
                                lines.extend(self.end(stream, &mut line));
                            }
                            _ => lines.extend(self.add(stream, &mut line, piece)),
                        }
                        if lines.len() >= LINES {
                            self.put(std::mem::take(&mut lines)).await;
                        }
                    }
                    waits = !line.text.is_empty();
                }
                Ok(_) => {
                    self.put(self.end(stream, &mut line).into_iter().collect()).await;
                    return;
                }
                Err(_) => {
                    lines.extend(self.pause(stream, &mut line));
                    waits = false;
                }
            }
            self.put(lines).await;
        }
    }

    /// More of a line; one that is too long is cut here.
    fn add(&self, stream: LogStream, line: &mut Begun, text: &[u8]) -> Option<LogLine> {
        if line.cut {
            return None;
        }
        line.any = true;
        // So much of it is kept that a secret across the limit is seen whole, and that more than a `\r` is beyond it.
        let keep = self.max_line + 1 + self.masker.longest().max(1);
        let room = keep.saturating_sub(line.text.len());
        line.text.extend_from_slice(&text[..text.len().min(room)]);
        (line.text.len() == keep).then(|| self.cut(stream, line, keep))
    }

    /// The end of a line, or of the stream.
    fn end(&self, stream: LogStream, line: &mut Begun) -> Option<LogLine> {
        let Begun { text, any, shown, cut } = std::mem::take(line);
        let nothing = shown && matches!(*text, [] | [b'\r']);
        (any && !cut && !nothing).then(|| self.line(stream, &text))
    }

    /// A line that does not go on for now. What may be the beginning of a secret or of a character stays.
    fn pause(&self, stream: LogStream, line: &mut Begun) -> Option<LogLine> {
        let settled = self.masker.settled(&line.text[..whole_characters(&line.text)]);
        if settled > self.max_line {
            return Some(self.cut(stream, line, settled));
        }
        if settled == 0 {
            return None;
        }
        let rest = line.text.split_off(settled);
        let text = std::mem::replace(&mut line.text, rest);
        line.shown = true;
        Some(self.line(stream, &text))
    }

    /// The beginning of a line of which no more is shown.
    fn cut(&self, stream: LogStream, line: &mut Begun, known: usize) -> LogLine {
        line.cut = true;
        self.line(stream, &std::mem::take(&mut line.text)[..known])
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

/// A line that has not ended.
#[derive(Default)]
struct Begun {
    /// The bytes that are not in the log yet.
    text: Vec<u8>,
    /// Whether anything has come.
    any: bool,
    /// Whether its beginning is a line of its own.
    shown: bool,
    /// Whether the rest of it is left out.
    cut: bool,
}

/// The part of a text that does not end in the middle of a character.
fn whole_characters(text: &[u8]) -> usize {
    let begins = text.iter().rev().take(3).position(|&b| b >= 0xc0);
    begins
        .filter(|&back| back + 1 < text[text.len() - 1 - back].leading_ones() as usize)
        .map_or(text.len(), |back| text.len() - 1 - back)
}

/// Whether a line, without its indentation, is one of those that Python's `faulthandler` writes below an error, or
/// empty.
fn is_of_a_stack(line: &str) -> bool {
    const STARTS: [&str; 6] =
        ["File \"", "Thread 0x", "Current thread 0x", "Extension modules: ", "<no Python frame>", "..."];
    line.is_empty() || STARTS.iter().any(|start| line.starts_with(start))
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

    use tokio::io::AsyncWriteExt;

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
    async fn an_unfinished_line_is_shown_after_a_pause() {
        let dir = tempfile::tempdir().unwrap();
        let book = LogBook::new(dir.path().into(), LogLimits::default());
        let agent = Name::parse("name", "a").unwrap();
        let masker = Masker::new(&[Secret::new("s3cr3t-value")]);
        let sink = book.sink(&agent, RevisionId::mint(), Arc::new(masker));
        let mut pieces = book.read(&agent, LogQuery { follow: true, ..LogQuery::default() }).await.unwrap();
        let mut next = async || match pieces.next().await.unwrap().unwrap() {
            LogPiece::Lines(lines) => lines.into_iter().map(|line| line.text).collect::<Vec<_>>(),
            LogPiece::Skipped(_) => panic!("nothing is skipped"),
        };
        let (mut agent, pipe) = tokio::io::duplex(1 << 20);
        let follow = tokio::spawn(sink.follow(LogStream::Stdout, pipe));

        agent.write_all(&[b'x'; MAX_LINE + 100]).await.unwrap();
        let cut = next().await;
        assert!(cut.len() == 1 && cut[0].ends_with("x … [line cut]"), "{cut:?}");
        agent.write_all(b"the rest\nprompt: s3cr").await.unwrap();
        assert_eq!(next().await, ["prompt: "]);
        agent.write_all("3t-value h\u{e9}".as_bytes().split_last().unwrap().1).await.unwrap();
        assert_eq!(next().await, ["******** h"]);
        agent.write_all(b"\xa9").await.unwrap();
        assert_eq!(next().await, ["\u{e9}"]);
        // The end of a line of which all is there already is no line.
        agent.write_all(b"\r\n\nend").await.unwrap();
        assert_eq!(next().await, [""]);
        drop(agent);
        assert_eq!(next().await, ["end"]);
        follow.await.unwrap();
    }

    #[tokio::test]
    async fn a_line_without_secrets_is_cut_too() {
        let text = [vec![b'x'; MAX_LINE], b"\r\n".to_vec(), vec![b'y'; MAX_LINE + 1], b"\nz".to_vec()].concat();
        let got = logged(&[], &text).await;
        assert_eq!((got.len(), got[0].len(), got[2].as_str()), (3, MAX_LINE, "z"));
        assert!(got[1].ends_with("y … [line cut]"));
    }

    #[test]
    fn multibyte_characters_are_not_split() {
        for (text, whole) in [("", 0), ("a", 1), ("é", 2), ("a\u{1f600}", 5)] {
            assert_eq!(whole_characters(text.as_bytes()), whole);
        }
        for (text, whole) in [(&b"a\xc3"[..], 1), (b"a\xf0\x9f\x98", 1), (b"\xe2\x82", 0), (b"\x80\x80\x80\x80", 4)] {
            assert_eq!(whole_characters(text), whole);
        }
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
