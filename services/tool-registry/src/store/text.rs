//! Records as JSON texts: answers kept for repetitions, and what an application needs to be taken back. Rows of older
//! versions are read for a day after an update, so members are only ever added, with a default.

use hoistway_model::{
    Error, ModelPrices, Name, OperationId, Result,
    tool::{ApiKeyPlace, AppliedTools, BoundTool, Connection, IdentityProvider, ModelProvider, OAuth2, Tool, Upserted},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Display, str::FromStr};

/// `value` as the text of a column.
pub(super) fn write(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("writing a record", e))
}

/// The value that [`write`] wrote.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::internal("reading a record", e))
}

/// A text of a row as what it stands for.
pub(super) fn parse<T: FromStr>(text: &str) -> Result<T>
where
    T::Err: Display,
{
    text.parse().map_err(|e: T::Err| Error::internal("reading a record", e.to_string()))
}

/// The name in a row.
pub(super) fn name(text: String) -> Result<Name> {
    Name::try_from(text).map_err(|e| Error::internal("reading a record", e))
}

/// The number in a row.
pub(super) fn number(stored: i64) -> Result<u32> {
    u32::try_from(stored).map_err(|e| Error::internal("reading a record", e))
}

/// What one ApplyTools did.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Effects {
    pub(super) created: Vec<Name>,
    pub(super) updated: Vec<Previous>,
    /// Whether it wrote the agent's bindings, be it that there are none.
    pub(super) bound: bool,
}

/// What a tool was before an update.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Previous {
    pub(super) tool: Name,
    pub(super) description: String,
    pub(super) connection: ConnectionText,
    pub(super) builtin: Option<String>,
    pub(super) written_by: OperationId,
    /// Whether the update added the credentials; it never replaces any.
    pub(super) without_credentials: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConnectionText {
    base_url: String,
    port: u16,
    scheme: String,
    auth_type: String,
    api_key: Option<(String, String, String)>,
    #[serde(default)]
    oauth2: Option<(String, Vec<String>)>,
}

impl From<Connection> for ConnectionText {
    fn from(c: Connection) -> Self {
        Self {
            base_url: c.base_url,
            port: c.port,
            scheme: c.scheme.as_str().to_owned(),
            auth_type: c.auth_type.as_str().to_owned(),
            api_key: c.api_key.map(|k| (k.location, k.name, k.value_prefix)),
            oauth2: c.oauth2.map(|o| (o.token_url, o.scopes)),
        }
    }
}

impl TryFrom<ConnectionText> for Connection {
    type Error = Error;

    fn try_from(c: ConnectionText) -> Result<Self> {
        Ok(Self {
            base_url: c.base_url,
            port: c.port,
            scheme: parse(&c.scheme)?,
            auth_type: parse(&c.auth_type)?,
            api_key: c.api_key.map(|(location, name, value_prefix)| ApiKeyPlace { location, name, value_prefix }),
            oauth2: c.oauth2.map(|(token_url, scopes)| OAuth2 { token_url, scopes }),
        })
    }
}

/// The answer of ApplyTools.
#[derive(Serialize, Deserialize)]
pub(super) struct AppliedText {
    created: Vec<Name>,
    tools: Vec<(Name, Option<String>)>,
}

impl From<AppliedTools> for AppliedText {
    fn from(a: AppliedTools) -> Self {
        Self { created: a.created, tools: a.tools.into_iter().map(|t| (t.name, t.url)).collect() }
    }
}

impl From<AppliedText> for AppliedTools {
    fn from(a: AppliedText) -> Self {
        Self { created: a.created, tools: a.tools.into_iter().map(|(name, url)| BoundTool { name, url }).collect() }
    }
}

/// The answer of the calls that change one tool.
#[derive(Serialize, Deserialize)]
pub(super) struct ToolText {
    name: Name,
    description: String,
    connection: ConnectionText,
    internal_url: String,
    labels: BTreeMap<String, String>,
    has_credentials: bool,
    #[serde(default)]
    credentials_set_at: Option<i64>,
    // A version that no tool has: an update that is made from an answer of an older program looks again.
    #[serde(default = "OperationId::mint")]
    version: OperationId,
    created_at: i64,
    updated_at: i64,
}

impl From<Tool> for ToolText {
    fn from(t: Tool) -> Self {
        Self {
            name: t.name,
            description: t.description,
            connection: t.connection.into(),
            internal_url: t.internal_url,
            labels: t.labels,
            has_credentials: t.has_credentials,
            credentials_set_at: t.credentials_set_at,
            version: t.version,
            created_at: t.created_at,
            updated_at: t.updated_at,
        }
    }
}

impl TryFrom<ToolText> for Tool {
    type Error = Error;

    fn try_from(t: ToolText) -> Result<Self> {
        Ok(Self {
            name: t.name,
            description: t.description,
            connection: t.connection.try_into()?,
            internal_url: t.internal_url,
            labels: t.labels,
            has_credentials: t.has_credentials,
            credentials_set_at: t.credentials_set_at,
            version: t.version,
            created_at: t.created_at,
            updated_at: t.updated_at,
        })
    }
}

/// The answer of the calls that change one model provider.
#[derive(Serialize, Deserialize)]
pub(super) struct ProviderText {
    name: Name,
    provider: String,
    endpoint: String,
    models: Vec<String>,
    #[serde(default)]
    prices: ModelPrices,
    #[serde(default)]
    timeout_seconds: Option<u32>,
    #[serde(default)]
    retries: u32,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    credentials_set_at: Option<i64>,
    created_at: i64,
    #[serde(default)]
    updated_at: i64,
}

impl From<ModelProvider> for ProviderText {
    fn from(p: ModelProvider) -> Self {
        Self {
            name: p.name,
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            prices: p.prices,
            timeout_seconds: p.timeout_seconds,
            retries: p.retries,
            labels: p.labels,
            credentials_set_at: p.credentials_set_at,
            created_at: p.created_at,
            updated_at: p.updated_at,
        }
    }
}

impl From<ProviderText> for ModelProvider {
    fn from(p: ProviderText) -> Self {
        Self {
            name: p.name,
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            prices: p.prices,
            timeout_seconds: p.timeout_seconds,
            retries: p.retries,
            labels: p.labels,
            credentials_set_at: p.credentials_set_at,
            created_at: p.created_at,
            updated_at: p.updated_at,
        }
    }
}

/// The answer of an upsert.
#[derive(Serialize, Deserialize)]
pub(super) struct UpsertedText<T> {
    value: T,
    created: bool,
}

impl<T, U: From<T>> From<Upserted<T>> for UpsertedText<U> {
    fn from(u: Upserted<T>) -> Self {
        Self { value: u.value.into(), created: u.created }
    }
}

impl<T> UpsertedText<T> {
    /// The answer again.
    pub(super) fn into_record<U: From<T>>(self) -> Upserted<U> {
        Upserted { value: self.value.into(), created: self.created }
    }
}

/// An identity provider in the answer of PutIdentityProvider.
#[derive(Serialize, Deserialize)]
pub(super) struct IdentityText {
    name: Name,
    host: String,
    issuer: String,
    jwks_uri: String,
    audiences: Vec<String>,
    user_id_claim: String,
    allowed_domains: Vec<String>,
    labels: BTreeMap<String, String>,
    created_at: i64,
    updated_at: i64,
}

impl From<IdentityProvider> for IdentityText {
    fn from(p: IdentityProvider) -> Self {
        Self {
            name: p.name,
            host: p.host,
            issuer: p.issuer,
            jwks_uri: p.jwks_uri,
            audiences: p.audiences,
            user_id_claim: p.user_id_claim,
            allowed_domains: p.allowed_domains,
            labels: p.labels,
            created_at: p.created_at,
            updated_at: p.updated_at,
        }
    }
}

impl From<IdentityText> for IdentityProvider {
    fn from(p: IdentityText) -> Self {
        Self {
            name: p.name,
            host: p.host,
            issuer: p.issuer,
            jwks_uri: p.jwks_uri,
            audiences: p.audiences,
            user_id_claim: p.user_id_claim,
            allowed_domains: p.allowed_domains,
            labels: p.labels,
            created_at: p.created_at,
            updated_at: p.updated_at,
        }
    }
}
