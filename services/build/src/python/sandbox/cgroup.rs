//! The control group of one build.

use hoistway_confine::{
    Limits,
    cgroup::{Cgroups, Controller, Group},
};
use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::runtime::Handle;

/// Makes groups.
#[derive(Debug)]
pub(super) struct Groups {
    cgroups: Cgroups,
    limits: Limits,
    made: AtomicU64,
}

impl Groups {
    pub fn new(cgroups: Cgroups, limits: Limits) -> Self {
        Self { cgroups, limits, made: AtomicU64::new(0) }
    }

    /// Ends and removes all of them. Blocks.
    pub fn end(&self) {
        self.cgroups.sweep();
    }

    /// A new one. Blocks.
    pub fn make(&self) -> io::Result<BuildGroup> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let group = self.cgroups.create(&format!("build-{number}"), &self.limits)?;
        let memory = self.limits.memory.filter(|_| self.cgroups.has(Controller::Memory));
        Ok(BuildGroup { group, memory })
    }
}

/// A group; what is in it ends with it.
#[derive(Debug)]
pub(super) struct BuildGroup {
    group: Group,
    memory: Option<u64>,
}

impl BuildGroup {
    /// The files through which a process joins.
    pub fn procs(&self) -> Vec<PathBuf> {
        self.group.procs()
    }

    /// The most memory of all that is in it.
    pub fn memory(&self) -> Option<u64> {
        self.memory
    }
}

impl Drop for BuildGroup {
    fn drop(&mut self) {
        let group = self.group.clone();
        let end = move || {
            group.kill();
            group.remove();
        };
        match Handle::try_current() {
            // Should the runtime end first, the next start sweeps.
            Ok(runtime) => drop(runtime.spawn_blocking(end)),
            Err(_) => end(),
        }
    }
}
