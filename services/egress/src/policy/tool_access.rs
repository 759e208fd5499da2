//! From a registered tool to what egress enforces for it.

use crate::{
    origin::{HostName, without_query},
    policy::{Credential, KeyPlace, OAuth2Client, ToolPolicy},
};
use hoistway_kit::address_scope::{AddressScope, is_in, is_private_name, scope};
use hoistway_model::{
    Error, Result, Secret,
    egress::ToolAccess,
    tool::{ApiKeyLocation, AuthType},
};
use http::header;
use std::{collections::BTreeMap, sync::Arc};

const NO_CREDENTIAL: &str = "has no credential yet: PUT /api/tools/NAME/credentials stores one";
const NO_TOKEN_URL: &str = "does not say where its access tokens come from: set its token URL";
const NO_HEADER: &str = "names no usable header for its API key: set another one";

/// The hosts whose tools may be on this machine or in a private network.
///
/// Whoever registers a tool at a private address or name says so by it. A public name may not lead there, since it
/// can be made to point anywhere by whoever owns it, unless the operator has named its domain.
#[derive(Debug, Clone, Default)]
pub(crate) struct PrivateHosts {
    domains: Vec<String>,
}

impl PrivateHosts {
    /// Reads the domains that the operator has named besides.
    pub(crate) fn new(domains: &[String]) -> Result<Self> {
        let domains = domains.iter().enumerate().map(|(index, domain)| {
            let host = HostName::parse(domain).filter(|host| host.ip().is_none());
            let host = host.ok_or_else(|| Error::field(format!("private_domains[{index}]"), "is not a domain"))?;
            Ok(host.bare())
        });
        Ok(Self { domains: domains.collect::<Result<_>>()? })
    }

    /// Whether connections to `host` may go to this machine or to a private network.
    pub(crate) fn covers(&self, host: &HostName) -> bool {
        if let Some(ip) = host.ip() {
            return scope(ip) == AddressScope::Private;
        }
        let host = host.bare();
        is_private_name(&host) || self.domains.iter().any(|domain| is_in(&host, domain))
    }
}

/// The policy for a tool. A tool whose URL it cannot read may not be called.
pub(crate) fn tool_policy(access: &ToolAccess, private: &PrivateHosts) -> Result<ToolPolicy> {
    let mut tool = ToolPolicy::new(access.name.clone(), &without_query(&access.url)?)?;
    tool.allow_private = private.covers(&tool.origin.place.host);
    tool.credential = credential(access);
    Ok(tool)
}

fn credential(access: &ToolAccess) -> Credential {
    let stored = |field: &str| access.credentials.get(field).cloned();
    match access.auth_type {
        AuthType::None => Credential::None,
        AuthType::ApiKey => match stored("api_key") {
            None => Credential::Unavailable(NO_CREDENTIAL),
            Some(value) => api_key(access.api_key.as_ref(), value),
        },
        AuthType::OAuth2 => oauth2(access),
    }
}

/// Without a place the key goes where most APIs have it.
fn api_key(place: Option<&ApiKeyLocation>, value: Secret) -> Credential {
    let Some(ApiKeyLocation { location, name, value_prefix }) = place else {
        let (place, prefix) = (KeyPlace::Header(header::AUTHORIZATION), "Bearer ".to_owned());
        return Credential::ApiKey { place, prefix, value };
    };
    let place = match (location.eq_ignore_ascii_case("query"), name.parse()) {
        (true, _) => KeyPlace::Query(name.clone()),
        (false, Ok(header)) => KeyPlace::Header(header),
        (false, Err(_)) => return Credential::Unavailable(NO_HEADER),
    };
    Credential::ApiKey { place, prefix: value_prefix.clone(), value }
}

fn oauth2(access: &ToolAccess) -> Credential {
    let credentials: &BTreeMap<String, Secret> = &access.credentials;
    let (Some(client_id), Some(client_secret)) = (credentials.get("client_id"), credentials.get("client_secret"))
    else {
        return Credential::Unavailable(NO_CREDENTIAL);
    };
    let Some(source) = &access.oauth2 else { return Credential::Unavailable(NO_TOKEN_URL) };
    Credential::OAuth2(Arc::new(OAuth2Client {
        token_url: source.token_url.clone(),
        client_id: client_id.expose().to_owned(),
        client_secret: client_secret.clone(),
        scopes: source.scopes.clone(),
        audience: None,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::{Name, tool::OAuth2};

    fn access(url: &str, auth_type: AuthType, credentials: &[(&str, &str)]) -> ToolAccess {
        ToolAccess {
            name: Name::parse("name", "t").unwrap(),
            url: url.into(),
            auth_type,
            api_key: None,
            oauth2: None,
            credentials: credentials.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect(),
        }
    }

    fn policy(access: &ToolAccess) -> ToolPolicy {
        tool_policy(access, &PrivateHosts::new(&["corp.example".to_owned()]).unwrap()).unwrap()
    }

    #[test]
    fn only_addresses_and_names_that_are_private_by_themselves_may_lead_to_private_networks() {
        let allowed = |host: &str| policy(&access(&format!("http://{host}/x"), AuthType::None, &[])).allow_private;
        for private in [
            "127.0.0.1:9000",
            "10.1.2.3",
            "2130706433",
            "[::1]",
            "[fd00::1]",
            "localhost",
            "api.localhost",
            "tool-registry:8094",
            "a.internal",
            "printer.local",
            "nas.home.arpa",
            "corp.example",
            "api.CORP.example.",
        ] {
            assert!(allowed(private), "{private}");
        }
        for public in [
            "api.stripe.com",
            "93.184.216.34",
            "169.254.169.254",
            "0.0.0.0",
            "100.100.100.200",
            "localhost.example.com",
            "internal.example.com",
            "notcorp.example",
            "corp.example.com",
            "xlocal.example",
        ] {
            assert!(!allowed(public), "{public}");
        }
        assert!(PrivateHosts::new(&["10.0.0.1".to_owned()]).is_err());
    }

    #[test]
    fn an_api_key_goes_where_the_registration_says_and_else_into_authorization() {
        let mut tool = access("https://a.example/v1?x=y", AuthType::ApiKey, &[("api_key", "sk")]);
        let place = |tool: &ToolAccess| match policy(tool).credential {
            Credential::ApiKey { place, prefix, value } => (place, prefix, value.expose().to_owned()),
            other => panic!("{other:?}"),
        };
        assert_eq!(place(&tool), (KeyPlace::Header(header::AUTHORIZATION), "Bearer ".into(), "sk".into()));
        assert_eq!(policy(&tool).prefix, "/v1");
        let at = |location: &str, name: &str| {
            Some(ApiKeyLocation { location: location.into(), name: name.into(), value_prefix: "Key ".into() })
        };
        tool.api_key = at("Header", "X-Key");
        assert_eq!(place(&tool), (KeyPlace::Header("x-key".parse().unwrap()), "Key ".into(), "sk".into()));
        tool.api_key = at("Query", "api key");
        assert_eq!(place(&tool), (KeyPlace::Query("api key".into()), "Key ".into(), "sk".into()));
        tool.api_key = at("Header", "no header");
        assert!(matches!(policy(&tool).credential, Credential::Unavailable(NO_HEADER)));
    }

    #[test]
    fn a_tool_without_its_credential_is_not_called_without_one() {
        for kind in [AuthType::ApiKey, AuthType::OAuth2] {
            let tool = access("https://a.example", kind, &[("client_id", "id")]);
            assert!(matches!(policy(&tool).credential, Credential::Unavailable(NO_CREDENTIAL)));
        }
        let mut tool = access("https://a.example", AuthType::OAuth2, &[("client_id", "id"), ("client_secret", "s")]);
        assert!(matches!(policy(&tool).credential, Credential::Unavailable(NO_TOKEN_URL)));
        tool.oauth2 = Some(OAuth2 { token_url: "https://id.example/t".into(), scopes: vec!["read".into()] });
        assert!(matches!(policy(&tool).credential, Credential::OAuth2(client) if client.client_id == "id"));
        let tool = access("https://a.example", AuthType::None, &[]);
        assert!(matches!(policy(&tool).credential, Credential::None));
    }

    #[test]
    fn a_url_that_cannot_be_read_is_refused() {
        for bad in ["", "a.example", "ftp://a.example", "https://u:p@a.example"] {
            assert!(tool_policy(&access(bad, AuthType::None, &[]), &PrivateHosts::default()).is_err(), "{bad}");
        }
    }
}
