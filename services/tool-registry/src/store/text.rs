//! Records as JSON texts: answers kept for repetitions, and what an application needs to be taken back. Rows of older
//! versions are read for a day after an update, so members are only ever added, with a default.

use hoistway_model::{
    Error, Name, OperationId, Result,
    tool::{ApiKeyPlace, AppliedTools, BoundTool, Connection, ModelProvider, Tool},
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
}

impl From<Connection> for ConnectionText {
    fn from(c: Connection) -> Self {
        Self {
            base_url: c.base_url,
            port: c.port,
            scheme: c.scheme.as_str().to_owned(),
            auth_type: c.auth_type.as_str().to_owned(),
            api_key: c.api_key.map(|k| (k.location, k.name, k.value_prefix)),
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

/// The answer of CreateTool.
#[derive(Serialize, Deserialize)]
pub(super) struct ToolText {
    name: Name,
    description: String,
    connection: ConnectionText,
    internal_url: String,
    labels: BTreeMap<String, String>,
    has_credentials: bool,
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
            created_at: t.created_at,
            updated_at: t.updated_at,
        })
    }
}

/// The answer of CreateModelProvider.
#[derive(Serialize, Deserialize)]
pub(super) struct ProviderText {
    name: Name,
    provider: String,
    endpoint: String,
    models: Vec<String>,
    labels: BTreeMap<String, String>,
    created_at: i64,
}

impl From<ModelProvider> for ProviderText {
    fn from(p: ModelProvider) -> Self {
        Self {
            name: p.name,
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            labels: p.labels,
            created_at: p.created_at,
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
            labels: p.labels,
            created_at: p.created_at,
        }
    }
}
