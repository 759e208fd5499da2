//! Reports a database that cannot be written: when it begins, every minute as long as it lasts, and when it is over.

use hoistway_model::{Error, usage::UsageSums};
use std::time::Duration;
use tokio::time::Instant;

/// The time that a commit may take before it is reported.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// The interval at which they are reported again.
const AGAIN: Duration = Duration::from_secs(60);

/// Whether there is such an outage, and what was said of it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    told: Option<Instant>,
    cause: Option<Error>,
}

impl Outage {
    /// The time that a commit that has just begun, or goes on, may take without a word.
    pub(super) fn patience(&self) -> Duration {
        self.told.map_or(SLOW, |told| (told + AGAIN).saturating_duration_since(Instant::now()))
    }

    /// A commit failed.
    pub(super) fn failed(&mut self, cause: Error, waits: &UsageSums) {
        self.cause = Some(cause);
        if self.told.is_none() || self.patience().is_zero() {
            self.report(waits);
        }
    }

    /// Usage waits in memory, and that has to be reported.
    pub(super) fn report(&mut self, waits: &UsageSums) {
        self.told = Some(Instant::now());
        let (chain, why) = self.cause();
        let (requests, tokens) = (waits.requests, waits.total_tokens());
        tracing::warn!(
            cause = chain,
            requests,
            tokens,
            "the database cannot be written{why}: {requests} requests of models ({tokens} tokens) wait in memory, and \
             answers of models for a second each; tried again until it works"
        );
    }

    /// All that waited is written.
    pub(super) fn over(&mut self, written: &UsageSums) {
        if self.told.is_some() {
            let (requests, tokens) = (written.requests, written.total_tokens());
            tracing::info!(
                requests,
                tokens,
                "the database can be written again; {requests} requests of models ({tokens} tokens) that waited are kept"
            );
        }
        *self = Self::default();
    }

    /// The process ends with counts that could not be written.
    pub(super) fn lost(&self, lost: &UsageSums) {
        let (chain, why) = self.cause();
        let (requests, tokens) = (lost.requests, lost.total_tokens());
        tracing::error!(
            cause = chain,
            requests,
            tokens,
            "lost: {requests} requests of models ({tokens} tokens) are in no usage and no budget, since the database could \
             not be written before the shutdown's end{why}"
        );
    }

    fn cause(&self) -> (Option<String>, String) {
        let why = self.cause.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
        (self.cause.as_ref().map(Error::chain), why)
    }
}
