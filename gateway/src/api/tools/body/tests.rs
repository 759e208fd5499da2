#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::{Value, json};

fn parse(body: &[u8]) -> Result<(NewTool, Vec<String>)> {
    ToolBody::read(body)?.named()
}

fn refused(body: Value) -> String {
    parse(body.to_string().as_bytes()).unwrap_err().message
}

#[test]
fn flat_and_nested_bodies_say_the_same() {
    let flat = json!({"name": "t", "base_url": "http://a.example:9000", "description": "d", "auth_type": "None", "port": 443, "scheme": "HTTPS"});
    let nested = json!({"name": "t", "spec": {"description": "d", "connection": {"baseUrl": "http://a.example:9000", "port": 9000, "scheme": "HTTP", "authentication": {"type": "none"}}}});
    let (flat, nested) = (parse(flat.to_string().as_bytes()).unwrap(), parse(nested.to_string().as_bytes()).unwrap());
    assert_eq!(flat, nested);
    assert_eq!((flat.0.connection.port, flat.0.connection.scheme.as_str(), flat.1.len()), (9000, "HTTP", 0));
}

#[test]
fn credentials_are_read_and_never_shown() {
    let with = |auth: Value, credentials: Value| json!({"name": "t", "spec": {"connection": {"topology": "Internal", "baseUrl": "http://a.example", "authentication": auth}}, "credentials": credentials});
    let auth = json!({"type": "APIKey", "apiKeyConfig": {"in": "header", "name": "X-Key", "valuePrefix": "Bearer "}});
    let (tool, warnings) = parse(with(auth.clone(), json!({"api_key": "s3cr3t"})).to_string().as_bytes()).unwrap();
    assert_eq!(tool.credentials["api_key"].expose(), "s3cr3t");
    let place = tool.connection.api_key.unwrap();
    assert_eq!(
        (place.location.as_str(), place.name.as_str(), place.value_prefix.as_str()),
        ("Header", "X-Key", "Bearer ")
    );
    assert_eq!(warnings, ["unknown field \"spec.connection.topology\" is ignored"]);
    for (auth, credentials, want) in [
        (auth.clone(), json!({"api_kye": "s3cr3t"}), "credentials.api_key: is required"),
        (auth.clone(), json!({"api_key": "s3cr3t\n"}), "credentials.api_key: is too long or has control characters"),
        (json!({"type": "OAuth2"}), json!({"client_id": "s3cr3t"}), "credentials.client_secret: is required"),
        (json!({}), json!({"api_key": "s3cr3t"}), "credentials: a tool whose authentication is None takes none"),
        (
            json!({"type": "APIKey", "apiKeyConfig": {"in": "Cookie", "name": "x"}}),
            json!({}),
            "spec.connection.authentication.apiKeyConfig.in: \"Cookie\" is not one of Header, Query",
        ),
        (
            json!({"type": "APIKey", "apiKeyConfig": {"name": "a b"}}),
            json!({}),
            "spec.connection.authentication.apiKeyConfig.name: \"a b\" is not a header's name",
        ),
        (
            json!({"apiKeyConfig": {"name": "a"}}),
            json!({}),
            "spec.connection.authentication.apiKeyConfig: is only for the authentication APIKey",
        ),
        (
            json!({"type": "Magic"}),
            json!({}),
            "spec.connection.authentication.type: \"Magic\" is not one of None, APIKey, OAuth2",
        ),
    ] {
        assert_eq!(refused(with(auth, credentials)), want);
    }
}

#[test]
fn name_and_base_url_are_needed_in_either_body() {
    for body in [
        json!({}),
        json!({"name": "t"}),
        json!({"base_url": "http://a.example"}),
        json!({"name": "t", "spec": {}}),
        json!({"name": "t", "spec": {"connection": {"baseUrl": " "}}}),
    ] {
        assert_eq!(refused(body), "tool name and base_url are required");
    }
}

fn known() -> Tool {
    let body = json!({"name": "t", "labels": {"team": "a"}, "spec": {"description": "d", "connection": {
        "baseUrl": "https://a.example", "port": 8443,
        "authentication": {"type": "APIKey", "apiKeyConfig": {"name": "X-Key"}}}}});
    let (new, _) = parse(body.to_string().as_bytes()).unwrap();
    Tool {
        name: new.name,
        description: new.description,
        internal_url: new.connection.base_url.clone(),
        connection: new.connection,
        labels: new.labels,
        has_credentials: true,
        credentials_set_at: Some(1),
        version: hoistway_model::OperationId::mint(),
        created_at: 0,
        updated_at: 0,
    }
}

#[test]
fn a_patch_keeps_what_it_does_not_say() {
    let tool = known();
    let patch = |body: Value| ToolBody::read(body.to_string().as_bytes()).unwrap().merged(&tool);
    let (same, _) = patch(json!({})).unwrap();
    assert_eq!(
        (&same.description, &same.connection, &same.labels),
        (&tool.description, &tool.connection, &tool.labels)
    );
    assert!(same.credentials.is_empty());
    let (new, _) = patch(json!({"name": "t", "description": "n", "labels": {}})).unwrap();
    assert_eq!((new.description.as_str(), new.labels.len(), &new.connection), ("n", 0, &tool.connection));
    let (moved, _) = patch(json!({"base_url": "http://b.example"})).unwrap();
    assert_eq!((moved.connection.port, moved.connection.scheme.as_str()), (80, "HTTP"));
    assert_eq!(moved.connection.api_key, tool.connection.api_key);
    let at = |config: Value| patch(json!({"spec": {"connection": {"authentication": {"apiKeyConfig": config}}}}));
    let (prefixed, _) = at(json!({"valuePrefix": "Tok "})).unwrap();
    let (place, known) = (prefixed.connection.api_key.unwrap(), tool.connection.api_key.as_ref().unwrap());
    assert_eq!((&place.location, &place.name, place.value_prefix.as_str()), (&known.location, &known.name, "Tok "));
    let (moved, _) = at(json!({"in": "query"})).unwrap();
    assert_eq!(moved.connection.api_key.unwrap().name, "X-Key");
    let (open, _) = patch(json!({"spec": {"connection": {"authentication": {"type": "None"}}}})).unwrap();
    assert_eq!((open.connection.auth_type, open.connection.api_key), (AuthType::None, None));
    let other = patch(json!({"name": "u"})).unwrap_err().message;
    assert_eq!(other, "name: \"u\" is not \"t\", which the path names; names cannot be changed");
}

#[test]
fn oauth2_has_a_token_url_and_scopes_in_either_body() {
    let flat = json!({"name": "t", "base_url": "https://a.example", "auth_type": "oauth2", "token_url": "https://id.example/token", "scopes": ["a", "b"], "credentials": {"client_id": "i", "client_secret": "s"}});
    let config = json!({"tokenUrl": "https://id.example/token", "scopes": ["a", "b"]});
    let nested = json!({"name": "t", "spec": {"connection": {"baseUrl": "https://a.example", "authentication": {"type": "OAuth2", "oauth2Config": config}}}, "credentials": {"client_id": "i", "client_secret": "s"}});
    let read = |body: &Value| parse(body.to_string().as_bytes()).unwrap();
    assert_eq!(read(&flat), read(&nested));
    assert_eq!(read(&flat).0.connection.oauth2.unwrap().scopes, ["a", "b"]);
    for (key, value, want) in [
        ("scopes", json!(["a b"]), "scopes[0]: is not a scope"),
        ("token_url", json!("nowhere"), "token_url: \"nowhere\" is not a URL that begins with http:// or https://"),
        ("auth_type", json!("APIKey"), "token_url: is only for the authentication OAuth2"),
        (
            "access_mode",
            json!("Restricted"),
            "access_mode: \"Restricted\" is not supported: every agent that requires a tool may use it (Open)",
        ),
        (
            "capabilities",
            json!([{"name": "x"}]),
            "capabilities: is not supported: an agent that requires a tool may use all of it",
        ),
    ] {
        let mut body = flat.clone();
        body[key] = value;
        assert_eq!(refused(body), want);
    }
}
