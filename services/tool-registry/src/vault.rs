//! Credentials under the master key, and fingerprints of calls that may carry some.

use hoistway_kit::{secrets::MasterKey, time::now_ms};
use hoistway_model::{
    Digest, Error, Name, Result, Secret,
    tool::{IdentityProvider, NewModelProvider, NewTool, ToolPlan},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Seals and opens what is secret about tools and model providers.
#[derive(Debug, Clone)]
pub(crate) struct Vault(MasterKey);

type Credentials = BTreeMap<String, Secret>;

/// Credentials as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    /// Milliseconds since the epoch.
    pub(crate) set_at: i64,
}

/// Whose credentials they are. What is sealed for one opens for no other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holder<'a> {
    Tool(&'a Name),
    ModelProvider(&'a Name),
}

impl Holder<'_> {
    fn place(self) -> String {
        match self {
            Holder::Tool(name) => format!("tool-credentials/{name}"),
            Holder::ModelProvider(name) => format!("model-provider-credentials/{name}"),
        }
    }
}

impl Vault {
    pub(crate) fn new(key: MasterKey) -> Self {
        Self(key)
    }

    /// Credentials as they are stored from now on; nothing for none.
    pub(crate) fn seal(&self, holder: Holder<'_>, credentials: &Credentials) -> Result<Option<Sealed>> {
        if credentials.is_empty() {
            return Ok(None);
        }
        let plain = serde_json::to_vec(credentials).map_err(|e| Error::internal("sealing credentials", e))?;
        Ok(Some(Sealed { bytes: self.0.seal(&holder.place(), &plain)?, set_at: now_ms() }))
    }

    /// Whether what is stored is exactly these credentials.
    pub(crate) fn holds(&self, holder: Holder<'_>, stored: Option<&Sealed>, credentials: &Credentials) -> Result<bool> {
        let Some(sealed) = stored else { return Ok(credentials.is_empty()) };
        Ok(self.open(holder, sealed)? == *credentials)
    }

    /// The credentials that were sealed.
    pub(crate) fn open(&self, holder: Holder<'_>, sealed: &Sealed) -> Result<Credentials> {
        let plain = self.0.open(&holder.place(), &sealed.bytes)?;
        // Its text could name a secret, so the parser's complaint is not kept.
        serde_json::from_slice(&plain)
            .map_err(|_| Error::internal("reading credentials", "their stored form is not known"))
    }

    /// Whether a rotation has left old keys, so that there may be something to seal anew.
    pub(crate) fn has_old(&self) -> bool {
        self.0.has_old()
    }

    /// The secret of an old key, sealed with the current one; nothing when it is already.
    pub(crate) fn reseal(&self, holder: Holder<'_>, sealed: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.reseal(&holder.place(), sealed)
    }

    /// Tells equal calls from different ones. It is keyed, because a digest of a call that carries a secret would let
    /// a reader of the database try candidates.
    pub(crate) fn fingerprint(&self, kind: &str, call: &Value) -> Digest {
        self.0.fingerprint(kind, call.to_string().as_bytes())
    }
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
    let mut value = json!({
        "name": tool.name,
        "description": tool.description,
        "base_url": connection.base_url,
        "port": connection.port,
        "scheme": connection.scheme.as_str(),
        "auth_type": connection.auth_type.as_str(),
        "api_key": connection.api_key.as_ref().map(|k| json!([k.location, k.name, k.value_prefix])),
        "labels": tool.labels,
        "credentials": tool.credentials,
    });
    // Absent where there is none: calls that were made before an upgrade are repeated after it.
    if let Some(o) = &connection.oauth2 {
        value["oauth2"] = json!([o.token_url, o.scopes]);
    }
    value
}

/// A model provider as a value with one spelling.
pub(crate) fn provider_value(provider: &NewModelProvider) -> Value {
    let mut value = json!({
        "name": provider.name,
        "provider": provider.provider,
        "endpoint": provider.endpoint,
        "models": provider.models,
        "labels": provider.labels,
    });
    // Absent where there is none: calls that were made before an upgrade are repeated after it.
    if !provider.prices.is_empty() {
        value["prices"] = json!(provider.prices);
    }
    if let Some(seconds) = provider.timeout_seconds {
        value["timeout_seconds"] = json!(seconds);
    }
    if provider.retries > 0 {
        value["retries"] = json!(provider.retries);
    }
    if !provider.credentials.is_empty() {
        value["credentials"] = json!(provider.credentials);
    }
    value
}

/// An identity provider as a value with one spelling.
pub(crate) fn identity_value(provider: &IdentityProvider) -> Value {
    json!({
        "name": provider.name,
        "host": provider.host,
        "issuer": provider.issuer,
        "jwks_uri": provider.jwks_uri,
        "audiences": provider.audiences,
        "user_id_claim": provider.user_id_claim,
        "allowed_domains": provider.allowed_domains,
        "labels": provider.labels,
    })
}
