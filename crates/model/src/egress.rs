//! Egress, the way out of agents: what it learns from the tool registry and the agent service, and its own trait.

use crate::{
    ModelPrices, Name, Result, RevisionId, Secret,
    agent::LlmConfig,
    budget::{Budget, BudgetUse, LimitUse},
    metric::Metrics,
    tool::{ApiKeyPlace, AuthType, OAuth2},
    usage::{UsageQuery, UsageReport},
    watch::Updates,
};
use async_trait::async_trait;
use std::{collections::BTreeMap, fmt, pin::Pin, str::FromStr};

/// A tool as egress calls it. Its credentials are in it, so it goes to egress and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolAccess {
    /// Unique name.
    pub name: Name,
    /// Its base URL as it is reached from inside the installation, with its port.
    pub url: String,
    /// The kind of credential.
    pub auth_type: AuthType,
    /// Where the API key goes, if the user said so.
    pub api_key: Option<ApiKeyPlace>,
    /// Where tokens come from, if the user said so.
    pub oauth2: Option<OAuth2>,
    /// The stored credential fields; none when none are stored.
    pub credentials: BTreeMap<String, Secret>,
}

/// A model provider as egress calls it. Its credentials are in it, so it goes to egress and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProviderAccess {
    /// Unique name.
    pub name: Name,
    /// The protocol that it speaks: openai, anthropic, bedrock or ollama.
    pub provider: String,
    /// Base URL; empty means the provider's own.
    pub endpoint: String,
    /// The models that it serves; none: any.
    pub models: Vec<String>,
    /// What models cost.
    pub prices: ModelPrices,
    /// How long an answer may take to begin; none: as long as egress waits for any.
    pub timeout_seconds: Option<u32>,
    /// How many more times a call is made that failed.
    pub retries: u32,
    /// The stored credential fields; none when none are stored.
    pub credentials: BTreeMap<String, Secret>,
    /// Whether it belongs to the starter kit.
    pub demo: bool,
}

/// The part of the tool registry that shows credentials.
#[async_trait]
pub trait ToolCredentials: fmt::Debug + Send + Sync + 'static {
    /// Every tool, then each change once it is committed.
    async fn watch_tools(&self) -> Result<Updates<Name, ToolAccess>>;

    /// Every model provider, then each change once it is committed.
    async fn watch_model_providers(&self) -> Result<Updates<Name, ModelProviderAccess>>;
}

/// A revision of an agent whose token is worth something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The revision, as users know it.
    pub revision: RevisionId,
    /// The agent.
    pub agent: Name,
    /// The tools that it may call; they need not exist.
    pub required_tools: Vec<Name>,
    /// Whether its network is open: then egress also lets it through to hosts that are no tool.
    pub open_network: bool,
    /// The models that it may call.
    pub llm: Vec<LlmConfig>,
    /// The public APIs of models, `https://HOST`, that it calls with a key of its own.
    pub own_key_origins: Vec<String>,
}

/// A call of an agent that egress refused or could not carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCall {
    /// The revision that made it.
    pub revision: RevisionId,
    /// What it called and why that failed, in one line for the people who wrote the agent.
    pub text: String,
}

/// The part of the agent service that says whom egress lets out.
#[async_trait]
pub trait AgentIdentities: fmt::Debug + Send + Sync + 'static {
    /// Every revision that is up or coming up, then each change. Those of a deleted agent are removed before its
    /// processes are ended, a replaced one after it has ended.
    async fn watch_identities(&self) -> Result<Updates<RevisionId, AgentIdentity>>;

    /// Writes into the logs of agents, beside their own lines, which of their calls were refused. Those of revisions
    /// that are gone are dropped.
    async fn log_refused_calls(&self, calls: Vec<RefusedCall>) -> Result<()>;
}

/// What egress has learnt from another service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicySource {
    /// Whether everything has been read at least once since the start.
    pub complete: bool,
    /// Whether changes arrive at the moment. Without them what was read last stays in force.
    pub connected: bool,
    /// How many records it has.
    pub records: u64,
}

/// How current egress' knowledge is of what agents may call.
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
    /// Whether all of them have been read at least once since the start, without which no call is let through.
    pub const fn is_complete(&self) -> bool {
        self.tools.complete && self.identities.complete && self.model_providers.complete
    }

    /// Whether changes of all of them arrive at the moment.
    pub const fn is_connected(&self) -> bool {
        self.tools.connected && self.identities.connected && self.model_providers.connected
    }
}

/// What a call was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallTarget {
    /// A tool.
    Tool(Name),
    /// A model provider.
    ModelProvider(Name),
}

/// One outbound call of an agent, carried out or refused. Never a body, a header or a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Counts up, and is not used again.
    pub id: u64,
    /// When it began; milliseconds since the epoch.
    pub at: i64,
    /// The agent; absent when nobody could be recognised.
    pub agent: Option<Name>,
    /// Its revision.
    pub revision: Option<RevisionId>,
    /// What was called; absent when it was refused before that was known.
    pub target: Option<CallTarget>,
    /// The method.
    pub method: String,
    /// `SCHEME://HOST` with the port where the scheme does not mean it; empty when it was not understood.
    pub origin: String,
    /// The path, without a query.
    pub path: String,
    /// The status that the agent got.
    pub status: Option<u16>,
    /// Milliseconds until the response's header.
    pub first_byte_ms: u64,
    /// Milliseconds until the end.
    pub duration_ms: u64,
    /// Bytes of the request's body.
    pub bytes_up: u64,
    /// Bytes of the response's body.
    pub bytes_down: u64,
    /// Why egress refused the call or could not carry it out, in one word; absent when the tool answered.
    pub refused: Option<String>,
    /// The same in words, as the agent was told.
    pub error: Option<String>,
    /// Why it ended early after the response had begun, in one word.
    pub broken: Option<String>,
}

/// Which calls are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallQuery {
    /// Those of one agent.
    pub agent: Option<Name>,
    /// Those of one tool.
    pub tool: Option<Name>,
    /// Those that egress refused or could not carry out.
    pub refused: bool,
    /// Those from before the call of this id.
    pub before: Option<u64>,
    /// So many at most.
    pub limit: u32,
}

/// One step of following calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallUpdate {
    /// The calls after that of this id follow. It comes first.
    Position(u64),
    /// A call that ended and whose record is committed.
    Call(Box<Call>),
    /// So many calls were left out here: more ended than were read, or their records are not kept any more.
    Missed(u64),
    /// A limit of an agent's budget is nearly used up, or is. It is told once, to those who follow at that moment.
    Budget(BudgetNotice),
}

/// A limit of an agent's budget that is nearly used up, or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetNotice {
    /// When that was; milliseconds since the epoch.
    pub at: i64,
    /// The agent.
    pub agent: Name,
    /// The limit, as it was used then.
    pub limit: LimitUse,
    /// Whether nothing of it is left.
    pub is_exceeded: bool,
}

/// Calls as they end. Whoever loses it subscribes again, with the id of the last call that it has.
pub type CallUpdates = Pin<Box<dyn futures_core::Stream<Item = Result<CallUpdate>> + Send>>;

/// A part of a check of a tool or a model provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// Whether its host can be reached.
    Address,
    /// Whether its certificate is trusted.
    Tls,
    /// Whether its credential is there and accepted.
    Credential,
    /// Whether it has one of the models that it is registered with.
    Model,
}

impl CheckKind {
    /// The public spelling.
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

/// What a part of a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStep {
    /// The part.
    pub check: CheckKind,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found and what to do, for people. Never a secret.
    pub message: String,
}

/// What a check of a tool or a model provider found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The status of its answer, if there was one.
    pub status: Option<u16>,
    /// Milliseconds until the head of that answer, the access token's included.
    pub latency_ms: Option<u64>,
    /// Its parts, as far as it came, in order.
    pub steps: Vec<CheckStep>,
}

impl Check {
    /// Whether it works.
    pub fn is_ok(&self) -> bool {
        self.steps.iter().all(|step| step.ok)
    }
}

/// Egress as the rest of the platform sees it.
#[async_trait]
pub trait EgressService: fmt::Debug + Send + Sync + 'static {
    /// How current its policies are.
    async fn status(&self) -> Result<EgressStatus>;

    /// The certificate, in PEM, of the authority that vouches to agents for the hosts of their tools.
    async fn authority(&self) -> Result<String>;

    /// Calls that are kept, newest first.
    async fn calls(&self, query: CallQuery) -> Result<Vec<Call>>;

    /// Follows calls: those after the one with the id `after`, or those that end from now on. Nobody who calls waits for
    /// a follower.
    async fn watch_calls(&self, after: Option<u64>) -> Result<CallUpdates>;

    /// What agents used of models, summed up.
    async fn usage(&self, query: UsageQuery) -> Result<UsageReport>;

    /// An agent's budget, and how much of it is used; none: it has no budget. The agent need not exist.
    async fn budget(&self, agent: Name) -> Result<Option<BudgetUse>>;

    /// Gives an agent a budget in the place of the one before, or takes it away.
    async fn set_budget(&self, agent: Name, budget: Option<Budget>) -> Result<()>;

    /// Checks a tool with a request to its base URL, on the way that agents' calls take and with its credential. It takes
    /// ten seconds at most.
    async fn check_tool(&self, name: Name) -> Result<Check>;

    /// Checks a model provider: asks which models it has, on the way that agents' calls take and with its key. It takes
    /// ten seconds at most, and no model is run.
    async fn check_model_provider(&self, name: Name) -> Result<Check>;

    /// What the service measured since it started.
    async fn egress_metrics(&self) -> Result<Metrics>;
}
