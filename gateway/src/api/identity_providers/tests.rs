#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::{Value, json};

fn document() -> Value {
    json!({"name": "sso", "spec": {
        "host": "agents.example.com:8443", "userIDClaim": "email", "allowedDomains": ["Example.com"],
        "identityProvider": {
            "issuer": "https://id.example.com", "jwksUri": "http://127.0.0.1:9/jwks", "audiences": ["agents"]}}})
}

fn parsed(body: &Value) -> Result<(IdentityProvider, Vec<String>), String> {
    parse(body.to_string().as_bytes(), None, &PlainHosts::default()).map_err(|e| e.message)
}

#[test]
fn the_document_of_public_clients_is_read() {
    let (provider, warnings) = parsed(&document()).unwrap();
    assert_eq!((provider.host.as_str(), warnings.len()), ("agents.example.com:8443", 0));
    assert_eq!(
        (provider.allowed_domains, provider.audiences),
        (vec!["example.com".to_owned()], vec!["agents".to_owned()])
    );
}

#[test]
fn what_may_be_left_out() {
    let mut body = document();
    let from = body["spec"]["identityProvider"].as_object_mut().unwrap();
    from.remove("jwksUri");
    from.remove("audiences");
    let (provider, warnings) = parsed(&body).unwrap();
    assert_eq!((provider.jwks_uri.as_str(), provider.audiences.len()), ("", 0));
    assert_eq!(warnings, [ANY_AUDIENCE]);
}

#[test]
fn wrong_members_are_named() {
    for (at, value, want) in [
        ("/spec/host", json!("https://x"), "spec.host: \"https://x\" is not a host, or a host and a port"),
        ("/spec/host", json!("x:99999"), "spec.host: \"x:99999\" is not a host, or a host and a port"),
        (
            "/spec/identityProvider/issuer",
            json!("http://id.example.com"),
            "spec.identityProvider.issuer: \"http://id.example.com\" must begin with https:// (setting identity_provider_http_hosts)",
        ),
        (
            "/spec/identityProvider/jwksUri",
            json!("http://10.0.0.1/keys"),
            "spec.identityProvider.jwksUri: \"http://10.0.0.1/keys\" must begin with https:// (setting identity_provider_http_hosts)",
        ),
        (
            "/spec/identityProvider/audiences",
            json!(["a", " "]),
            "spec.identityProvider.audiences[1]: is not an audience",
        ),
        ("/spec/userIDClaim", json!("a b"), "spec.userIDClaim: is not the name of a claim"),
        (
            "/spec/allowedDomains",
            json!(["@example.com"]),
            "spec.allowedDomains[0]: \"@example.com\" is not a domain such as example.com",
        ),
        ("/spec/identityProvider", Value::Null, "spec.identityProvider: is required"),
        ("/spec", Value::Null, "spec: is required"),
    ] {
        let mut body = document();
        *body.pointer_mut(at).unwrap() = value;
        assert_eq!(parsed(&body).unwrap_err(), want);
    }
}
