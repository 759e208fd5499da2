//! What the runs of one instance as processes have in common: its directory, its user, and whether it works in a copy
//! of its source.

use super::launch::Launched;
use super::launch_spec::Start;
use super::leftovers::Leftovers;
use super::rundir::RunDir;
use super::warm_parents::WarmParents;
use super::{Instance, ProcessConfig, Program};
use crate::launcher::RunAs;
use crate::runtime::logs::Sink;
use crate::runtime::supervisor::{Launcher, Unable};
use crate::sandbox::{Sandbox, size};
use hoistway_confine::copy_tree;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The largest source that an agent gets a copy of, at each start: it is copied within a start's time.
const MAX_COPY: copy_tree::Size = copy_tree::Size { bytes: 64 << 20, entries: 10_000 };

/// Runs one instance as a process of this machine.
pub(super) struct ProcessLauncher {
    pub config: Arc<ProcessConfig>,
    pub sandbox: Arc<Sandbox>,
    pub leftovers: Leftovers,
    pub instance: Instance,
    pub sink: Sink,
    pub port: u16,
    pub dir: RunDir,
    /// The agent's own user, once it is known.
    pub user: Option<RunAs>,
    /// Whether it works in a copy of its source, once that is known.
    pub copies_app: bool,
    pub warm_parents: Arc<WarmParents>,
    /// Whether its process may be forked from a warm parent.
    pub may_fork: bool,
}

impl Launcher for ProcessLauncher {
    type Run = Launched;

    fn has_own_network(&self) -> bool {
        self.sandbox.has_own_network()
    }

    async fn prepare(&mut self) -> Result<(), Unable> {
        let (made, sandbox, agent) = (self.dir.clone(), self.sandbox.clone(), self.instance.agent.clone());
        let leftovers = self.leftovers.clone();
        let made = tokio::task::spawn_blocking(move || {
            let user = sandbox.user(&agent).map_err(std::io::Error::other)?;
            made.create(user, sandbox.has_own_root(), &leftovers).map(|()| user)
        });
        let made = made.await.map_err(std::io::Error::other).and_then(|made| made);
        self.user = made.map_err(|error| Unable { what: "the agent's private directory cannot be made", error })?;
        self.copies_app = self.copies_app().await;
        Ok(())
    }

    async fn launch(&mut self, listener: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> Result<Launched, Unable> {
        if self.copies_app {
            let renewed = self.renew_app().await;
            renewed.map_err(|error| Unable { what: "the agent's working directory cannot be made", error })?;
        }
        let start = Start {
            config: &self.config,
            sandbox: &self.sandbox,
            instance: &self.instance,
            port: self.port,
            listener,
            user: self.user,
            copies_app: self.copies_app,
            limit,
            may_fork: self.may_fork,
        };
        let launched = Launched::start(start, &self.warm_parents, &self.dir, &self.sink).await;
        launched.map_err(|error| Unable { what: "the agent's process cannot be started", error })
    }

    fn refuse_forks(&mut self) {
        self.may_fork = false;
    }

    async fn clean(&mut self) {
        let (dir, leftovers) = (self.dir.clone(), self.leftovers.clone());
        let removed = tokio::task::spawn_blocking(move || dir.remove(&leftovers)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "cannot remove an agent's private directory");
        }
    }
}

impl ProcessLauncher {
    fn app_dir(&self) -> PathBuf {
        match &self.instance.program {
            Program::Unpacked { app_dir, .. } => app_dir.clone(),
            Program::Image { .. } => PathBuf::new(),
        }
    }

    /// Whether the agent works in a copy of its source. It does, unless that is too large; then it reads it.
    async fn copies_app(&self) -> bool {
        let app_dir = self.app_dir();
        let measured = tokio::task::spawn_blocking(move || copy_tree::size(&app_dir)).await;
        let Ok(Ok(found)) = measured else { return true };
        // Something must be left of what it may store.
        let disk = self.config.limits.disk.filter(|&disk| disk > 0 && self.sandbox.has_own_root());
        let most = disk.map_or(MAX_COPY.bytes, |disk| MAX_COPY.bytes.min(disk / 2));
        let fits = found.bytes <= most && found.entries <= MAX_COPY.entries;
        if !fits {
            let copy_tree::Size { bytes, entries } = found;
            let (most, most_entries) = (size(most), MAX_COPY.entries);
            let text = format!(
                "the working directory is read-only: the source has {entries} files with {} MiB, and up to {most_entries} with {most} are copied for an agent to change",
                bytes >> 20,
            );
            self.sink.remark(&text).await;
        }
        fits
    }

    /// Makes the agent's working directory, where its sandbox does not.
    async fn renew_app(&self) -> std::io::Result<()> {
        if self.sandbox.has_own_root() {
            return Ok(());
        }
        let (dir, source, user, leftovers) = (self.dir.clone(), self.app_dir(), self.user, self.leftovers.clone());
        let made = tokio::task::spawn_blocking(move || dir.renew_app(&source, user, &leftovers)).await;
        made.map_err(std::io::Error::other).and_then(|made| made)
    }
}
