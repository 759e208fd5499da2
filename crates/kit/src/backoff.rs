//! Pauses between retries, each twice as long as the one before.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The pauses of one series of retries.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// A series that begins with `first`; no pause is longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        after(self.failures, self.first, self.longest)
    }

    /// The same and up to a quarter more, so that clients of a server that came back do not all ask at once.
    pub fn jittered_pause(&mut self) -> Duration {
        let pause = self.pause();
        let random = u32::try_from(RandomState::new().hash_one(0_u8) % 256).unwrap_or_default();
        pause + pause / 4 * random / 256
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The pause after so many failures in a row, the first of which is 1.
pub fn after(failures: u32, first: Duration, longest: Duration) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let (first, longest) = (Duration::from_secs(2), Duration::from_secs(7));
        let mut backoff = Backoff::new(first, longest);
        assert_eq!([1, 2, 3, 4].map(|_| backoff.pause().as_secs()), [2, 4, 7, 7]);
        assert_eq!(after(u32::MAX, first, longest), longest);
        backoff.reset();
        let jittered = backoff.jittered_pause();
        assert!(jittered >= first && jittered <= first * 5 / 4, "{jittered:?}");
    }
}
