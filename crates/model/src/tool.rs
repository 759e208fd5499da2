//! Tools, model and identity providers, and which agent uses which tool: the records of the tool registry and its trait.
//!
//! Records that have serde are kept as JSON, and what older versions kept is read after an update: their members are only
//! ever added, with a default.

mod service;

use crate::{ModelPrices, Name, OperationId, Result, Secret, text_serde::serde_by_text};
use serde::{Deserialize, Serialize};
pub use service::ToolRegistry;
use std::{collections::BTreeMap, str::FromStr};

/// The label of everything that `POST /api/starter-kit` makes.
pub const DEMO_LABEL: &str = "hoistway.dev/demo";

/// How egress authenticates to a tool.
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
    /// The spelling of the public API.
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
    /// The spelling of the public API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "HTTP",
            Scheme::Https => "HTTPS",
        }
    }

    /// The port that a URL of this scheme means when it names none.
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

/// Where an API key goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// Databases have it as an array; both forms are read.
#[serde(into = "(String, String, String)")]
pub struct ApiKeyPlace {
    /// `Header` or `Query`.
    pub location: String,
    /// The header's or parameter's name.
    pub name: String,
    /// What stands before the key in the value, such as `Bearer `.
    pub value_prefix: String,
}

impl From<ApiKeyPlace> for (String, String, String) {
    fn from(ApiKeyPlace { location, name, value_prefix }: ApiKeyPlace) -> Self {
        (location, name, value_prefix)
    }
}

/// Where tokens for OAuth 2.0 client credentials come from. The client's id and secret are credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// Databases have it as an array; both forms are read.
#[serde(into = "(String, Vec<String>)")]
pub struct OAuth2 {
    /// The authorization server's token endpoint.
    pub token_url: String,
    /// What is asked for, in order.
    pub scopes: Vec<String>,
}

impl From<OAuth2> for (String, Vec<String>) {
    fn from(OAuth2 { token_url, scopes }: OAuth2) -> Self {
        (token_url, scopes)
    }
}

/// Where a tool is and how one authenticates to it. The whole of it is what "endpoint or auth changed" compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The tool's URL, as given.
    pub base_url: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
    /// HTTP or HTTPS.
    pub scheme: Scheme,
    /// The kind of credential.
    pub auth_type: AuthType,
    /// Where the API key goes, if the user said so.
    pub api_key: Option<ApiKeyPlace>,
    /// Where tokens come from, if the user said so.
    pub oauth2: Option<OAuth2>,
}

/// A tool to be registered. Its JSON is in the journal of deployments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTool {
    /// Unique name.
    pub name: Name,
    /// For people and models; may be empty.
    pub description: String,
    /// Where it is.
    #[serde(flatten)]
    pub connection: Connection,
    /// Labels shown with the tool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Credential fields (`api_key`, `client_id`, `client_secret`); stored encrypted, never given back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, Secret>,
}

/// What an update makes of a tool: everything is replaced, but for credentials when it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolUpdate {
    /// The tool as it shall be.
    pub tool: NewTool,
    /// The [`Tool::version`] that the update was made from; another one by now is [`crate::Code::Aborted`]. `None`:
    /// whatever there is.
    pub version: Option<OperationId>,
}

/// A registered tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Unique name.
    pub name: Name,
    /// For people and models; may be empty.
    pub description: String,
    /// Where it is, as the API's user reaches it.
    pub connection: Connection,
    /// The same place as agents reach it; differs for built-in tools when services run in containers.
    pub internal_url: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether a credential is stored.
    pub has_credentials: bool,
    /// When it was stored; milliseconds since the epoch.
    pub credentials_set_at: Option<i64>,
    /// The operation that changed the tool last.
    // A version that no tool has: an update that is made from an answer of an older program looks again.
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
    /// The protocol it speaks: openai, anthropic, bedrock or ollama.
    pub provider: String,
    /// Base URL; empty means the provider's own.
    pub endpoint: String,
    /// Model identifiers served.
    pub models: Vec<String>,
    /// What models cost; none: it is not known.
    pub prices: ModelPrices,
    /// How long an answer may take to begin; none: as long as egress waits for any.
    pub timeout_seconds: Option<u32>,
    /// How many more times a call is made that failed.
    pub retries: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Credential fields; stored encrypted, never given back.
    pub credentials: BTreeMap<String, Secret>,
}

/// A source of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelProvider {
    /// Unique name.
    pub name: Name,
    /// The protocol it speaks: openai, anthropic, bedrock or ollama.
    pub provider: String,
    /// Base URL; empty means the provider's own.
    pub endpoint: String,
    /// Model identifiers served.
    pub models: Vec<String>,
    /// What models cost; none: it is not known.
    #[serde(default)]
    pub prices: ModelPrices,
    /// How long an answer may take to begin; none: as long as egress waits for any.
    pub timeout_seconds: Option<u32>,
    /// How many more times a call is made that failed.
    #[serde(default)]
    pub retries: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When a credential was stored; `None` when there is none. Milliseconds since the epoch.
    pub credentials_set_at: Option<i64>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub updated_at: i64,
}

/// Who says who an agent's callers are: an OpenID Connect issuer and what its tokens must say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityProvider {
    /// Unique name.
    pub name: Name,
    /// The host that callers use, `HOST` or `HOST:PORT`.
    pub host: String,
    /// The issuer of tokens, as in their claim `iss`.
    pub issuer: String,
    /// Where the issuer's keys are; empty: where its OpenID configuration says.
    pub jwks_uri: String,
    /// Of which a token's `aud` must name one; none: any audience.
    pub audiences: Vec<String>,
    /// The claim that names the caller.
    pub user_id_claim: String,
    /// Mail domains of callers who are let in; none: all.
    pub allowed_domains: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the epoch; 0 in a request.
    pub created_at: i64,
    /// Milliseconds since the epoch; 0 in a request.
    pub updated_at: i64,
}

/// What an upsert did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upserted<T> {
    /// As it is now.
    pub value: T,
    /// Whether there was nothing of its name before.
    pub created: bool,
}

/// The credential fields that a kind of tool authentication needs, all of them.
pub const fn tool_credentials(kind: AuthType) -> &'static [&'static str] {
    match kind {
        AuthType::None => &[],
        AuthType::ApiKey => &["api_key"],
        AuthType::OAuth2 => &["client_id", "client_secret"],
    }
}

/// The sets of credential fields that a model protocol takes: the members of one of them, and no others. Those that
/// end in `?` may be absent.
pub fn provider_credentials(provider: &str) -> &'static [&'static [&'static str]] {
    match provider {
        "bedrock" => &[&["api_key", "region?"], &["access_key_id", "secret_access_key", "session_token?", "region?"]],
        _ => &[&["api_key"]],
    }
}

/// Whether a model protocol needs a credential at all.
pub fn needs_credentials(provider: &str) -> bool {
    provider != "ollama"
}

/// The longest name of a region.
const MAX_REGION: usize = 32;

/// Whether a text has the form of an AWS region's name, such as `us-east-1`.
pub fn is_aws_region(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= MAX_REGION && text.chars().all(fits)
}

/// The region in the host of one of Bedrock's own endpoints, those in private networks included.
pub fn bedrock_region(endpoint: &str) -> Option<&str> {
    let host = endpoint.split_once("://")?.1.split(['/', ':']).next()?;
    let mut labels = host.split('.').skip_while(|label| !label.starts_with("bedrock-runtime"));
    labels.next()?;
    let region = labels.next()?;
    labels.any(|label| label == "amazonaws").then_some(region)
}

/// The model protocols that are known without registration.
pub const MODEL_PROVIDERS: [&str; 4] = ["openai", "anthropic", "bedrock", "ollama"];

/// The tools that one deploy of one agent wants: those to make sure of and those to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolPlan {
    /// The agent they are for.
    pub agent: Name,
    /// `tools_to_create`, in the request's order, no name twice.
    pub create: Vec<NewTool>,
    /// `required_tools`, merged; they need not exist.
    pub bind: Vec<Name>,
}

/// A name that an agent requires and, when that tool exists, where agents reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundTool {
    /// The required name.
    pub name: Name,
    /// The tool's internal URL; `None` while nobody has registered it.
    pub url: Option<String>,
}

/// What looking a deploy's names up found. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `bind` in order, as it will be after [`ToolRegistry::apply_tools`].
    pub tools: Vec<BoundTool>,
    /// Whether [`ToolRegistry::apply_tools`] would change anything.
    pub changed: bool,
    /// The model provider names asked for that are registered.
    pub providers: Vec<String>,
    /// Whether the identity provider asked for is registered; true when none was asked for.
    pub identity_provider_known: bool,
}

/// What registering a deploy's tools did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedTools {
    /// Tools that this operation created, in the plan's order.
    pub created: Vec<Name>,
    /// `bind` in order, with where each is.
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
        let place = ApiKeyPlace { location: "Query".into(), name: "key".into(), value_prefix: String::new() };
        assert_eq!(serde_json::to_string(&place).unwrap(), r#"["Query","key",""]"#);
        let object = r#"{"location":"Query","name":"key","value_prefix":""}"#;
        assert_eq!(serde_json::from_str::<ApiKeyPlace>(object).unwrap(), place);
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
