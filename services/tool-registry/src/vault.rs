//! Tools' credentials under the master key, and fingerprints of calls that may carry some.

use crate::record::StoredTool;
use hoistway_kit::secrets::MasterKey;
use hoistway_model::{
    Digest, Error, Name, Result, Secret,
    tool::{ModelProvider, NewTool, ToolPlan},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Seals and opens what is secret about tools.
#[derive(Debug, Clone)]
pub(crate) struct Vault(MasterKey);

type Credentials = BTreeMap<String, Secret>;

impl Vault {
    pub(crate) fn new(key: MasterKey) -> Self {
        Self(key)
    }

    /// The credentials of the tool `name` as they are stored; nothing for none.
    pub(crate) fn seal(&self, name: &Name, credentials: &Credentials) -> Result<Option<Vec<u8>>> {
        if credentials.is_empty() {
            return Ok(None);
        }
        let plain = serde_json::to_vec(credentials).map_err(|e| Error::internal("sealing credentials", e))?;
        self.0.seal(&place(name), &plain).map(Some)
    }

    /// Whether `tool` holds exactly these credentials.
    pub(crate) fn holds(&self, tool: &StoredTool, credentials: &Credentials) -> Result<bool> {
        let Some(sealed) = &tool.content.credentials else { return Ok(credentials.is_empty()) };
        let plain = self.0.open(&place(&tool.name), sealed)?;
        // Its text could name a secret, so the parser's complaint is not kept.
        let held: Credentials = serde_json::from_slice(&plain)
            .map_err(|_| Error::internal("reading credentials", "their stored form is not known"))?;
        Ok(held == *credentials)
    }

    /// Tells equal calls from different ones. It is keyed, because a digest of a call that carries a secret would let
    /// a reader of the database try candidates.
    pub(crate) fn fingerprint(&self, kind: &str, call: &Value) -> Digest {
        self.0.fingerprint(kind, call.to_string().as_bytes())
    }
}

fn place(name: &Name) -> String {
    format!("tool-credentials/{name}")
}

/// A plan as a value with one spelling: members are sorted.
pub(crate) fn plan_value(plan: &ToolPlan) -> Value {
    json!({
        "agent": plan.agent,
        "create": plan.create.iter().map(tool_value).collect::<Vec<_>>(),
        "bind": plan.bind,
    })
}

/// A tool as a value with one spelling.
pub(crate) fn tool_value(tool: &NewTool) -> Value {
    let connection = &tool.connection;
    json!({
        "name": tool.name,
        "description": tool.description,
        "base_url": connection.base_url,
        "port": connection.port,
        "scheme": connection.scheme.as_str(),
        "auth_type": connection.auth_type.as_str(),
        "api_key": connection.api_key.as_ref().map(|k| json!([k.location, k.name, k.value_prefix])),
        "labels": tool.labels,
        "credentials": tool.credentials,
    })
}

/// A model provider as a value with one spelling.
pub(crate) fn provider_value(provider: &ModelProvider) -> Value {
    json!({
        "name": provider.name,
        "provider": provider.provider,
        "endpoint": provider.endpoint,
        "models": provider.models,
        "labels": provider.labels,
    })
}
