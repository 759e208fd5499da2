//! Giving agents the URL of a tool that was registered after they were deployed.

use super::Service;
use futures_util::{StreamExt, stream};
use hoistway_kit::time::now_ms;
use hoistway_model::{Digest, Error, Name, Operation, Result, RevisionId, agent::AgentSpec, tool::BoundTool};
use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
};

/// Agents that are replaced at the same time.
const AT_ONCE: usize = 4;
/// A deploy that is switched to now may have looked its tools up so long ago.
const LATELY_MS: i64 = 15 * 60 * 1000;

impl Service {
    pub(super) async fn bind(self: Arc<Self>, operation: Operation, tool: BoundTool) -> Result<Vec<Name>> {
        let url = tool.url.clone().ok_or_else(|| Error::field("tool.url", "is required"))?;
        let payload = Digest::of(format!("{} {url}", tool.name).as_bytes());
        if let Some(names) = self.store.bind_begin(&operation, payload).await? {
            return Ok(names);
        }
        self.lately_bound().insert(tool.name.clone(), (url, now_ms()));
        let mut wanting = Vec::new();
        for agent in self.store.agents().await? {
            if let Some(desired) = &agent.desired
                && let Some(revision) = self.store.revision(desired).await?
                && lacks(&revision.spec, &tool.name)
            {
                wanting.push(agent.name);
            }
        }
        let mut names: Vec<Name> = stream::iter(wanting)
            .map(|name| {
                let (service, tools) = (Arc::clone(&self), vec![tool.clone()]);
                async move { service.rebind(&name, &tools).await.then_some(name) }
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        names.sort();
        self.store.bind_finish(&operation, &names).await?;
        Ok(names)
    }

    /// Binds what was registered while a revision that has just been switched to was on its way.
    pub(super) fn bind_late(self: &Arc<Self>, name: &Name, id: &RevisionId) {
        let Some(keeper) = self.keeper(id) else { return };
        let tools: Vec<BoundTool> = {
            let mut lately = self.lately_bound();
            lately.retain(|_, (_, at)| *at > now_ms() - LATELY_MS);
            let spec = &keeper.revision.spec;
            let late = lately.iter().filter(|(tool, _)| lacks(spec, tool));
            late.map(|(tool, (url, _))| BoundTool { name: tool.clone(), url: Some(url.clone()) }).collect()
        };
        if tools.is_empty() {
            return;
        }
        let (service, name) = (Arc::clone(self), name.clone());
        self.tasks.spawn(async move {
            service.rebind(&name, &tools).await;
        });
    }

    /// Replaces an agent's instance by one that knows `tools`; whether it could.
    async fn rebind(self: Arc<Self>, name: &Name, tools: &[BoundTool]) -> bool {
        match Arc::clone(&self).try_rebind(name, tools).await {
            Ok(done) => done,
            Err(e) => {
                tracing::warn!(agent = %name, cause = e.chain(), "the agent was not given a new tool's URL: {e}");
                false
            }
        }
    }

    async fn try_rebind(self: Arc<Self>, name: &Name, tools: &[BoundTool]) -> Result<bool> {
        self.swap_instance(name, |spec| with_tools(spec, tools)).await
    }

    fn lately_bound(&self) -> MutexGuard<'_, HashMap<Name, (String, i64)>> {
        self.lately_bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lacks(spec: &AgentSpec, tool: &Name) -> bool {
    spec.tools.iter().any(|t| t.name == *tool && t.url.is_none())
}

/// The same specification with URLs where it lacks them; nothing if it lacks none of them.
fn with_tools(mut spec: AgentSpec, tools: &[BoundTool]) -> Option<AgentSpec> {
    let mut changed = false;
    for tool in spec.tools.iter_mut().filter(|t| t.url.is_none()) {
        if let Some(found) = tools.iter().find(|t| t.name == tool.name) {
            tool.url.clone_from(&found.url);
            changed = true;
        }
    }
    changed.then_some(spec)
}
