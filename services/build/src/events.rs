//! Events of builds, for those who follow them.

use futures_util::{StreamExt, future::ready};
use hoistway_kit::event_log::{Next, Ring};
use hoistway_model::build::{Build, BuildEvents};
use std::sync::Arc;

/// Events that are kept for followers which read slowly.
const KEPT_EVENTS: usize = 256;

/// The latest events: each is a build as it is then.
#[derive(Debug)]
pub struct EventLog(Arc<Ring<Build>>);

impl EventLog {
    /// An empty one.
    pub fn new() -> Self {
        Self(Ring::new(KEPT_EVENTS))
    }

    /// A build began or ended.
    pub fn push(&self, build: &Build) {
        self.0.push(|_| build.clone());
    }

    /// Events from now on; whoever reads too slowly misses some.
    pub fn follow(&self) -> BuildEvents {
        let events = self.0.follow(None).filter_map(|next| {
            ready(match next {
                Next::Item(_, build) => Some(Ok(Build::clone(&build))),
                Next::Lost(_) => None,
            })
        });
        Box::pin(events)
    }

    /// Ends everybody who follows events.
    pub fn close(&self) {
        self.0.close();
    }
}
