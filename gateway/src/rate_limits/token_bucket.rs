//! A token bucket in one atomic number.
//!
//! The number is the moment at which the bucket will be full again (the generic cell rate algorithm): taking a token
//! moves it on by the interval of one token, and it may not lie further ahead than a whole bucket's worth of that.
//! There is no task that refills and no lock; a token costs one compare-and-swap.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The rate at which tokens are refilled, and the size of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds for each token.
    interval: u64,
    burst: u64,
}

impl Rate {
    /// Returns the rate of `per` tokens in `period`, with a bucket of `burst`, at least one. `None` when `per` is 0: no
    /// limit.
    pub fn new(per: u32, period: Duration, burst: u32) -> Option<Self> {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let interval = period.checked_div(per.into())?.max(1);
        Some(Self { interval, burst: burst.max(1).into() })
    }

    /// Returns the size of the bucket, in tokens.
    pub fn burst(self) -> u64 {
        self.burst
    }

    /// Returns the time to fill an empty bucket, in seconds, rounded up.
    pub fn window(self) -> u64 {
        self.capacity().div_ceil(1_000_000_000)
    }

    fn capacity(self) -> u64 {
        self.interval.saturating_mul(self.burst)
    }
}

/// The result of taking a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeResult {
    /// Tokens that are left.
    pub left: u64,
    /// The time until the bucket is full again.
    pub full_in: Duration,
    /// The time until the next token, if a token was refused.
    pub wait: Option<Duration>,
}

/// One bucket, full at first. Its time is passed in: nanoseconds since [`Clock`] was created.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token, or returns the time until the next one.
    pub fn take(&self, rate: Rate, now: u64) -> TakeResult {
        let mut full_at = self.0.load(Ordering::Relaxed);
        loop {
            let taken = full_at.max(now).saturating_add(rate.interval);
            let used = taken - now;
            if let Some(over) = used.checked_sub(rate.capacity()).filter(|over| *over > 0) {
                let full_in = Duration::from_nanos(full_at.saturating_sub(now));
                return TakeResult { left: 0, full_in, wait: Some(Duration::from_nanos(over)) };
            }
            match self.0.compare_exchange_weak(full_at, taken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let left = (rate.capacity() - used) / rate.interval;
                    return TakeResult { left, full_in: Duration::from_nanos(used), wait: None };
                }
                Err(current) => full_at = current,
            }
        }
    }

    /// Whether the bucket is full, and so the same as a new one.
    pub fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

/// The clock of buckets.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock {
    /// Returns the nanoseconds since it was created.
    pub fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_a_steady_flow() {
        let rate = Rate::new(10, Duration::from_secs(1), 3).unwrap();
        let bucket = Bucket::default();
        let left: Vec<_> = (0..3).map(|_| bucket.take(rate, SECOND).left).collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = bucket.take(rate, SECOND);
        assert_eq!(refused.wait, Some(Duration::from_millis(100)));
        assert_eq!(bucket.take(rate, SECOND + 40_000_000).wait, Some(Duration::from_millis(60)));
        // A refusal does not delay the next token.
        assert_eq!(bucket.take(rate, SECOND + 100_000_000).wait, None);
        assert!(!bucket.is_full(SECOND + 399_999_999) && bucket.is_full(SECOND + 400_000_000));
        assert_eq!(bucket.take(rate, 100 * SECOND).left, 2);
    }

    #[test]
    fn odd_settings() {
        assert_eq!(Rate::new(0, Duration::from_secs(1), 5), None);
        let one = Rate::new(1, Duration::from_secs(60), 0).unwrap();
        assert_eq!((one.burst(), one.window()), (1, 60));
        let most = Rate::new(u32::MAX, Duration::from_secs(1), u32::MAX).unwrap();
        let bucket = Bucket::default();
        assert!(bucket.take(most, 0).wait.is_none() && bucket.take(most, u64::MAX).wait.is_none());
    }

    #[test]
    fn many_at_a_time_get_exactly_the_burst() {
        let rate = Rate::new(1, Duration::from_secs(3600), 1000).unwrap();
        let bucket = Bucket::default();
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..500).filter(|_| bucket.take(rate, SECOND).wait.is_none()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
