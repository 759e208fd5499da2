//! Log lines of agents and builds, and how they are asked for.

use crate::{Result, RevisionId};
use std::{fmt, pin::Pin, str::FromStr};

/// Lines that an answer has when nobody says how many.
pub const DEFAULT_TAIL: u32 = 10_000;
/// The most kept lines that one call can ask for.
pub const MAX_TAIL: u32 = 100_000;

/// Where a line came from.
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

    /// The public spelling.
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
    /// When it was received, in milliseconds since the epoch.
    pub time_ms: i64,
    /// Where it came from.
    pub stream: LogStream,
    /// The revision that wrote it; none for a build.
    pub revision: Option<RevisionId>,
    /// The line, masked, without its end.
    pub text: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// At most so many of the kept lines, the newest; [`DEFAULT_TAIL`] if absent. Those to come are not counted.
    pub tail: Option<u32>,
    /// Only lines received at this time or later, in milliseconds since the epoch.
    pub since_ms: Option<i64>,
    /// Only lines of this stream.
    pub stream: Option<LogStream>,
    /// Only lines of this revision.
    pub revision: Option<RevisionId>,
    /// Go on with the lines that come.
    pub follow: bool,
}

impl LogQuery {
    /// The newest `count` lines.
    pub fn last(count: u32) -> Self {
        Self { tail: Some(count), ..Self::default() }
    }

    /// How many kept lines are wanted.
    pub fn count(&self) -> usize {
        self.tail.unwrap_or(DEFAULT_TAIL).min(MAX_TAIL) as usize
    }

    /// Whether a line is wanted.
    pub fn wants(&self, line: &LogLine) -> bool {
        self.since_ms.is_none_or(|since| line.time_ms >= since)
            && self.stream.is_none_or(|stream| line.stream == stream)
            && self.revision.is_none_or(|revision| line.revision == Some(revision))
    }
}

/// A piece of a log, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPiece {
    /// Lines, oldest first.
    Lines(Vec<LogLine>),
    /// So many lines were left out here, because whoever follows reads more slowly than they come.
    Skipped(u64),
}

/// Lines as they are read or come. It ends when there is nothing more to come.
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
