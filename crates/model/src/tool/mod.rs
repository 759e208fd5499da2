//! Tools, model and identity providers, and the tools of each agent: the records of the tool registry and its trait.
//!
//! Records with serde are stored as JSON, and those of older versions must stay readable after an update: members are
//! only ever added, with a default.

mod service;

use crate::{ModelPrices, Name, OperationId, Result, Secret, text_serde::serde_by_text};
use serde::{Deserialize, Serialize};
pub use service::ToolRegistry;
use std::{collections::BTreeMap, str::FromStr};

/// The label of all objects that `POST /api/starter-kit` creates.
pub const DEMO_LABEL: &str = "hoistway.dev/demo";

/// The authentication of egress to a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthType {
    /// No credential.
    #[default]
    None,
    /// A key in a header or query parameter.
    ApiKey,
    /// OAuth 2.0 client credentials.
    OAuth2,
}

impl AuthType {
    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthType::None => "None",
            AuthType::ApiKey => "APIKey",
            AuthType::OAuth2 => "OAuth2",
        }
    }
}

impl FromStr for AuthType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::None, Self::ApiKey, Self::OAuth2]
            .into_iter()
            .find(|a| a.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("\"{}\" is not one of None, APIKey, OAuth2", text.escape_debug()))
    }
}

/// The protocol that a tool speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    #[default]
    Https,
}

impl Scheme {
    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "HTTP",
            Scheme::Https => "HTTPS",
        }
    }

    /// Returns the default port of this scheme in a URL.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|s| s.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("\"{}\" is not one of HTTP, HTTPS", text.escape_debug()))
    }
}

serde_by_text!(as_str of AuthType, Scheme);

/// The location of an API key in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// Stored as an array in databases; both forms are accepted.
#[serde(into = "(String, String, String)")]
pub struct ApiKeyLocation {
    /// `Header` or `Query`.
    pub location: String,
    /// The header's or parameter's name.
    pub name: String,
    /// The prefix of the key in the value, such as `Bearer `.
    pub value_prefix: String,
}

impl From<ApiKeyLocation> for (String, String, String) {
    fn from(ApiKeyLocation { location, name, value_prefix }: ApiKeyLocation) -> Self {
        (location, name, value_prefix)
    }
}

/// The source of tokens for OAuth 2.0 client credentials. The client's id and secret are credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// Stored as an array in databases; both forms are accepted.
#[serde(into = "(String, Vec<String>)")]
pub struct OAuth2 {
    /// The authorization server's token endpoint.
    pub token_url: String,
    /// The requested scopes, in order.
    pub scopes: Vec<String>,
}

impl From<OAuth2> for (String, Vec<String>) {
    fn from(OAuth2 { token_url, scopes }: OAuth2) -> Self {
        (token_url, scopes)
    }
}

/// The address of a tool and its authentication. "endpoint or auth changed" compares all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The tool's URL, as entered.
    pub base_url: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
    /// HTTP or HTTPS.
    pub scheme: Scheme,
    /// The kind of credential.
    pub auth_type: AuthType,
    /// The location of the API key, if the user configured it.
    pub api_key: Option<ApiKeyLocation>,
    /// The source of tokens, if the user configured it.
    pub oauth2: Option<OAuth2>,
}

/// A tool to be registered. Its JSON is in the journal of deployments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTool {
    /// Unique name.
    pub name: Name,
    /// For people and models; may be empty.
    pub description: String,
    /// The address and authentication.
    #[serde(flatten)]
    pub connection: Connection,
    /// Labels shown with the tool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Credential fields (`api_key`, `client_id`, `client_secret`); stored encrypted, never returned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, Secret>,
}

/// An update of a tool: it replaces everything, except credentials when it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolUpdate {
    /// The new state of the tool.
    pub tool: NewTool,
    /// The [`Tool::version`] on which the update is based; if the current one differs, the update is
    /// [`crate::Code::Aborted`]. `None`: any version.
    pub version: Option<OperationId>,
}

/// A registered tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Unique name.
    pub name: Name,
    /// For people and models; may be empty.
    pub description: String,
    /// The address for users of the API.
    pub connection: Connection,
    /// The same for agents; differs for built-in tools when services run in containers.
    pub internal_url: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether a credential is stored.
    pub has_credentials: bool,
    /// The time it was stored; milliseconds since the epoch.
    pub credentials_set_at: Option<i64>,
    /// The operation that changed the tool last.
    // The default is a version of no tool: an update based on a response of an older program must read again.
    #[serde(default = "OperationId::mint")]
    pub version: OperationId,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub updated_at: i64,
}

/// A model provider to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewModelProvider {
    /// Unique name.
    pub name: Name,
    /// Its protocol: openai, anthropic, bedrock or ollama.
    pub provider: String,
    /// Base URL; empty means the provider's own.
    pub endpoint: String,
    /// Model identifiers served.
    pub models: Vec<String>,
    /// The prices of models; empty if unknown.
    pub prices: ModelPrices,
    /// The time limit until a response begins, in seconds; `None` means egress' default.
    pub timeout_seconds: Option<u32>,
    /// The number of retries of a failed call.
    pub retries: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Credential fields; stored encrypted, never returned.
    pub credentials: BTreeMap<String, Secret>,
}

/// A registered model provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelProvider {
    /// Unique name.
    pub name: Name,
    /// Its protocol: openai, anthropic, bedrock or ollama.
    pub provider: String,
    /// Base URL; empty means the provider's own.
    pub endpoint: String,
    /// Model identifiers served.
    pub models: Vec<String>,
    /// The prices of models; empty if unknown.
    #[serde(default)]
    pub prices: ModelPrices,
    /// The time limit until a response begins, in seconds; `None` means egress' default.
    pub timeout_seconds: Option<u32>,
    /// The number of retries of a failed call.
    #[serde(default)]
    pub retries: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The time a credential was stored; `None` when there is none. Milliseconds since the epoch.
    pub credentials_set_at: Option<i64>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub updated_at: i64,
}

/// The authentication of an agent's callers: an OpenID Connect issuer and the requirements on its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityProvider {
    /// Unique name.
    pub name: Name,
    /// The host that callers use, `HOST` or `HOST:PORT`.
    pub host: String,
    /// The issuer of tokens, as in their claim `iss`.
    pub issuer: String,
    /// The address of the issuer's keys; empty: from its OpenID configuration.
    pub jwks_uri: String,
    /// The accepted audiences, of which a token's `aud` must contain one; empty: any.
    pub audiences: Vec<String>,
    /// The claim that names the caller.
    pub user_id_claim: String,
    /// The accepted mail domains of callers; empty: all.
    pub allowed_domains: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the epoch; 0 in a request.
    pub created_at: i64,
    /// Milliseconds since the epoch; 0 in a request.
    pub updated_at: i64,
}

/// The result of an upsert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upserted<T> {
    /// The current value.
    pub value: T,
    /// Whether it did not exist before.
    pub created: bool,
}

/// Returns the credential fields of a kind of tool authentication, all of which are required.
pub const fn tool_credentials(kind: AuthType) -> &'static [&'static str] {
    match kind {
        AuthType::None => &[],
        AuthType::ApiKey => &["api_key"],
        AuthType::OAuth2 => &["client_id", "client_secret"],
    }
}

/// Returns the sets of credential fields that a model protocol accepts: the members of one of them, and no others.
/// Those that end in `?` may be absent.
pub fn provider_credentials(provider: &str) -> &'static [&'static [&'static str]] {
    match provider {
        "bedrock" => &[&["api_key", "region?"], &["access_key_id", "secret_access_key", "session_token?", "region?"]],
        _ => &[&["api_key"]],
    }
}

/// Whether a model protocol needs a credential.
pub fn needs_credentials(provider: &str) -> bool {
    provider != "ollama"
}

/// The longest name of a region in bytes.
const MAX_REGION: usize = 32;

/// Whether a text has the form of an AWS region's name, such as `us-east-1`.
pub fn is_aws_region(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= MAX_REGION && text.chars().all(fits)
}

/// Returns the region in the host of one of Bedrock's own endpoints, including those in private networks.
pub fn bedrock_region(endpoint: &str) -> Option<&str> {
    let host = endpoint.split_once("://")?.1.split(['/', ':']).next()?;
    let mut labels = host.split('.').skip_while(|label| !label.starts_with("bedrock-runtime"));
    labels.next()?;
    let region = labels.next()?;
    labels.any(|label| label == "amazonaws").then_some(region)
}

/// The model protocols that need no registration.
pub const MODEL_PROVIDERS: [&str; 4] = ["openai", "anthropic", "bedrock", "ollama"];

/// The tools of one deploy of one agent: those to create or update and those to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolPlan {
    /// The agent of the deploy.
    pub agent: Name,
    /// `tools_to_create`, in the request's order, no name twice.
    pub create: Vec<NewTool>,
    /// `required_tools`, merged; they need not exist.
    pub bind: Vec<Name>,
}

/// A required name and, if that tool exists, its address for agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundTool {
    /// The required name.
    pub name: Name,
    /// The tool's internal URL; `None` while it is not registered.
    pub url: Option<String>,
}

/// The result of looking up a deploy's names. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `bind` in order, as after [`ToolRegistry::apply_tools`].
    pub tools: Vec<BoundTool>,
    /// Whether [`ToolRegistry::apply_tools`] would change anything.
    pub changed: bool,
    /// The requested model provider names that are registered.
    pub providers: Vec<String>,
    /// Whether the requested identity provider is registered; true if none was requested.
    pub identity_provider_known: bool,
}

/// The result of registering a deploy's tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedTools {
    /// Tools that this operation created, in the plan's order.
    pub created: Vec<Name>,
    /// `bind` in order, with their addresses.
    pub tools: Vec<BoundTool>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn enums_have_their_public_spelling_in_json() {
        assert_eq!(serde_json::to_string(&[Scheme::Http, Scheme::Https]).unwrap(), r#"["HTTP","HTTPS"]"#);
        let kinds = [AuthType::None, AuthType::ApiKey, AuthType::OAuth2];
        assert_eq!(serde_json::to_string(&kinds).unwrap(), r#"["None","APIKey","OAuth2"]"#);
        assert_eq!(serde_json::from_str::<[AuthType; 3]>(r#"["None","APIKey","OAuth2"]"#).unwrap(), kinds);
        let e = serde_json::from_str::<Scheme>(r#""FTP""#).unwrap_err().to_string();
        assert!(e.starts_with("\"FTP\" is not one of HTTP, HTTPS"), "{e}");
    }

    #[test]
    fn where_keys_and_tokens_are_is_written_as_an_array_and_read_as_an_object_too() {
        let place = ApiKeyLocation { location: "Query".into(), name: "key".into(), value_prefix: String::new() };
        assert_eq!(serde_json::to_string(&place).unwrap(), r#"["Query","key",""]"#);
        let object = r#"{"location":"Query","name":"key","value_prefix":""}"#;
        assert_eq!(serde_json::from_str::<ApiKeyLocation>(object).unwrap(), place);
        let oauth2 = OAuth2 { token_url: "https://login.example".into(), scopes: vec!["read".into()] };
        assert_eq!(serde_json::to_string(&oauth2).unwrap(), r#"["https://login.example",["read"]]"#);
        let object = r#"{"token_url":"https://login.example","scopes":["read"]}"#;
        assert_eq!(serde_json::from_str::<OAuth2>(object).unwrap(), oauth2);
    }

    #[test]
    fn the_region_stands_in_the_endpoints_of_bedrock() {
        let found = |endpoint| bedrock_region(endpoint);
        assert_eq!(found("https://bedrock-runtime.eu-west-1.amazonaws.com"), Some("eu-west-1"));
        assert_eq!(found("https://bedrock-runtime-fips.us-east-1.amazonaws.com:443/x"), Some("us-east-1"));
        assert_eq!(found("https://vpce-1.bedrock-runtime.us-west-2.vpce.amazonaws.com"), Some("us-west-2"));
        assert_eq!(found("https://bedrock-runtime.example.com"), None);
        assert_eq!(found("https://proxy.example"), None);
        assert_eq!(found(""), None);
    }
}
