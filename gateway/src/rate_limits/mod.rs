//! The rate limits of callers: requests of each key, wrong keys of each address.

pub mod failed_auth_throttle;
pub mod keyed_buckets;
pub mod token_bucket;

pub use failed_auth_throttle::FailedAuthThrottle;
pub use keyed_buckets::KeyedBuckets;
pub use token_bucket::{Bucket, Clock, Rate, TakeResult};

use std::time::Duration;

/// The rates of one key, and those of callers without a key.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Requests that are not invokes. `None` is no limit.
    pub requests: Option<Rate>,
    /// Invokes. `None` is no limit.
    pub invokes: Option<Rate>,
    /// Wrong keys from one address. `None` is no limit.
    pub failures: Option<Rate>,
}

/// The default settings.
impl Default for Rates {
    fn default() -> Self {
        Self {
            requests: Rate::new(200, Duration::from_secs(1), 1_000),
            invokes: Rate::new(2_000, Duration::from_secs(1), 10_000),
            failures: Rate::new(30, Duration::from_secs(60), 30),
        }
    }
}
