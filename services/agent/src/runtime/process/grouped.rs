//! The control group of an instance.

use crate::sandbox::Sandbox;
use hoistway_confine::cgroup::Group;
use std::io::{Error, Result};
use std::sync::Arc;

/// An instance's control group, removed when it is dropped.
pub(super) struct Grouped(pub(super) Option<Group>);

impl Grouped {
    /// Makes one of this name, where there are such.
    pub(super) async fn make(sandbox: &Arc<Sandbox>, name: String) -> Result<Self> {
        let sandbox = Arc::clone(sandbox);
        // Removed with the rest, should the start fail or be given up meanwhile.
        tokio::task::spawn_blocking(move || sandbox.group(&name).map(Self)).await.map_err(Error::other)?
    }

    /// Kills what is in it, and removes it.
    pub(super) async fn end(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = tokio::task::spawn_blocking(move || end(&group)).await;
        }
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // Nobody waits for it: a runtime that ends leaves an empty group behind, which the next one removes.
            std::thread::spawn(move || end(&group));
        }
    }
}

fn end(group: &Group) {
    group.kill();
    group.remove();
}
