//! Starts for invokes that the machine did not allow: the agent is idle again, and a later invoke tries it once more.

use hoistway_kit::backoff::Backoff;
use hoistway_model::{Code, Error};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The message of an agent that is idle.
pub(super) const IDLE: &str = "the agent is idle; the next invoke starts it";
/// The pauses after starts that the machine did not allow: those after crashes.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));

/// A start for invokes that the machine did not allow, such as one on a full disk. The agent is idle again.
#[derive(Debug, Clone)]
pub(super) struct FailedWake {
    failure: Arc<Error>,
    /// No invoke starts it before.
    next_try: Instant,
    pauses: Backoff,
}

impl FailedWake {
    pub fn new(error: &Error, before: Option<&Self>) -> Self {
        let mut pauses = before.map_or(PAUSES, |before| before.pauses.clone());
        let next_try = Instant::now() + pauses.pause();
        Self { failure: Arc::new(error.public()), next_try, pauses }
    }

    /// The answer to invokes until the next try.
    pub fn refusal(&self) -> Option<Error> {
        let left = self.next_try.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        let why = not_started(&self.failure.message);
        let text = format!("{why}; an invoke tries it again in {} s", left.as_millis().div_ceil(1000));
        Some(Error::new(self.failure.code, text).with_details(self.failure.details.clone()))
    }

    /// The state of an agent that is idle again.
    pub fn message(&self) -> String {
        format!("{IDLE}; its last start failed: {}", self.failure.message)
    }
}

/// Whether an error is a fault of the machine, and not of the agent: a later start may succeed as it is.
pub(super) fn is_of_machine(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::Internal
            | C::InsufficientStorage
            | C::ResourceExhausted
            | C::Unavailable
            | C::DeadlineExceeded
            | C::PermissionDenied
    )
}

/// Tells invokes that it is not tried again.
pub(super) fn not_started(why: &str) -> String {
    format!("the agent could not be started: {why}")
}
