//! Log lines of agents and builds, and queries for them.

use crate::{Result, RevisionId};
use std::{fmt, pin::Pin, str::FromStr};

/// The default number of lines in a response.
pub const DEFAULT_TAIL: u32 = 10_000;
/// The most stored lines that one call can request.
pub const MAX_TAIL: u32 = 100_000;

/// The source of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Hoistway itself: starts, crashes, restarts, the steps of a build.
    Platform,
}

impl LogStream {
    /// Every stream.
    pub const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Platform];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Platform => "platform",
        }
    }
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogStream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("\"{text}\" is not one of stdout, stderr, platform"))
    }
}

/// One line of a log. `Display` is its text alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The time of receipt, in milliseconds since the epoch.
    pub time_ms: i64,
    /// The source.
    pub stream: LogStream,
    /// The revision that wrote it; `None` for a build.
    pub revision: Option<RevisionId>,
    /// The line, masked, without its line end.
    pub text: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A selection of lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// The maximum number of stored lines, the newest; [`DEFAULT_TAIL`] if absent. Future lines are not counted.
    pub tail: Option<u32>,
    /// Only lines received at this time or later, in milliseconds since the epoch.
    pub since_ms: Option<i64>,
    /// Only lines of this stream.
    pub stream: Option<LogStream>,
    /// Only lines of this revision.
    pub revision: Option<RevisionId>,
    /// Whether future lines follow.
    pub follow: bool,
}

impl LogQuery {
    /// Selects the newest `count` lines.
    pub fn last(count: u32) -> Self {
        Self { tail: Some(count), ..Self::default() }
    }

    /// Returns the number of requested stored lines.
    pub fn count(&self) -> usize {
        self.tail.unwrap_or(DEFAULT_TAIL).min(MAX_TAIL) as usize
    }

    /// Whether a line matches.
    pub fn wants(&self, line: &LogLine) -> bool {
        self.since_ms.is_none_or(|since| line.time_ms >= since)
            && self.stream.is_none_or(|stream| line.stream == stream)
            && self.revision.is_none_or(|revision| line.revision == Some(revision))
    }
}

/// An item of a log, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPiece {
    /// Lines, oldest first.
    Lines(Vec<LogLine>),
    /// The number of lines that are missing here, because the follower reads more slowly than they arrive.
    Skipped(u64),
}

/// Lines as they are read or arrive. The stream ends when no more can follow.
pub type LogPieces = Pin<Box<dyn futures_core::Stream<Item = Result<LogPiece>> + Send>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_wants_what_it_says() {
        let line = LogLine { time_ms: 5, stream: LogStream::Stderr, revision: None, text: "x".into() };
        assert!(LogQuery::default().wants(&line) && LogQuery { since_ms: Some(5), ..LogQuery::default() }.wants(&line));
        for other in [
            LogQuery { since_ms: Some(6), ..LogQuery::default() },
            LogQuery { stream: Some(LogStream::Stdout), ..LogQuery::default() },
            LogQuery { revision: Some(RevisionId::mint()), ..LogQuery::default() },
        ] {
            assert!(!other.wants(&line), "{other:?}");
        }
        assert_eq!((LogQuery::default().count(), LogQuery::last(u32::MAX).count()), (10_000, 100_000));
    }
}
