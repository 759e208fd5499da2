//! A token bucket for each key, in bounded memory.

use super::token_bucket::{Bucket, Clock, Rate, TakeResult};
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

/// The most buckets. Further keys are not limited, which costs less than dropping a bucket in use.
pub const MAX_WATCHED: usize = 8_192;

/// A bucket for each recent `K`.
#[derive(Debug)]
pub struct KeyedBuckets<K> {
    rate: Option<Rate>,
    clock: Clock,
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash> KeyedBuckets<K> {
    /// Returns buckets with this rate; `None` is no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, clock: Clock::default(), buckets: Mutex::default() }
    }

    /// Takes a token from the bucket of `key`. `None` when there is no limit.
    pub fn take(&self, key: K) -> Option<(TakeResult, Rate)> {
        let (rate, now) = (self.rate?, self.clock.now());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_WATCHED && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
            if buckets.len() >= MAX_WATCHED {
                return None;
            }
        }
        Some((buckets.entry(key).or_default().take(rate, now), rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn memory_is_bounded() {
        let budgets = KeyedBuckets::new(Rate::new(1, Duration::from_secs(3600), 2));
        for n in 0..2 * MAX_WATCHED {
            budgets.take(n);
        }
        assert_eq!(budgets.buckets.lock().map(|buckets| buckets.len()).unwrap_or_default(), MAX_WATCHED);
        assert!(KeyedBuckets::new(None).take(1).is_none());
    }
}
