//! When agents are started, and started again.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// When agents are started, and started again.
#[derive(Debug, Clone, Copy)]
pub struct StartSettings {
    /// The number of agents that may be starting at the same time; those that have been ready before are counted by
    /// themselves.
    pub concurrent: usize,
    /// The time that one start keeps the next from beginning; it goes on after that, but no longer alone.
    pub turn: Duration,
    /// The same for a first start, which somebody waits for.
    pub first_turn: Duration,
    /// The time that a start may take from the process to being ready; none: for ever.
    pub limit: Option<Duration>,
    /// When a crashed agent is started again.
    pub restart_delays: RestartDelays,
}

impl Default for StartSettings {
    fn default() -> Self {
        Self {
            concurrent: 4,
            turn: Duration::from_secs(20),
            first_turn: Duration::from_secs(2),
            limit: Some(Duration::from_secs(60)),
            restart_delays: RestartDelays::default(),
        }
    }
}

/// The time between a crash and the next start: `first`, doubled for each crash up to `longest`.
#[derive(Debug, Clone, Copy)]
pub struct RestartDelays {
    /// After the first crash.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// An agent that was ready for so long before it crashed begins with `first` again.
    pub forgiven_after: Duration,
}

impl Default for RestartDelays {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            forgiven_after: Duration::from_secs(60),
        }
    }
}

/// The starts of all agents of a runtime, a few of which go on at a time.
#[derive(Clone)]
pub(in crate::runtime) struct Starts {
    pub(super) settings: StartSettings,
    again: Arc<Semaphore>,
    first: Arc<Semaphore>,
}

impl Starts {
    pub fn new(settings: StartSettings) -> Self {
        let turns = || Arc::new(Semaphore::new(settings.concurrent.max(1)));
        Self { settings, again: turns(), first: turns() }
    }

    /// The turns of such a start, and how long one of them is. Agents that crash, or come back after a boot, keep
    /// nobody from deploying.
    pub(super) fn turns(&self, proven: bool) -> (Arc<Semaphore>, Duration) {
        match proven {
            true => (self.again.clone(), self.settings.turn),
            false => (self.first.clone(), self.settings.first_turn),
        }
    }
}
