//! Agents and their invokes as the OpenAPI document describes them.
#![expect(dead_code, reason = "nothing makes them: they describe what `shape` and the runner answer")]

use crate::{
    api::config_fields::{SpecConfig, ToolOut},
    image_host::PublicRegistry,
};
use hoistway_kit::time::rfc3339;
use hoistway_model::{NAMESPACE, agent::Agent};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An agent.
#[derive(Debug, ToSchema)]
#[schema(as = Agent)]
pub struct AgentSchema {
    /// The agent's name, unique in the installation.
    #[schema(examples("hello"))]
    pub name: String,
    /// Where it runs.
    #[schema(examples("agent-system"))]
    pub namespace: String,
    /// Labels, by name.
    pub labels: BTreeMap<String, String>,
    /// The specification as deployed.
    pub spec: AgentSpecOut,
    /// Its status.
    pub status: AgentStatusSchema,
    /// When it was deployed first.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it was changed last.
    #[schema(format = DateTime)]
    pub updated_at: String,
}

/// The specification of an agent as deployed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AgentSpec)]
pub struct AgentSpecOut {
    /// The image, at an address from which it can be pulled.
    #[schema(examples("127.0.0.1:29085/hello:0c67cd1d8fc8"))]
    pub image: String,
    /// The build that made the image; null for an image that was built elsewhere.
    #[schema(required, examples("build-0c67cd1d8fc8"))]
    pub build_id: Option<String>,
    /// The tools that the agent uses.
    pub required_tools: Vec<ToolOut>,
    /// Its configuration.
    #[serde(flatten)]
    pub config: SpecConfig,
}

/// The status of an agent.
#[derive(Debug, ToSchema)]
#[schema(as = AgentStatus, rename_all = "camelCase")]
pub struct AgentStatusSchema {
    /// `Running`, it answers; `Pending`, it does not yet; `Failed`, it does not any more; `Stopped`, somebody wanted it
    /// so. `message` says why.
    #[schema(examples("Running"))]
    pub phase: String,
    /// Why, when it is not simply running.
    pub message: String,
    /// Whether it was stopped because nobody invoked it: the next invoke starts it. Its phase is `Running`.
    pub idle: bool,
    /// The id of the wanted revision.
    pub revision: String,
    /// Its number among the agent's revisions.
    pub revision_number: u64,
    /// The digest of the running image's manifest; null until it is known.
    #[schema(required)]
    pub image_digest: Option<String>,
    /// The isolation of the agent from the machine, as enforced; `not sandboxed` if there is none.
    #[schema(examples("namespaces: user, pid, mount, ipc; landlock ABI 7; seccomp"))]
    pub isolation: String,
    /// The agent's network access: `open` or `closed`.
    #[schema(examples("open"))]
    pub network: String,
    /// Its limits, as enforced.
    #[schema(examples("512 processes, 512 MiB disk, 4 GiB in one file, 4096 open files"))]
    pub limits: String,
}

/// The request of an invoke: any members that the agent's parameters take. Most agents take a message.
#[derive(Debug, ToSchema)]
#[schema(as = InvokeRequest)]
pub struct InvokeSchema {
    /// The message. An agent that needs one says so.
    #[schema(examples("world"))]
    pub message: Option<String>,
}

/// The answer of an agent. There may be more members, which are the agent's own.
#[derive(Debug, ToSchema)]
#[schema(as = InvokeAnswer)]
pub struct AnswerSchema {
    /// The value that the agent returned: any JSON.
    pub response: Value,
}

/// Any JSON.
#[derive(Debug)]
pub struct AnyJson;

impl utoipa::PartialSchema for AnyJson {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, SchemaType};
        ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some("Any JSON; in a stream of events, each event."))
            .into()
    }
}

impl ToSchema for AnyJson {}

/// Returns an agent as every answer shows it.
pub fn show(agent: &Agent, public: &PublicRegistry) -> Value {
    let spec = agent.spec.clone();
    let spec = AgentSpecOut {
        image: public.show_image(&spec.image),
        build_id: spec.build_id,
        required_tools: spec.tools.into_iter().map(Into::into).collect(),
        config: SpecConfig::of(spec.config, agent.shown_env.iter().cloned()),
    };
    json!({
        "name": agent.name,
        "namespace": NAMESPACE,
        "labels": {},
        "spec": spec,
        "status": {
            "phase": agent.phase.as_str(),
            "message": agent.message,
            "idle": agent.idle,
            "revision": agent.revision,
            "revisionNumber": agent.revision_number,
            "imageDigest": agent.image_digest,
            "isolation": agent.isolation,
            "network": agent.network,
            "limits": agent.limits,
        },
        "created_at": rfc3339(agent.created_at),
        "updated_at": rfc3339(agent.updated_at),
    })
}
