//! The containers of this runtime's runs, so that those of earlier runtimes can be recognised and removed.

use super::daemon::{Daemon, brief};
use crate::runtime::Instance;
use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use futures_util::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// The number of containers that are removed at a time.
const AT_ONCE: usize = 8;

/// The runs that have containers.
pub(super) struct Runs {
    daemon: Arc<Daemon>,
    current: Mutex<HashSet<String>>,
}

impl Runs {
    /// None yet.
    pub fn new(daemon: Arc<Daemon>) -> Arc<Self> {
        Arc::new(Self { daemon, current: Mutex::default() })
    }

    /// Begins a run of the instance.
    pub fn begin(self: &Arc<Self>, instance: &Instance) -> RunPlace {
        let id = Uuid::now_v7().simple().to_string();
        // The random end of it is enough.
        let id = id[id.len() - 12..].to_owned();
        self.current().insert(id.clone());
        RunPlace {
            name: format!("hoistway-{}-{id}", instance.agent),
            labels: self.daemon.labels().of(instance, &id),
            id,
            runs: Arc::clone(self),
            containers: Vec::new(),
        }
    }

    /// Removes the installation's containers that belong to no run, and returns how many there were: what is left of a
    /// runtime that was killed, or what could not be removed while the daemon was away.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let found = self.daemon.containers().await?;
        let leftover: Vec<String> = {
            let current = self.current();
            found.into_iter().filter(|(_, run)| !current.contains(run)).map(|(id, _)| id).collect()
        };
        // One that cannot be removed keeps neither the others nor the service from going on.
        let removing = stream::iter(0..leftover.len()).map(|at| self.daemon.remove(&leftover[at]));
        let removed = removing.buffer_unordered(AT_ONCE).map(|removed| match removed {
            Ok(()) => 1,
            Err(e) => {
                tracing::warn!("a container is left over: {}", brief(&e));
                0
            }
        });
        Ok(removed.fold(0, async |sum, one| sum + one).await)
    }

    fn current(&self) -> MutexGuard<'_, HashSet<String>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The containers of one run. They are removed when it is dropped.
pub(super) struct RunPlace {
    runs: Arc<Runs>,
    id: String,
    name: String,
    labels: HashMap<String, String>,
    /// First that of the network, then the agent's.
    containers: Vec<String>,
}

impl RunPlace {
    /// A name for it that no other run has.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The daemon that has it.
    pub fn daemon(&self) -> Arc<Daemon> {
        self.runs.daemon.clone()
    }

    /// The container of its network, once there is one.
    pub fn network(&self) -> &str {
        self.containers.first().map_or("", String::as_str)
    }

    /// The agent's container, once there is one.
    pub fn agent(&self) -> &str {
        self.containers.get(1).map_or("", String::as_str)
    }

    /// Makes one of its containers, and returns its id.
    pub async fn create(&mut self, role: &str, body: ContainerCreateBody) -> Result<String, Error> {
        let body = ContainerCreateBody { labels: Some(self.labels.clone()), ..body };
        let id = self.runs.daemon.create(format!("{}-{role}", self.name), body).await?;
        self.containers.push(id.clone());
        Ok(id)
    }

    /// Removes its containers.
    pub async fn remove(mut self) {
        remove(&self.runs.daemon, std::mem::take(&mut self.containers)).await;
    }
}

impl Drop for RunPlace {
    fn drop(&mut self) {
        self.runs.current().remove(&self.id);
        let (daemon, containers) = (self.daemon(), std::mem::take(&mut self.containers));
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !containers.is_empty()
        {
            runtime.spawn(async move { remove(&daemon, containers).await });
        }
    }
}

async fn remove(daemon: &Daemon, containers: Vec<String>) {
    // The agent's first: it is in the other one's network.
    for id in containers.iter().rev() {
        if let Err(e) = daemon.remove(id).await {
            tracing::warn!("a container is not removed until Docker answers again: {}", brief(&e));
        }
    }
}
