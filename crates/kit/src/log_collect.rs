//! Shared functions for logs of every kind.

use futures_util::StreamExt;
use hoistway_model::{
    Result,
    log::{LogLine, LogPiece, LogPieces},
};

/// Returns all lines of a log that is not followed; it has no gaps.
pub async fn lines(mut pieces: LogPieces) -> Result<Vec<LogLine>> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await {
        if let LogPiece::Lines(lines) = piece? {
            all.extend(lines);
        }
    }
    Ok(all)
}

/// Returns the texts of [`lines`].
pub async fn texts(pieces: LogPieces) -> Result<Vec<String>> {
    Ok(lines(pieces).await?.into_iter().map(|line| line.text).collect())
}
