//! The public APIs of models, called at their own addresses: for the agent's models, or with a key of its own.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, Answer, TestEgress, get, name, post},
};
use hoistway_egress::{
    AgentPolicy,
    origin::Origin,
    policy::static_policy::FixedPolicies,
    policy::{ModelBackend, ModelKey, ModelPolicy, ModelServer, Protocol},
};
use hoistway_kit::egress_auth::{EgressKey, Flavour};
use hoistway_model::{RevisionId, Secret, agent::LlmRole, egress::CallTarget};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;

const OPENAI: &str = "api.openai.com";
const PLACEHOLDER: &str = "Bearer hoistway-placeholder";

/// Egress with one agent whose model `large` is at `llm.test`, and stand-ins for that provider and for OpenAI.
async fn egress(change: impl FnOnce(&mut AgentPolicy)) -> (TestEgress, Agent, MockTool, MockTool) {
    let ca = TestCa::new();
    let (provider, openai) = (MockTool::tls_http1(&ca, "llm.test").await, MockTool::tls_http1(&ca, OPENAI).await);
    let resolve = vec![format!("llm.test:443={}", provider.address), format!("{OPENAI}:443={}", openai.address)];
    let (origin, prefix) = Origin::of_url("https://llm.test/v1").unwrap();
    let (main, key) = (name("main"), Some(ModelKey::ApiKey(Secret::new("sk-main"))));
    let server = ModelServer {
        name: main,
        protocol: Protocol::OpenAi,
        origin,
        prefix,
        key,
        allow_private: false,
        timeout: None,
        retries: 0,
    };
    let backend = ModelBackend::Server(Arc::new(server));
    let models =
        vec![ModelPolicy { role: LlmRole::Chat, model: "large".into(), provider: "main".into(), backend, price: None }];
    let (key, revision) = (EgressKey::generate().unwrap(), RevisionId::mint());
    let mut policy = AgentPolicy {
        agent: name("a"),
        revision,
        tools: Vec::new(),
        models,
        own_key_origins: Vec::new(),
        open_network: false,
    };
    change(&mut policy);
    let agent = Agent { policy: policy.clone(), token: key.mint(revision) };
    let policies = Arc::new(FixedPolicies::new([policy]));
    let egress = TestEgress::with_policies(&ca, key, policies, |config| config.resolve = resolve).await;
    (egress, agent, provider, openai)
}

fn own_key(policy: &mut AgentPolicy) {
    policy.own_key_origins = vec![Origin::of_url("https://api.openai.com").unwrap().0];
}

async fn chat(egress: &TestEgress, agent: &Agent, key: &str) -> Answer {
    let mut request = post("/v1/chat/completions", json!({"model": "large"}).to_string());
    request.headers_mut().insert("authorization", key.parse().unwrap());
    egress.call(agent, OPENAI, request).await
}

#[tokio::test]
async fn the_address_of_a_public_api_leads_to_the_agents_own_models() {
    let (egress, agent, _provider, openai) = egress(|_| {}).await;
    let answer = chat(&egress, &agent, PLACEHOLDER).await.json();
    assert_eq!(
        (&answer["headers"]["host"], &answer["headers"]["authorization"]),
        (&json!("llm.test"), &json!("Bearer sk-main"))
    );
    assert_eq!(egress.record().await.target, Some(CallTarget::ModelProvider(name("main"))));
    let wrong = egress.call(&agent, OPENAI, post("/v1/chat/completions", r#"{"model": "gpt-9"}"#)).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (StatusCode::FORBIDDEN, &json!("model_not_allowed")));
    // So it is for clients that were led to egress by the host's name.
    let stream = egress.prefaced(&agent.token, Flavour::Tls, 443).await;
    let tls = egress.tls(stream, OPENAI, &["http/1.1"]).await.unwrap();
    let mut request = get("/v1/models/large");
    request.headers_mut().insert("host", OPENAI.parse().unwrap());
    assert_eq!(crate::test_egress::send(tls, request).await.json()["id"], "large");
    assert_eq!(openai.connections(), 0);
}

#[tokio::test]
async fn a_key_of_the_agents_own_goes_to_its_api_and_nowhere_else() {
    let (egress, agent, provider, openai) = egress(own_key).await;
    let answer = chat(&egress, &agent, "Bearer sk-own").await.json();
    assert_eq!(
        (&answer["headers"]["host"], &answer["headers"]["authorization"]),
        (&json!(OPENAI), &json!("Bearer sk-own"))
    );
    assert_eq!((provider.connections(), openai.connections()), (0, 1));
    let record = egress.record().await;
    assert_eq!((record.origin.as_str(), record.path.as_str()), ("https://api.openai.com", "/v1/chat/completions"));
    assert_eq!((record.status, record.refused, record.target), (Some(200), None, None));
    let refused = egress.tunnel(&agent, "example.org:443").await.unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
}

#[tokio::test]
async fn in_an_open_network_only_the_placeholder_key_leads_to_the_agents_models() {
    let (egress, agent, ..) = egress(|policy| policy.open_network = true).await;
    assert_eq!(chat(&egress, &agent, PLACEHOLDER).await.json()["headers"]["host"], "llm.test");
    let own = chat(&egress, &agent, "Bearer sk-in-the-code").await.json();
    assert_eq!(
        (&own["headers"]["host"], &own["headers"]["authorization"]),
        (&json!(OPENAI), &json!("Bearer sk-in-the-code"))
    );
}
