//! The policy of an agent, as the control plane states it.
pub mod static_policy;
pub mod tool_access;
pub mod watched_policy;

use crate::{
    origin::Origin,
    request_path::{PathPattern, RequestPath, is_below},
};
use async_trait::async_trait;
use hoistway_model::{
    Error, ModelPrice, Name, Result, RevisionId, Secret,
    agent::LlmRole,
    egress::{EgressStatus, PolicySource},
};
use http::{HeaderName, Method};
use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The policy of one revision of an agent.
#[derive(Debug, Clone)]
pub struct AgentPolicy {
    /// The agent.
    pub agent: Name,
    /// Its revision.
    pub revision: RevisionId,
    /// The tools that it requires and that exist.
    pub tools: Vec<ToolPolicy>,
    /// The models that it may call, one for each role.
    pub models: Vec<ModelPolicy>,
    /// The public APIs of models that it calls with a key of its own.
    pub own_key_origins: Vec<Origin>,
    /// Whether hosts that are none of its tools are reached through egress too, as they are without it.
    pub open_network: bool,
}

/// The kind of an agent's calls of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Calls of one of its tools.
    Tool,
    /// Calls of models with the agent's own key.
    OwnKey,
    /// Calls of its models at the address of a public API.
    Models,
    /// None of these, and the agent's network is open.
    Open,
    /// None of these, and its network is closed.
    Closed,
}

impl AgentPolicy {
    /// The kind of the calls of `origin`.
    pub(crate) fn route(&self, origin: &Origin) -> Route {
        if self.tools.iter().any(|tool| tool.origin == *origin) {
            Route::Tool
        } else if self.own_key_origins.contains(origin) {
            Route::OwnKey
        } else if origin.is_public_model_api() {
            Route::Models
        } else if self.open_network {
            Route::Open
        } else {
            Route::Closed
        }
    }
}

/// A tool and how egress calls it.
#[derive(Debug, Clone)]
pub struct ToolPolicy {
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub origin: Origin,
    /// The path of its base URL, without a slash at the end. Calls go below it.
    pub prefix: String,
    /// The paths that may be called; none: everything below the base URL.
    pub capabilities: Vec<Capability>,
    /// The credential that egress adds to calls.
    pub credential: Credential,
    /// Whether it may be on this machine or in a private network.
    pub allow_private: bool,
}

impl ToolPolicy {
    /// A tool at a base URL, without credential, at a public address, all of which may be called.
    pub fn new(name: Name, base_url: &str) -> Result<Self> {
        let (origin, prefix) = Origin::of_url(base_url)?;
        let (capabilities, credential) = (Vec::new(), Credential::None);
        Ok(Self { name, origin, prefix, capabilities, credential, allow_private: false })
    }

    /// Whether not every method and path of its host is the tool's.
    pub fn is_narrowed(&self) -> bool {
        !self.capabilities.is_empty() || !matches!(&*self.prefix, "" | "/")
    }

    /// Why a call is not covered, if so.
    pub(crate) fn refuses(&self, method: &Method, path: &str, checked: &RequestPath) -> Option<String> {
        let name = &self.name;
        if !is_below(&self.prefix, path) {
            return Some(format!("the tool \"{name}\" is registered for {}{} and below", self.origin, self.prefix));
        }
        if self.capabilities.is_empty() {
            return None;
        }
        if let Some(what) = checked.ambiguous {
            return Some(format!("the tool \"{name}\" has capabilities, and {what} in the path could get around them"));
        }
        if self.capabilities.iter().any(|capability| capability.covers(method, checked)) {
            return None;
        }
        Some(format!("no capability of the tool \"{name}\" covers {method} on this path"))
    }
}

/// A part of a tool that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// The methods; none: all.
    pub methods: Vec<Method>,
    /// The paths, those of the base URL included.
    pub path: PathPattern,
}

impl Capability {
    fn covers(&self, method: &Method, path: &RequestPath) -> bool {
        (self.methods.is_empty() || self.methods.contains(method)) && self.path.matches(path)
    }
}

/// The credential that egress adds to a call.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing.
    None,
    /// A key that stays the same.
    ApiKey {
        /// Where it goes.
        place: KeyPlace,
        /// The prefix, such as `Bearer `.
        prefix: String,
        /// The key.
        value: Secret,
    },
    /// An access token by OAuth 2.0 client credentials.
    OAuth2(Arc<OAuth2Client>),
    /// There should be one and there is none that can be sent. Calls are refused with this text after the tool's name.
    Unavailable(&'static str),
}

/// Where an API key goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// Into this header.
    Header(HeaderName),
    /// Into this query parameter.
    Query(String),
}

/// A client of an authorization server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2Client {
    /// The token endpoint.
    pub token_url: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// The scopes that are requested, in order.
    pub scopes: Vec<String>,
    /// Who the token is for, where the server wants to know.
    pub audience: Option<String>,
}

/// A model that an agent may call.
#[derive(Debug, Clone)]
pub struct ModelPolicy {
    /// The API of the model.
    pub role: LlmRole,
    /// Its identifier, by which requests name it.
    pub model: String,
    /// The provider as the deploy named it.
    pub provider: String,
    /// Who answers.
    pub backend: ModelBackend,
    /// Its price there, if that is known.
    pub price: Option<ModelPrice>,
}

/// Who answers the calls of a model.
#[derive(Debug, Clone)]
pub enum ModelBackend {
    /// A provider's server.
    Server(Arc<ModelServer>),
    /// Egress itself, for the starter kit's provider of this name.
    Playground(Name),
    /// Nobody, as things are.
    Unavailable(Arc<ModelUnavailable>),
}

impl ModelBackend {
    /// The kind of provider, as OpenTelemetry's conventions for generative AI name it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Server(server) => match server.protocol {
                Protocol::OpenAi => "openai",
                Protocol::Anthropic => "anthropic",
                Protocol::Bedrock => "aws.bedrock",
            },
            Self::Playground(_) => "hoistway.playground",
            Self::Unavailable(_) => "none",
        }
    }

    /// The provider who answers; none where nobody does.
    pub(crate) fn provider(&self) -> Option<&Name> {
        match self {
            Self::Server(server) => Some(&server.name),
            Self::Playground(name) => Some(name),
            Self::Unavailable(_) => None,
        }
    }
}

/// The API that a model provider's server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The OpenAI API.
    OpenAi,
    /// The Messages API of Anthropic.
    Anthropic,
    /// The Converse API of Amazon Bedrock.
    Bedrock,
}

/// The key for a model provider's server.
#[derive(Debug, Clone)]
pub enum ModelKey {
    /// A key that stays the same.
    ApiKey(Secret),
    /// The credentials with which requests are signed.
    Aws(AwsKey),
}

/// An AWS access key, for requests in one region.
#[derive(Debug, Clone)]
pub struct AwsKey {
    /// Its identifier.
    pub access_key_id: Secret,
    /// Its secret.
    pub secret_access_key: Secret,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// The region that signatures are made for.
    pub region: String,
}

/// A model provider's server, and how egress calls it.
#[derive(Debug, Clone)]
pub struct ModelServer {
    /// The provider's name.
    pub name: Name,
    /// The API that it speaks.
    pub protocol: Protocol,
    /// Where it is.
    pub origin: Origin,
    /// The path of its base URL, without a slash at the end, such as `/v1`.
    pub prefix: String,
    /// The key that egress adds to calls.
    pub key: Option<ModelKey>,
    /// Whether it may be on this machine or in a private network.
    pub allow_private: bool,
    /// The time that its answer may take to begin, if not as long as any.
    pub timeout: Option<Duration>,
    /// The number of times that a failed call is made again.
    pub retries: u32,
}

/// A registered model provider, as a check sees it.
#[derive(Debug, Clone)]
pub struct RegisteredModels {
    /// The models that it is registered with; none: any.
    pub models: Vec<String>,
    /// Who answers their calls.
    pub backend: ModelBackend,
}

/// Why nobody answers the calls of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelUnavailable {
    /// The provider, if one is registered.
    pub provider: Option<Name>,
    /// The kind of reason.
    pub reason: ModelUnavailableReason,
    /// Where it is, if that is known and may be called.
    pub origin: Option<Origin>,
    /// The missing credential and the way to add it, for people.
    pub text: String,
}

/// The kinds of reasons why nobody answers the calls of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelUnavailableReason {
    /// No registered provider serves the model.
    NoProvider,
    /// The provider's key is not stored.
    NoKey,
    /// The provider's endpoint is not one that can be called.
    BadEndpoint,
}

/// Why there is no policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyError {
    /// There is no such revision, or it may call nothing any more.
    Unknown,
    /// It cannot be said now.
    Unavailable,
}

/// Where policies come from. It is queried for every call, so it must answer from memory nearly always.
#[async_trait]
pub trait Policies: fmt::Debug + Send + Sync + 'static {
    /// The policy of a revision whose token has been verified.
    async fn policy(&self, revision: RevisionId) -> Result<Arc<AgentPolicy>, PolicyError>;

    /// The registered tool at `origin`, which the agent may not call: its name is in the refusal, so that people
    /// see what is missing from `required_tools`.
    async fn registered_at(&self, _origin: &Origin) -> Option<Name> {
        None
    }

    /// A registered tool as it is now, whoever may call it. One whose registration cannot be enforced is
    /// [`Code::InvalidArgument`](hoistway_model::Code).
    async fn tool(&self, name: &Name) -> Result<ToolPolicy> {
        Err(Error::not_found("tool", name))
    }

    /// A registered model provider as it is now, whoever may call it.
    async fn model_provider(&self, name: &Name) -> Result<RegisteredModels> {
        Err(Error::not_found("model provider", name))
    }

    /// The agents that there are policies of. `None`: it is not known which there are.
    fn agents(&self) -> Option<BTreeSet<Name>> {
        None
    }

    /// Keeps the policies current until `shutdown`. Policies that never change have nothing to do.
    async fn keep_current(&self, _shutdown: CancellationToken) {}

    /// The age of the policies.
    fn status(&self) -> EgressStatus {
        let known = PolicySource { complete: true, connected: true, records: 0 };
        EgressStatus { tools: known, identities: known, model_providers: known }
    }
}
