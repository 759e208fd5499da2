//! Processes that are forked from a warm parent and confined before there is an agent for them to become.

use super::ProcessConfig;
use super::grouped::Grouped;
use super::launcher_process::LauncherProcess;
use crate::launcher::protocol::{Order, Report, Restrictions};
use crate::sandbox::Sandbox;
use hoistway_confine::Access;
use hoistway_confine::cgroup::Group;
use hoistway_model::{Name, RevisionId};
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a process is prepared for: an agent, and all of its confinement but its source and what it listens on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Purpose {
    pub agent: Name,
    restrictions: Restrictions,
    /// The files that it sees, as device and number: another one may have come at the same path.
    files: Vec<Option<(u64, u64)>>,
}

impl Purpose {
    /// That of an agent's process with these restrictions. Blocks.
    pub fn of(agent: &Name, restrictions: &Restrictions) -> Self {
        let mut restrictions = restrictions.clone();
        restrictions.cgroups.clear();
        if let Some(own) = &mut restrictions.confinement.namespaces {
            own.root = PathBuf::new();
            if let Some(network) = &mut own.network {
                network.listen.clear();
                network.callers = None;
            }
        }
        let exposed = &mut restrictions.confinement.exposed;
        exposed.iter_mut().filter(|part| part.access == Access::Copy).for_each(|part| part.host = PathBuf::new());
        let number = |path: &PathBuf| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let files = exposed.iter().map(|part| number(&part.host)).collect();
        Self { agent: agent.clone(), restrictions, files }
    }

    /// The same with the files that are there now.
    pub async fn renewed(self: &Arc<Self>) -> Result<Arc<Self>> {
        let before = Arc::clone(self);
        let looking = tokio::task::spawn_blocking(move || Self::of(&before.agent, &before.restrictions));
        looking.await.map(Arc::new).map_err(Error::other)
    }
}

/// What a warm parent gives to a process that is forked from it.
pub(super) struct Origin<'a> {
    /// The socket to the process.
    pub forked: OwnedFd,
    /// The user namespaces of the parent.
    pub users: Vec<BorrowedFd<'a>>,
    /// The directory of the parent.
    pub dir: &'a Path,
    /// An empty directory in which the roots of its agents are built, each in a mount namespace of its own.
    pub root: PathBuf,
}

/// A confined process that waits. It ends when this is dropped.
pub(super) struct PreparedProcess {
    pub purpose: Arc<Purpose>,
    pub launcher: LauncherProcess,
    pub group: Grouped,
    /// Where the launcher hands out sockets of the agent's own network.
    pub network: Option<StdUnixStream>,
}

impl PreparedProcess {
    pub async fn make(
        config: &ProcessConfig,
        sandbox: &Arc<Sandbox>,
        origin: Origin<'_>,
        purpose: Arc<Purpose>,
    ) -> Result<Self> {
        let Origin { forked, users, dir, root } = origin;
        let mut launcher = LauncherProcess::spawn(&config.launcher, purpose.agent.as_str(), dir, |_| {})?;
        let mut group = Grouped::make(sandbox, format!("forked-{}", RevisionId::mint())).await?;
        let mut restrictions = purpose.restrictions.clone();
        restrictions.cgroups = group.0.as_ref().map(Group::procs).unwrap_or_default();
        if let Some(own) = &mut restrictions.confinement.namespaces {
            own.root = root;
        }
        let network = sandbox.has_own_network().then(StdUnixStream::pair).transpose()?;
        let theirs = network.iter().map(|(_, theirs)| theirs.as_fd());
        let fds: Vec<BorrowedFd<'_>> = [forked.as_fd()].into_iter().chain(users).chain(theirs).collect();
        let prepared = match launcher.order(&Order::Prepare(Box::new(restrictions)), &fds).await {
            Ok(()) => launcher.report().await,
            Err(error) => Err(error),
        };
        match prepared {
            Ok(Report::Prepared) => Ok(Self { purpose, launcher, group, network: network.map(|(ours, _)| ours) }),
            other => {
                group.end().await;
                Err(other.err().unwrap_or_else(|| Error::other("the launcher prepares nothing")))
            }
        }
    }

    /// Whether it has not ended while it waited, as when memory ran short.
    pub fn is_alive(&self) -> bool {
        self.launcher.is_quiet()
    }

    /// Ends it, and returns whether it could be ended.
    pub async fn end(mut self) -> bool {
        let ended = self.launcher.end().await;
        self.group.end().await;
        ended
    }
}
