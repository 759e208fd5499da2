//! Taking back a start, deleting an agent, and the end of the service.

use super::{ACK_LIMIT, Service};
use crate::store::Undo;
use futures_util::future::join_all;
use hoistway_model::{Name, Operation, OperationId, Result, RevisionId};
use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

/// The time that the requests of an agent that is deleted may go on.
const DELETE_GRACE: Duration = Duration::from_secs(5);
/// The time that requests may go on when the program ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Requests that still go on after that are left behind: its processes die with this one.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

impl Service {
    pub(super) async fn undo(self: Arc<Self>, started: Option<OperationId>, name: Name, id: RevisionId) -> Result<()> {
        let _lock = self.lock(&name).await;
        let undone = self.store.undo_start(started, &name, &id).await?;
        self.stop_revision(&id, Duration::ZERO).await;
        if undone == Undo::AgentToo {
            self.hub.remove(&name);
            self.events.deleted(&name);
            self.runtime.forget(&name).await?;
        } else {
            self.settle(&name).await?;
        }
        self.sweep_soon();
        Ok(())
    }

    pub(super) async fn delete(self: Arc<Self>, operation: Operation, name: Name) -> Result<()> {
        let _lock = self.lock(&name).await;
        let revisions = self.store.revision_ids(&name).await?;
        if !self.reserve.for_freeing(|| self.store.delete_agent(&operation, &name)).await? {
            return Ok(());
        }
        self.identities.remove_agent(&name);
        self.kept_layers().retain(|id, _| !revisions.contains(id));
        let version = self.hub.remove(&name);
        self.hub.wait_acked(version, ACK_LIMIT).await;
        self.events.deleted(&name);
        // An instance that was replaced and is still finishing may have no record any more.
        let instances: BTreeSet<RevisionId> = revisions.into_iter().chain(self.draining.of(&name)).collect();
        join_all(instances.iter().map(|id| self.stop_revision(id, DELETE_GRACE))).await;
        self.runtime.forget(&name).await?;
        self.sweep_soon();
        Ok(())
    }

    fn sweep_soon(self: &Arc<Self>) {
        let service = Arc::clone(self);
        self.tasks.spawn(async move { service.sweep().await });
    }

    /// Removes the layers and images that no revision uses.
    pub(super) async fn sweep(&self) {
        self.images.store().sweep().await;
        if self.runtime.runs_images() {
            match self.store.images().await {
                Ok(kept) => self.runtime.sweep_images(kept).await,
                Err(e) => tracing::warn!(cause = e.chain(), "images that no agent uses are not removed: {e}"),
            }
        }
    }

    /// Ends every watch of routes, events and logs, so that calls can drain. The first step of a shutdown.
    pub fn close_routes(&self) {
        self.hub.close();
        self.events.close();
        self.closing.cancel();
    }

    /// Stops every agent, all at the same time, and closes the database. Agents come back at the next start.
    pub async fn shutdown(&self) {
        self.close_routes();
        self.stopping.cancel();
        let supervisors: Vec<_> = self.supervisors().drain().map(|(_, supervisor)| supervisor).collect();
        let stop = async {
            join_all(supervisors.iter().map(|supervisor| supervisor.stop())).await;
            self.runtime.shutdown(SHUTDOWN_GRACE).await;
            self.tasks.close();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(SHUTDOWN_LIMIT, stop).await.is_err() {
            tracing::warn!("agents were still stopping after {} s", SHUTDOWN_LIMIT.as_secs());
        }
        self.store.close().await;
        self.directory.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
