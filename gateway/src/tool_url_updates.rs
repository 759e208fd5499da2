//! Gives agents the current URLs of their tools: after a registration or a move, and at start, to finish the work of an
//! earlier process.

use crate::state::AppState;
use hoistway_kit::telemetry::{self, TraceParent};
use hoistway_model::{
    Code, Name, Operation, Result, page,
    tool::{BoundTool, Tool},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tracing::{Instrument, info_span};

/// The most times that agents follow a tool that moves again meanwhile.
const FOLLOW: usize = 10;

/// Gives a tool's URL to the agents that lack it or have an older one, `replaces` among them, without making the
/// caller wait for them.
pub fn propagate(state: &Arc<AppState>, tool: Name, replaces: Option<String>) {
    let at = state.clone();
    let task = async move {
        if let Err(e) = follow(&at, &tool, replaces).await {
            let cause = e.chain();
            tracing::warn!(cause, "tool \"{tool}\" could not be bound to agents that require it: {e}");
        }
    };
    let request = telemetry::request_id().unwrap_or_default();
    // A span of its own: the request's ends with its answer.
    let span = info_span!(parent: None, "tool.propagate", request_id = %request);
    TraceParent::current().adopt(&span);
    state.tasks.spawn(telemetry::with_request_id(request, task).instrument(span));
}

/// The properties of a tool that agents know.
struct Called {
    name: Name,
    internal_url: String,
}

impl Called {
    fn of(Tool { name, internal_url, .. }: Tool) -> Self {
        Self { name, internal_url }
    }
}

async fn follow(state: &AppState, name: &Name, replaces: Option<String>) -> Result<()> {
    // A deploy in progress looked the tool up before: its agent does not exist yet, and will have this URL.
    let mut older: BTreeSet<String> = replaces.into_iter().collect();
    let mut last: Option<String> = None;
    for _ in 0..FOLLOW {
        let tool = match state.tools.get_tool(name.clone()).await {
            Err(e) if e.code == Code::NotFound => return Ok(()),
            found => Called::of(found?),
        };
        // Calls that changed the tool may arrive here in any order: the registry's state counts.
        if last.as_ref() == Some(&tool.internal_url) {
            break;
        }
        older.extend(last.take());
        let bound = page::of_agents(&*state.agents, |agent| Some(agent.spec.tools)).await?;
        older.extend(stale(bound.iter().flatten(), &tool));
        bind(state, &tool, &older).await?;
        last = Some(tool.internal_url);
    }
    Ok(())
}

/// Returns the URLs of a tool that agents have and that differ from its own.
fn stale<'a>(bound: impl Iterator<Item = &'a BoundTool>, tool: &Called) -> BTreeSet<String> {
    let bound = bound.filter(|bound| bound.name == tool.name);
    bound.filter_map(|bound| bound.url.clone()).filter(|url| *url != tool.internal_url).collect()
}

async fn bind(state: &AppState, tool: &Called, older: &BTreeSet<String>) -> Result<()> {
    let name = &tool.name;
    let older = older.iter().filter(|url| **url != tool.internal_url).cloned().map(Some);
    // An agent without a URL receives one with any of them.
    let mut calls: Vec<Option<String>> = older.collect();
    if calls.is_empty() {
        calls.push(None);
    }
    for replaces in calls {
        let bound = BoundTool { name: name.clone(), url: Some(tool.internal_url.clone()) };
        let bound = state.agents.bind_tool(Operation::new(), bound, replaces).await?;
        if !bound.is_empty() {
            let names: Vec<_> = bound.iter().map(Name::as_str).collect();
            tracing::info!("agents were given the URL of tool \"{name}\": {}", names.join(", "));
        }
    }
    Ok(())
}

/// Finds agents whose URLs differ from those of their tools, and corrects them.
pub async fn reconcile(state: &AppState) -> Result<()> {
    let bound = page::of_agents(&*state.agents, |agent| Some(agent.spec.tools)).await?;
    let tools = page::of_tools(&*state.tools, |tool| Some(Called::of(tool))).await?;
    let tools: BTreeMap<Name, Called> = tools.into_iter().map(|tool| (tool.name.clone(), tool)).collect();
    let bound = || bound.iter().flatten();
    let behind = bound()
        .filter(|bound| tools.get(&bound.name).is_some_and(|tool| bound.url.as_ref() != Some(&tool.internal_url)));
    let behind: BTreeSet<&Name> = behind.map(|bound| &bound.name).collect();
    for tool in behind.into_iter().filter_map(|name| tools.get(name)) {
        bind(state, tool, &stale(bound(), tool)).await?;
    }
    Ok(())
}
