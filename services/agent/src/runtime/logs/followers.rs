//! Those who follow a log while it is written.
//!
//! The writer never waits for them: each has a short queue, and when that is full lines are left out and counted until
//! it has been read to its end.

use hoistway_model::log::{LogLine, LogPiece, LogQuery};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Pieces that may wait for one follower; one is what was read from an agent's pipe at a time.
const QUEUE: usize = 32;

/// The writer's end.
pub(super) struct Follower {
    query: LogQuery,
    pieces: mpsc::Sender<Vec<LogLine>>,
    skipped: Arc<AtomicU64>,
}

/// The reader's end.
pub(super) struct Following {
    pieces: mpsc::Receiver<Vec<LogLine>>,
    skipped: Arc<AtomicU64>,
    _place: OwnedSemaphorePermit,
}

/// The two ends for one who holds a place.
pub(super) fn follow(query: LogQuery, place: OwnedSemaphorePermit) -> (Follower, Following) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let skipped = Arc::<AtomicU64>::default();
    let follower = Follower { query, pieces: sender, skipped: Arc::clone(&skipped) };
    (follower, Following { pieces: receiver, skipped, _place: place })
}

impl Follower {
    /// Gives what is wanted of `lines`; false once nobody reads any more.
    pub fn give(&self, lines: &[LogLine]) -> bool {
        let wanted: Vec<LogLine> = lines.iter().filter(|line| self.query.wants(line)).cloned().collect();
        let count = wanted.len() as u64;
        // What comes after a gap waits until the gap has been told, so that everything is in order.
        if count > 0 && (self.skipped.load(Ordering::Acquire) > 0 || self.pieces.try_send(wanted).is_err()) {
            self.skipped.fetch_add(count, Ordering::AcqRel);
        }
        !self.pieces.is_closed()
    }
}

impl Following {
    /// The next lines, or how many are missing; `None` when the log has ended.
    pub async fn next(&mut self) -> Option<LogPiece> {
        if let Ok(lines) = self.pieces.try_recv() {
            return Some(LogPiece::Lines(lines));
        }
        match self.skipped.swap(0, Ordering::AcqRel) {
            0 => self.pieces.recv().await.map(LogPiece::Lines),
            skipped => Some(LogPiece::Skipped(skipped)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::log::LogStream;
    use tokio::sync::Semaphore;

    fn line(n: usize) -> LogLine {
        LogLine { time_ms: 0, stream: LogStream::Stdout, revision: None, text: n.to_string() }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed_and_goes_on() {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let (follower, mut following) = follow(LogQuery::default(), place);
        for n in 0..QUEUE + 5 {
            assert!(follower.give(&[line(n)]));
        }
        for n in 0..QUEUE {
            assert_eq!(following.next().await, Some(LogPiece::Lines(vec![line(n)])));
        }
        assert!(follower.give(&[line(98), line(99)]), "in order: after the gap only when that was told");
        assert_eq!(following.next().await, Some(LogPiece::Skipped(7)));
        assert!(follower.give(&[line(100)]));
        assert_eq!(following.next().await, Some(LogPiece::Lines(vec![line(100)])));
        drop(following);
        assert!(!follower.give(&[]));
    }
}
