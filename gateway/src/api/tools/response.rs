//! A tool as in answers of the API.

use hoistway_kit::time::rfc3339;
use hoistway_model::{
    NAMESPACE,
    tool::{AuthType, Tool},
};
use serde::Serialize;
use std::collections::BTreeMap;
use url::{Host, Url};
use utoipa::ToSchema;

/// A registered tool.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tool)]
pub struct ToolOut {
    /// Unique name; agents require the tool by it.
    #[schema(examples("stripe-api"))]
    name: String,
    /// Where it is.
    #[schema(examples("agent-system"))]
    namespace: &'static str,
    /// Its labels.
    labels: BTreeMap<String, String>,
    /// Its specification.
    spec: ToolSpec,
    /// Its status.
    status: ToolStatus,
    /// When it was registered.
    #[schema(examples("2026-11-23T10:00:00.000Z"))]
    created_at: String,
    /// When it was changed last.
    #[schema(examples("2026-11-23T10:00:00.000Z"))]
    updated_at: String,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl ToolOut {
    /// Returns the same tool with warnings for the caller.
    pub fn warned(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// The specification of a tool.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolSpec {
    /// For people and models; may be empty.
    #[schema(examples("Stripe payments API"))]
    description: String,
    /// `Internal` for a host of this machine or a private network, else `External`.
    #[schema(examples("External"))]
    topology: &'static str,
    /// `Open`: every agent that requires the tool may use it.
    #[schema(examples("Open"))]
    access_mode: &'static str,
    /// Where it is.
    connection: ToolConnection,
}

/// Where a tool is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolConnection {
    /// Its URL, as it was given.
    #[schema(examples("https://api.stripe.com"))]
    base_url: String,
    /// TCP port.
    #[schema(examples(443))]
    port: u16,
    /// `HTTP` or `HTTPS`.
    #[schema(examples("HTTPS"))]
    scheme: &'static str,
    /// The authentication of calls to it.
    authentication: Authentication,
}

/// The authentication of calls to a tool.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// `None`, `APIKey` or `OAuth2`.
    #[serde(rename = "type")]
    #[schema(examples("APIKey"))]
    kind: &'static str,
    /// Where the API key goes, if that was said.
    #[schema(value_type = ApiKeyConfig, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_config: Option<ApiKeyConfig>,
    /// Where tokens come from, if that was said.
    #[schema(value_type = OAuth2Config, required = false)]
    #[serde(rename = "oauth2Config", skip_serializing_if = "Option::is_none")]
    oauth2_config: Option<OAuth2Config>,
}

/// Where an API key goes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyConfig {
    /// `Header` or `Query`.
    #[serde(rename = "in")]
    #[schema(examples("Header"))]
    location: String,
    /// The header's or parameter's name.
    #[schema(examples("Authorization"))]
    name: String,
    /// The text before the key in the value.
    #[schema(examples("Bearer "))]
    value_prefix: String,
}

/// Where tokens of OAuth 2.0 client credentials come from.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2Config {
    /// The token endpoint.
    #[schema(examples("https://login.example.com/oauth/token"))]
    token_url: String,
    /// The requested scopes.
    scopes: Vec<String>,
}

/// The status of a tool.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolStatus {
    /// `Ready`, or `Pending` while something is missing.
    #[schema(examples("Ready"))]
    phase: &'static str,
    /// The missing part.
    message: String,
    /// Whether there are credentials.
    credentials: CredentialStatus,
}

/// Whether credentials are stored; they themselves are shown nowhere.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// Whether there are any.
    stored: bool,
    /// When they were stored; absent when there are none.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    set_at: Option<String>,
}

impl CredentialStatus {
    /// Returns the status of credentials that were stored at this time, if they were.
    pub fn of(set_at: Option<i64>) -> Self {
        Self { stored: set_at.is_some(), set_at: set_at.map(rfc3339) }
    }
}

/// Returns a tool as in answers.
pub fn shape(tool: Tool) -> ToolOut {
    let at = tool.connection;
    let missing = match at.auth_type {
        AuthType::None => None,
        kind if !tool.has_credentials => Some(format!("no credential is stored for {}", kind.as_str())),
        AuthType::OAuth2 if at.oauth2.is_none() => Some("no token URL is known for OAuth2".to_owned()),
        _ => None,
    };
    ToolOut {
        name: tool.name.into(),
        namespace: NAMESPACE,
        labels: tool.labels,
        status: ToolStatus {
            phase: if missing.is_some() { "Pending" } else { "Ready" },
            message: missing.unwrap_or_default(),
            credentials: CredentialStatus::of(tool.credentials_set_at),
        },
        spec: ToolSpec {
            description: tool.description,
            topology: if is_internal(&at.base_url) { "Internal" } else { "External" },
            access_mode: "Open",
            connection: ToolConnection {
                base_url: at.base_url,
                port: at.port,
                scheme: at.scheme.as_str(),
                authentication: Authentication {
                    kind: at.auth_type.as_str(),
                    api_key_config: at.api_key.map(|key| ApiKeyConfig {
                        location: key.location,
                        name: key.name,
                        value_prefix: key.value_prefix,
                    }),
                    oauth2_config: at
                        .oauth2
                        .map(|oauth2| OAuth2Config { token_url: oauth2.token_url, scopes: oauth2.scopes }),
                },
            },
        },
        created_at: rfc3339(tool.created_at),
        updated_at: rfc3339(tool.updated_at),
        warnings: Vec::new(),
    }
}

/// Whether a URL's host is on this machine or a private network, judged by its name.
fn is_internal(url: &str) -> bool {
    const PRIVATE: [&str; 5] = [".local", ".localhost", ".internal", ".svc", ".svc.cluster.local"];
    let Ok(url) = Url::parse(url) else { return false };
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Some(Host::Domain(name)) => !name.contains('.') || PRIVATE.iter().any(|suffix| name.ends_with(suffix)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_hosts_are_internal() {
        for url in ["http://localhost:1", "http://10.0.0.1", "http://[fd00::1]", "http://db", "http://a.b.svc:80/x"] {
            assert!(is_internal(url), "{url}");
        }
        for url in ["https://api.stripe.com", "http://8.8.8.8", "http://svc.example"] {
            assert!(!is_internal(url), "{url}");
        }
    }
}
