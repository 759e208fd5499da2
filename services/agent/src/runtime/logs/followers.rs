//! Those who follow a log while it is written.
//!
//! The writer never waits for them: each has a queue of so many bytes, and when that is full lines are left out and
//! counted until it has been read to its end.

use hoistway_model::log::{LogLine, LogPiece, LogQuery};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The bytes that may wait for one follower.
const QUEUE: u32 = 1 << 20;
/// The memory that a line takes beside its text.
const LINE: usize = size_of::<LogLine>();

/// Lines, and the room that they take in their queue.
type Piece = (Vec<LogLine>, OwnedSemaphorePermit);

/// The writer's end.
pub(super) struct Follower {
    query: LogQuery,
    pieces: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
    skipped: Arc<AtomicU64>,
}

/// The reader's end.
pub(super) struct Following {
    pieces: mpsc::Receiver<Piece>,
    skipped: Arc<AtomicU64>,
    _place: OwnedSemaphorePermit,
}

/// The two ends for one who holds a place.
pub(super) fn follow(query: LogQuery, place: OwnedSemaphorePermit) -> (Follower, Following) {
    // No piece is smaller than a line, so the room is full before the channel is.
    let (sender, receiver) = mpsc::channel(QUEUE as usize / LINE);
    let room = Arc::new(Semaphore::new(QUEUE as usize));
    let skipped = Arc::<AtomicU64>::default();
    let follower = Follower { query, pieces: sender, room, skipped: Arc::clone(&skipped) };
    (follower, Following { pieces: receiver, skipped, _place: place })
}

impl Follower {
    /// Gives what is wanted of `lines`; false once nobody reads any more.
    pub fn send(&self, lines: &[LogLine]) -> bool {
        let wanted: Vec<LogLine> = lines.iter().filter(|line| self.query.wants(line)).cloned().collect();
        let count = wanted.len() as u64;
        // Lines after a gap wait until the gap has been reported, so that everything is in order.
        if count > 0 && (self.skipped.load(Ordering::Acquire) > 0 || !self.queue(wanted)) {
            self.skipped.fetch_add(count, Ordering::AcqRel);
        }
        !self.pieces.is_closed()
    }

    /// Whether there was room.
    fn queue(&self, lines: Vec<LogLine>) -> bool {
        let size: usize = lines.iter().map(|line| LINE + line.text.len()).sum();
        let size = u32::try_from(size).unwrap_or(QUEUE).min(QUEUE);
        let room = Arc::clone(&self.room).try_acquire_many_owned(size);
        room.is_ok_and(|room| self.pieces.try_send((lines, room)).is_ok())
    }
}

impl Following {
    /// The next lines, or how many are missing; `None` when the log has ended.
    pub async fn next(&mut self) -> Option<LogPiece> {
        if let Ok((lines, _)) = self.pieces.try_recv() {
            return Some(LogPiece::Lines(lines));
        }
        match self.skipped.swap(0, Ordering::AcqRel) {
            0 => self.pieces.recv().await.map(|(lines, _)| LogPiece::Lines(lines)),
            skipped => Some(LogPiece::Skipped(skipped)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::log::LogStream;

    /// As many of these lines fill a queue.
    const FULL: usize = 32;

    fn line(n: usize) -> LogLine {
        let text = format!("{n:0width$}", width = QUEUE as usize / FULL - LINE);
        LogLine { time_ms: 0, stream: LogStream::Stdout, revision: None, text }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed_and_goes_on() {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let (follower, mut following) = follow(LogQuery::default(), place);
        for n in 0..FULL + 5 {
            assert!(follower.send(&[line(n)]));
        }
        for n in 0..FULL {
            assert_eq!(following.next().await, Some(LogPiece::Lines(vec![line(n)])));
        }
        assert!(follower.send(&[line(98), line(99)]), "in order: after the gap only when that was told");
        assert_eq!(following.next().await, Some(LogPiece::Skipped(7)));
        assert!(follower.send(&[line(100)]));
        assert_eq!(following.next().await, Some(LogPiece::Lines(vec![line(100)])));
        drop(following);
        assert!(!follower.send(&[]));
    }
}
