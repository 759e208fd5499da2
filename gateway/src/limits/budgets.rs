//! A budget for each of many, in bounded memory.

use super::bucket::{Bucket, Clock, Level, Rate};
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

/// How many are watched at a time. Those beyond are not slowed down, which costs us less than forgetting one that is.
pub const MAX_WATCHED: usize = 8_192;

/// A bucket for each `K` that was seen lately.
#[derive(Debug)]
pub struct Budgets<K> {
    rate: Option<Rate>,
    clock: Clock,
    seen: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash> Budgets<K> {
    /// `None` is no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, clock: Clock::default(), seen: Mutex::default() }
    }

    /// Takes one from the budget of `key`. `None` when there is no limit.
    pub fn take(&self, key: K) -> Option<(Level, Rate)> {
        let (rate, now) = (self.rate?, self.clock.now());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_WATCHED && !seen.contains_key(&key) {
            seen.retain(|_, bucket| !bucket.is_full(now));
            if seen.len() >= MAX_WATCHED {
                return None;
            }
        }
        Some((seen.entry(key).or_default().take(rate, now), rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn memory_is_bounded() {
        let budgets = Budgets::new(Rate::new(1, Duration::from_secs(3600), 2));
        for n in 0..2 * MAX_WATCHED {
            budgets.take(n);
        }
        assert_eq!(budgets.seen.lock().map(|seen| seen.len()).unwrap_or_default(), MAX_WATCHED);
        assert!(Budgets::new(None).take(1).is_none());
    }
}
