//! `/api/status`.

use super::error::ApiResult;
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_model::{NAMESPACE, Result, agent::RuntimeStatus, egress::EgressStatus};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// An installation.
#[derive(Debug, Serialize, ToSchema)]
pub struct Installation {
    /// Hoistway's version.
    #[schema(examples("0.1.0"))]
    version: &'static str,
    /// The namespace of all agents.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// The runtime of agents.
    runtime: AgentRuntime,
    /// The way out of agents.
    egress: EgressState,
}

/// The runtime of agents, and their isolation from the rest of the machine.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentRuntime {
    /// Which runtime: `process` or `docker`.
    #[schema(examples("process"))]
    name: String,
    /// The enforced isolation, and no more: the parts of the sandbox, or `not sandboxed`.
    #[schema(examples("namespaces: user, pid, mount, ipc, net; landlock ABI 7; seccomp", "not sandboxed"))]
    isolation: String,
    /// The network access of agents: `open` or `closed`.
    #[schema(examples("open"))]
    network: String,
    /// The limits of each agent, as enforced.
    #[schema(examples("1 GiB memory, 512 processes, 512 MiB disk, 4 GiB in one file, 4096 open files"))]
    limits: String,
    /// Major and minor version of the interpreter.
    #[schema(examples("3.11"))]
    python: String,
    /// Further information for operators, such as why there is no stronger sandbox.
    details: Vec<String>,
}

impl From<RuntimeStatus> for AgentRuntime {
    fn from(status: RuntimeStatus) -> Self {
        let RuntimeStatus { name, isolation, network, limits, python, notes } = status;
        Self { name, isolation, network, limits, python, details: notes }
    }
}

/// The way out of agents: whether it answers, and how current its policies are.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Egress)]
pub struct EgressState {
    /// Whether it answers. All else is false and 0 while it does not.
    #[schema(examples(true))]
    reachable: bool,
    /// Whether it has read every tool, model provider and running agent since it started; until then no call is let through.
    #[schema(examples(true))]
    complete: bool,
    /// Whether changes of tools, model providers and agents reach it now; until they do, what it read last stays in force.
    #[schema(examples(true))]
    connected: bool,
    /// The number of tools that it knows.
    #[schema(examples(1))]
    tools: u64,
    /// The number of running revisions of agents that it knows.
    #[schema(examples(1))]
    revisions: u64,
}

impl From<Result<EgressStatus>> for EgressState {
    fn from(status: Result<EgressStatus>) -> Self {
        let Ok(status) = status else { return Self::default() };
        Self {
            reachable: true,
            complete: status.is_complete(),
            connected: status.is_connected(),
            tools: status.tools.records,
            revisions: status.identities.records,
        }
    }
}

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(status))
}

/// Look at the installation
///
/// Its version; what runs agents: which sandbox they have, what they reach of the network, and their limits; and whether
/// egress, which carries their calls to tools, is there and current.
#[utoipa::path(
    get,
    path = "/status",
    tag = "platform",
    operation_id = "get_status",
    responses((
        status = 200,
        description = "The installation as it is",
        body = Installation,
        example = json!({
            "version": "0.1.0",
            "namespace": "agent-system",
            "runtime": {
                "name": "process",
                "isolation": "namespaces: user, pid, mount, ipc, net; landlock ABI 7; seccomp",
                "network": "closed",
                "limits": "1 GiB memory, 512 processes, 512 MiB disk, 4 GiB in one file, 4096 open files",
                "python": "3.11",
                "details": [],
            },
            "egress": {"reachable": true, "complete": true, "connected": true, "tools": 1, "revisions": 1},
        })
    ))
)]
pub async fn status(State(state): State<Arc<AppState>>) -> ApiResult<Json<Installation>> {
    let (runtime, egress) = tokio::join!(state.agents.runtime(), state.egress.status());
    let (runtime, egress) = (runtime?.into(), egress.into());
    Ok(Json(Installation { version: env!("CARGO_PKG_VERSION"), namespace: NAMESPACE, runtime, egress }))
}
