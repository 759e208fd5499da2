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
            "monthly_budget_usd: is not supported: set budgets of agents instead, with PUT /api/agents/NAME/budget",
        ),
        (json!({"credentials": {"key": "s3cr3t"}}), "credentials.api_key: is required"),
        (json!({"api_key": "s3cr3t\n"}), "api_key: is too long or has control characters"),
        (json!({"api_key": "s3cr3t", "credentials": {"api_key": "s3cr3t"}}), "credentials: are given twice"),
        (
            json!({"provider": "bedrock", "credentials": {"region": "eu-west-1", "access_key_id": "a"}}),
            "credentials.secret_access_key: is required",
        ),
        (json!({"timeout_seconds": 0}), "timeout_seconds: must be 1 to 3600, not 0"),
        (json!({"timeout_seconds": 3601}), "timeout_seconds: must be 1 to 3600, not 3601"),
        (json!({"timeout_seconds": 0.5}), "timeout_seconds: must be a whole number, not 0.5"),
        (json!({"retries": 6}), "retries: must be 0 to 5, not 6"),
        (json!({"retries": -1}), "retries: must be 0 to 5, not -1"),
        (json!({"spec": {"provider": "openai", "retries": "2"}}), "spec.retries: must be a whole number, not a string"),
        (json!({"provider": "magic"}), "provider: \"magic\" is not one of openai, anthropic, bedrock, ollama"),
    ] {
        let mut body = json!({"name": "p", "provider": "openai"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(parsed(body).unwrap_err(), want);
    }
}

#[test]
fn prices_are_exact_and_whole() {
    let parsed = |prices: Value| {
        parsed(json!({"name": "p", "provider": "openai", "prices": prices})).map(|(provider, _)| provider.prices)
    };
    let prices = parsed(json!({"m": {"input": 2.5, "output": "10.000001"}})).unwrap();
    let price = prices["m"];
    assert_eq!((price.cached_input, price.output.to_string().as_str()), (price.input, "10.000001"));
    for (prices, message) in [
        (json!({"m": {"input": 1}}), "prices[\"m\"].output: is required"),
        (json!({"m": {"input": 1, "output": 1, "cached": 1}}), "prices[\"m\"].cached: unknown field"),
        (json!({"m": {"input": -1, "output": 1}}), "prices[\"m\"].input: must be an amount such as 2.5"),
        (json!({"m": 5}), "prices[\"m\"]: must be an object, not a number"),
        (json!([]), "prices: must be an object, not a list"),
    ] {
        let found = parsed(prices).unwrap_err();
        assert!(found.starts_with(message), "{found}");
    }
}
