#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::{Value, json};

fn parsed(body: Value) -> Result<(NewModelProvider, Vec<String>), String> {
    parse(body.to_string().as_bytes(), None).map_err(|e| e.message)
}

#[test]
fn flat_and_nested_bodies_say_the_same_and_keys_are_read_from_either() {
    let flat = json!({"name": "p", "provider": "OpenAI", "endpoint": "https://m.example/v1", "models": ["a"], "api_key": "sk"});
    let nested = json!({"name": "p", "spec": {"provider": "openai", "endpoint": "https://m.example/v1", "models": ["a"]}, "credentials": {"api_key": "sk"}, "status": {}});
    let (flat, nested) = (parsed(flat).unwrap(), parsed(nested).unwrap());
    assert_eq!(flat, nested);
    assert_eq!((flat.0.credentials["api_key"].expose(), flat.1.len()), ("sk", 0));
    let aws = json!({"access_key_id": "a", "secret_access_key": "b"});
    let (aws, _) = parsed(json!({"name": "p", "provider": "bedrock", "credentials": aws})).unwrap();
    assert_eq!(aws.credentials.keys().collect::<Vec<_>>(), ["access_key_id", "secret_access_key"]);
    let aws = json!({"region": "eu-west-1", "access_key_id": "a", "secret_access_key": "b"});
    let (aws, _) = parsed(json!({"name": "p", "provider": "bedrock", "credentials": aws})).unwrap();
    assert_eq!(aws.credentials.keys().collect::<Vec<_>>(), ["access_key_id", "region", "secret_access_key"]);
    let key = json!({"region": "eu-west-1", "api_key": "a"});
    let (key, _) = parsed(json!({"name": "p", "provider": "bedrock", "credentials": key})).unwrap();
    assert_eq!(key.credentials.keys().collect::<Vec<_>>(), ["api_key", "region"]);
}

#[test]
fn what_is_wrong_is_named_without_a_secret() {
    for (more, want) in [
        (
            json!({"monthly_budget_usd": 5}),
            "monthly_budget_usd: is not supported: Hoistway does not count what models cost",
        ),
        (json!({"credentials": {"key": "s3cr3t"}}), "credentials.api_key: is required"),
        (json!({"api_key": "s3cr3t\n"}), "api_key: is too long or has control characters"),
        (json!({"api_key": "s3cr3t", "credentials": {"api_key": "s3cr3t"}}), "credentials: are given twice"),
        (
            json!({"provider": "bedrock", "credentials": {"region": "eu-west-1", "access_key_id": "a"}}),
            "credentials.secret_access_key: is required",
        ),
        (json!({"provider": "magic"}), "provider: \"magic\" is not one of openai, anthropic, bedrock, ollama"),
    ] {
        let mut body = json!({"name": "p", "provider": "openai"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(parsed(body).unwrap_err(), want);
    }
}
