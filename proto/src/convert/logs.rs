//! Log lines and the queries for them.

use super::{optional, parsed};
use crate::common::v1 as pb;
use hoistway_model::{
    Error, Result,
    log::{LogLine, LogPiece, LogQuery},
};

impl From<LogQuery> for pb::LogQuery {
    fn from(q: LogQuery) -> Self {
        Self {
            tail: q.tail,
            since: q.since_ms,
            stream: q.stream.map(|s| s.as_str().to_owned()).unwrap_or_default(),
            revision_id: q.revision.map(|r| r.to_string()).unwrap_or_default(),
            follow: q.follow,
        }
    }
}

impl TryFrom<pb::LogQuery> for LogQuery {
    type Error = Error;

    fn try_from(q: pb::LogQuery) -> Result<Self> {
        Ok(Self {
            tail: q.tail,
            since_ms: q.since,
            stream: optional(q.stream).map(|s| parsed("query.stream", &s)).transpose()?,
            revision: optional(q.revision_id).map(|r| parsed("query.revision_id", &r)).transpose()?,
            follow: q.follow,
        })
    }
}

impl From<LogLine> for pb::LogLine {
    fn from(l: LogLine) -> Self {
        Self {
            time: l.time_ms,
            stream: l.stream.as_str().into(),
            revision_id: l.revision.map(|r| r.to_string()).unwrap_or_default(),
            text: l.text,
        }
    }
}

impl TryFrom<pb::LogLine> for LogLine {
    type Error = Error;

    fn try_from(l: pb::LogLine) -> Result<Self> {
        Ok(Self {
            time_ms: l.time,
            stream: parsed("line.stream", &l.stream)?,
            revision: optional(l.revision_id).map(|r| parsed("line.revision_id", &r)).transpose()?,
            text: l.text,
        })
    }
}

impl From<LogPiece> for pb::LogPiece {
    fn from(piece: LogPiece) -> Self {
        match piece {
            LogPiece::Lines(lines) => Self { lines: lines.into_iter().map(Into::into).collect(), skipped: 0 },
            LogPiece::Skipped(skipped) => Self { lines: Vec::new(), skipped },
        }
    }
}

impl TryFrom<pb::LogPiece> for LogPiece {
    type Error = Error;

    fn try_from(piece: pb::LogPiece) -> Result<Self> {
        match piece.skipped {
            0 => Ok(Self::Lines(piece.lines.into_iter().map(TryInto::try_into).collect::<Result<_>>()?)),
            skipped => Ok(Self::Skipped(skipped)),
        }
    }
}
