//! Giving agents the URL of a tool that was registered, or moved, after they were deployed.

use super::Service;
use futures_util::{StreamExt, stream};
use hoistway_kit::time::now_ms;
use hoistway_model::{Digest, Error, Name, Operation, Result, RevisionId, agent::AgentSpec, tool::BoundTool};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
};

/// Agents that are replaced at the same time.
const AT_ONCE: usize = 4;
/// A deploy that is switched to now may have looked its tools up so long ago.
const LATELY_MS: i64 = 15 * 60 * 1000;

/// A tool's URL, for those who lack one or have an older one.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    url: String,
    /// The tool's URLs before. One that is neither this nor absent may be newer, and is left.
    replaces: BTreeSet<String>,
    at: i64,
}

impl Binding {
    fn is_wanted(&self, spec: &AgentSpec, tool: &Name) -> bool {
        spec.tools.iter().any(|t| t.name == *tool && self.is_newer(t.url.as_ref()))
    }

    fn is_newer(&self, url: Option<&String>) -> bool {
        url.is_none_or(|url| self.replaces.contains(url))
    }
}

type Bindings = HashMap<Name, Binding>;

impl Service {
    pub(super) async fn bind(
        self: Arc<Self>,
        operation: Operation,
        tool: BoundTool,
        replaces: Option<String>,
    ) -> Result<Vec<Name>> {
        let url = tool.url.clone().ok_or_else(|| Error::field("tool.url", "is required"))?;
        let payload = match &replaces {
            None => Digest::of(format!("{} {url}", tool.name).as_bytes()),
            Some(old) => Digest::of(format!("{} {url} {old}", tool.name).as_bytes()),
        };
        if let Some(names) = self.store.bind_begin(&operation, payload).await? {
            return Ok(names);
        }
        let binding = self.remember(&tool.name, url, replaces);
        let mut wanting = Vec::new();
        for agent in self.store.agents().await? {
            if let Some(desired) = &agent.desired
                && let Some(revision) = self.store.revision(desired).await?
                && binding.is_wanted(&revision.spec, &tool.name)
            {
                wanting.push(agent.name);
            }
        }
        let mut names: Vec<Name> = stream::iter(wanting)
            .map(|name| {
                let (service, tools) = (Arc::clone(&self), Bindings::from([(tool.name.clone(), binding.clone())]));
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
        let Some(supervisor) = self.supervisor(id) else { return };
        let tools: Bindings = {
            let mut lately = self.lately_bound();
            lately.retain(|_, binding| binding.at > now_ms() - LATELY_MS);
            let spec = &supervisor.revision.spec;
            let late = lately.iter().filter(|(tool, binding)| binding.is_wanted(spec, tool));
            late.map(|(tool, binding)| (tool.clone(), binding.clone())).collect()
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
    async fn rebind(self: Arc<Self>, name: &Name, tools: &Bindings) -> bool {
        match Arc::clone(&self).try_rebind(name, tools).await {
            Ok(done) => done,
            Err(e) => {
                tracing::warn!(agent = %name, cause = e.chain(), "the agent was not given a new tool's URL: {e}");
                false
            }
        }
    }

    async fn try_rebind(self: Arc<Self>, name: &Name, tools: &Bindings) -> Result<bool> {
        self.swap_instance(name, |spec| with_tools(spec, tools)).await
    }

    /// Keeps the binding for those who are on their way, with what those before it have replaced.
    fn remember(&self, tool: &Name, url: String, replaces: Option<String>) -> Binding {
        let mut lately = self.lately_bound();
        let mut replaced: BTreeSet<String> = replaces.into_iter().collect();
        if let Some(before) = lately.remove(tool).filter(|before| replaced.contains(&before.url) || before.url == url) {
            replaced.extend(before.replaces);
        }
        replaced.remove(&url);
        let binding = Binding { url, replaces: replaced, at: now_ms() };
        lately.insert(tool.clone(), binding.clone());
        binding
    }

    fn lately_bound(&self) -> MutexGuard<'_, Bindings> {
        self.lately_bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same specification with the URLs that it wants; nothing if it wants none of them.
fn with_tools(mut spec: AgentSpec, tools: &Bindings) -> Option<AgentSpec> {
    let mut changed = false;
    for tool in &mut spec.tools {
        if let Some(binding) = tools.get(&tool.name).filter(|binding| binding.is_newer(tool.url.as_ref())) {
            tool.url = Some(binding.url.clone());
            changed = true;
        }
    }
    changed.then_some(spec)
}
