//! Egress, the proxy for outbound calls of agents: its inputs from the tool registry and the agent service, and its own
//! trait.

use crate::{
    ModelPrices, Name, Result, RevisionId, Secret,
    agent::LlmConfig,
    budget::{Budget, BudgetUse, LimitUse},
    metric::Metrics,
    tool::{ApiKeyLocation, AuthType, OAuth2},
    usage::{UsageQuery, UsageReport},
    watch::Updates,
};
use async_trait::async_trait;
use std::{collections::BTreeMap, fmt, pin::Pin, str::FromStr};

/// A tool as called by egress. It includes credentials, so it is sent to egress only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolAccess {
    /// Unique name.
    pub name: Name,
    /// Its base URL as reachable from inside the installation, with its port.
    pub url: String,
    /// The kind of credential.
    pub auth_type: AuthType,
    /// The location of the API key, if the user configured it.
    pub api_key: Option<ApiKeyLocation>,
    /// The source of tokens, if the user configured it.
    pub oauth2: Option<OAuth2>,
    /// The stored credential fields; empty if none are stored.
    pub credentials: BTreeMap<String, Secret>,
}

/// A model provider as called by egress. It includes credentials, so it is sent to egress only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProviderAccess {
    /// Unique name.
    pub name: Name,
    /// Its protocol: openai, anthropic, bedrock or ollama.
    pub provider: String,
    /// Base URL; empty means the provider's own.
    pub endpoint: String,
    /// The models that it serves; empty means any.
    pub models: Vec<String>,
    /// The prices of models.
    pub prices: ModelPrices,
    /// The time limit until a response begins, in seconds; `None` means egress' default.
    pub timeout_seconds: Option<u32>,
    /// The number of retries of a failed call.
    pub retries: u32,
    /// The stored credential fields; empty if none are stored.
    pub credentials: BTreeMap<String, Secret>,
    /// Whether it belongs to the starter kit.
    pub demo: bool,
}

/// The part of the tool registry that returns credentials.
#[async_trait]
pub trait ToolCredentials: fmt::Debug + Send + Sync + 'static {
    /// Follows all tools: every tool, then each change once it is committed.
    async fn watch_tools(&self) -> Result<Updates<Name, ToolAccess>>;

    /// Follows all model providers: every one, then each change once it is committed.
    async fn watch_model_providers(&self) -> Result<Updates<Name, ModelProviderAccess>>;
}

/// A revision of an agent whose token is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The revision, as shown to users.
    pub revision: RevisionId,
    /// The agent.
    pub agent: Name,
    /// The tools that it may call; they need not exist.
    pub required_tools: Vec<Name>,
    /// Whether its network is open: then egress also lets it reach hosts other than tools.
    pub open_network: bool,
    /// The models that it may call.
    pub llm: Vec<LlmConfig>,
    /// The public model APIs, `https://HOST`, that it calls with a key of its own.
    pub own_key_origins: Vec<String>,
}

/// A call of an agent that egress refused or could not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCall {
    /// The revision that made it.
    pub revision: RevisionId,
    /// The called address and the reason of the failure, in one line for the agent's authors.
    pub text: String,
}

/// The part of the agent service that determines whose calls egress accepts.
#[async_trait]
pub trait AgentIdentities: fmt::Debug + Send + Sync + 'static {
    /// Follows every running or starting revision, then each change. Those of a deleted agent are removed before its
    /// processes are ended, a replaced one after it has ended.
    async fn watch_identities(&self) -> Result<Updates<RevisionId, AgentIdentity>>;

    /// Writes refused calls into the logs of agents, beside their own lines. Those of ended revisions are dropped.
    async fn log_refused_calls(&self, calls: Vec<RefusedCall>) -> Result<()>;
}

/// The state of egress' data from another service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicySource {
    /// Whether everything has been read at least once since the start.
    pub complete: bool,
    /// Whether changes arrive at the moment. Otherwise the last known state stays in force.
    pub connected: bool,
    /// The number of records.
    pub records: u64,
}

/// The state of egress' policies on the calls of agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressStatus {
    /// Tools and their credentials, from the tool registry.
    pub tools: PolicySource,
    /// Revisions of agents, from the agent service.
    pub identities: PolicySource,
    /// Model providers and their credentials, from the tool registry.
    pub model_providers: PolicySource,
}

impl EgressStatus {
    /// Whether all of them have been read at least once since the start. Until then no call is allowed.
    pub const fn is_complete(&self) -> bool {
        self.tools.complete && self.identities.complete && self.model_providers.complete
    }

    /// Whether changes of all of them arrive at the moment.
    pub const fn is_connected(&self) -> bool {
        self.tools.connected && self.identities.connected && self.model_providers.connected
    }
}

/// The target of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallTarget {
    /// A tool.
    Tool(Name),
    /// A model provider.
    ModelProvider(Name),
}

/// One outbound call of an agent, completed or refused. It never contains a body, a header or a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Increases, and is never reused.
    pub id: u64,
    /// Its start; milliseconds since the epoch.
    pub at: i64,
    /// The agent; absent if it could not be authenticated.
    pub agent: Option<Name>,
    /// Its revision.
    pub revision: Option<RevisionId>,
    /// The called target; absent if it was refused before that was known.
    pub target: Option<CallTarget>,
    /// The method.
    pub method: String,
    /// `SCHEME://HOST`, with the port unless it is the scheme's default; empty if it could not be parsed.
    pub origin: String,
    /// The path, without a query.
    pub path: String,
    /// The status that the agent received.
    pub status: Option<u16>,
    /// Milliseconds until the response's header.
    pub first_byte_ms: u64,
    /// Milliseconds until the end.
    pub duration_ms: u64,
    /// Bytes of the request's body.
    pub bytes_up: u64,
    /// Bytes of the response's body.
    pub bytes_down: u64,
    /// The reason why egress refused the call or could not complete it, in one word; absent when the tool responded.
    pub refused: Option<String>,
    /// The same as a message, as sent to the agent.
    pub error: Option<String>,
    /// The reason why it ended early after the response had begun, in one word.
    pub broken: Option<String>,
}

/// A selection of calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallQuery {
    /// Those of one agent.
    pub agent: Option<Name>,
    /// Those of one tool.
    pub tool: Option<Name>,
    /// Those that egress refused or could not complete.
    pub refused: bool,
    /// Those before the call with this id.
    pub before: Option<u64>,
    /// The maximum number.
    pub limit: u32,
}

/// An item of the stream of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallUpdate {
    /// The calls after this id follow. It is the first item.
    Position(u64),
    /// A call that ended and whose record is committed.
    Call(Box<Call>),
    /// The number of calls that are missing here: more ended than were read, or their records have been removed.
    Missed(u64),
    /// A limit of an agent's budget is nearly or fully used. It is reported once, to the subscribers at that moment.
    Budget(BudgetNotice),
}

/// A limit of an agent's budget that is nearly or fully used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetNotice {
    /// The time; milliseconds since the epoch.
    pub at: i64,
    /// The agent.
    pub agent: Name,
    /// The limit, with its usage at that time.
    pub limit: LimitUse,
    /// Whether it is fully used.
    pub is_exceeded: bool,
}

/// Calls as they end. A client that loses the stream subscribes again, with the id of the last call that it has.
pub type CallUpdates = Pin<Box<dyn futures_core::Stream<Item = Result<CallUpdate>> + Send>>;

/// A step of a check of a tool or a model provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// Its host is reachable.
    Address,
    /// Its certificate is trusted.
    Tls,
    /// Its credential is stored and accepted.
    Credential,
    /// It has one of the models that it is registered with.
    Model,
}

impl CheckKind {
    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Tls => "tls",
            Self::Credential => "credential",
            Self::Model => "model",
        }
    }
}

impl FromStr for CheckKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Address, Self::Tls, Self::Credential, Self::Model];
        let found = all.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("\"{}\" is not one of address, tls, credential, model", text.escape_debug()))
    }
}

/// The result of a step of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStep {
    /// The step.
    pub check: CheckKind,
    /// Whether it passed.
    pub ok: bool,
    /// The finding and the remedy, for people. Never a secret.
    pub message: String,
}

/// The result of a check of a tool or a model provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The status of its response, if there was one.
    pub status: Option<u16>,
    /// Milliseconds until the head of that response, including the request for the access token.
    pub latency_ms: Option<u64>,
    /// The steps that were performed, in order.
    pub steps: Vec<CheckStep>,
}

impl Check {
    /// Whether every step passed.
    pub fn is_ok(&self) -> bool {
        self.steps.iter().all(|step| step.ok)
    }
}

/// The interface of egress to the rest of the platform.
#[async_trait]
pub trait EgressService: fmt::Debug + Send + Sync + 'static {
    /// Returns the state of its policies.
    async fn status(&self) -> Result<EgressStatus>;

    /// Returns the certificate, in PEM, of the certificate authority that issues certificates for the hosts of tools to
    /// agents.
    async fn authority(&self) -> Result<String>;

    /// Returns stored calls, newest first.
    async fn calls(&self, query: CallQuery) -> Result<Vec<Call>>;

    /// Follows calls: those after the one with the id `after`, or those that end from now on. A slow follower does not
    /// delay calls.
    async fn watch_calls(&self, after: Option<u64>) -> Result<CallUpdates>;

    /// Returns the aggregated usage of models by agents.
    async fn usage(&self, query: UsageQuery) -> Result<UsageReport>;

    /// Returns an agent's budget and its usage; `None` without a budget. The agent need not exist.
    async fn budget(&self, agent: Name) -> Result<Option<BudgetUse>>;

    /// Sets or removes an agent's budget.
    async fn set_budget(&self, agent: Name, budget: Option<Budget>) -> Result<()>;

    /// Checks a tool with a request to its base URL, on the same path and with the same credential as agents' calls. It
    /// takes at most ten seconds.
    async fn check_tool(&self, name: Name) -> Result<Check>;

    /// Checks a model provider by listing its models, on the same path and with the same key as agents' calls. It takes
    /// at most ten seconds, and no model is run.
    async fn check_model_provider(&self, name: Name) -> Result<Check>;

    /// Returns the metrics of the service since its start.
    async fn egress_metrics(&self) -> Result<Metrics>;
}
