//! Models: the APIs of OpenAI and Anthropic at egress, and the providers behind it.

mod anthropic;
mod bedrock;
mod retries;
mod translation;

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, Answer, SOON, TestEgress, basic, get, name, post, send},
};
use bytes::Bytes;
use hoistway_egress::{
    AgentPolicy,
    origin::Origin,
    policy::static_policy::FixedPolicies,
    policy::{
        AwsKey, ModelBackend, ModelKey, ModelPolicy, ModelServer, ModelUnavailable, ModelUnavailableReason, Protocol,
    },
};
use hoistway_kit::egress_auth::EgressKey;
use hoistway_model::{RevisionId, Secret, agent::LlmRole, egress::CallTarget};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::timeout;

pub const CHAT: &str = "/v1/chat/completions";

pub fn server(provider: &str, base_url: &str) -> ModelBackend {
    server_of(Protocol::OpenAi, provider, base_url)
}

fn server_of(protocol: Protocol, provider: &str, base_url: &str) -> ModelBackend {
    let (origin, prefix) = Origin::of_url(base_url).unwrap();
    let (name, key) = (name(provider), Some(ModelKey::ApiKey(Secret::new(format!("sk-of-{provider}")))));
    ModelBackend::Server(Arc::new(ModelServer {
        name,
        protocol,
        origin,
        prefix,
        key,
        allow_private: false,
        timeout: None,
        retries: 0,
    }))
}

fn unavailable(reason: ModelUnavailableReason, text: &str) -> ModelBackend {
    let provider = Some(name("poor"));
    ModelBackend::Unavailable(Arc::new(ModelUnavailable { provider, reason, origin: None, text: text.into() }))
}

pub fn model(role: LlmRole, model: &str, backend: ModelBackend) -> ModelPolicy {
    ModelPolicy { role, model: model.into(), provider: "openai".into(), backend, price: None }
}

/// Egress with one agent that has these models, and a provider at `llm.test`.
pub async fn egress(models: Vec<ModelPolicy>) -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls_http1(&ca, "llm.test").await;
    let resolve = vec![format!("llm.test:443={}", tool_server.address)];
    let key = EgressKey::generate().unwrap();
    let revision = RevisionId::mint();
    let policy = AgentPolicy {
        agent: name("a"),
        revision,
        tools: Vec::new(),
        models,
        own_key_origins: Vec::new(),
        open_network: false,
    };
    let agent = Agent { policy: policy.clone(), token: key.mint(revision) };
    let policies = Arc::new(FixedPolicies::new([policy]));
    let egress = TestEgress::with_policies(&ca, key, policies, |config| {
        config.resolve = resolve;
        config.limits.request_size = 2 << 20;
    });
    (egress.await, agent, tool_server)
}

pub async fn chat(egress: &TestEgress, agent: &Agent, body: Value) -> Answer {
    egress.send(agent, post(CHAT, body.to_string())).await
}

#[tokio::test]
async fn a_call_goes_to_the_provider_of_its_model_with_that_providers_key() {
    let (egress, agent, tool_server) = egress(vec![
        model(LlmRole::Chat, "large", server("main", "https://llm.test/v1")),
        model(LlmRole::Embedding, "vectors", server("other", "https://llm.test/other/v1")),
    ])
    .await;
    let body = json!({"model": "large", "messages": [], "unknown": {"kept": 1}});
    let (mut parts, sent) = post(&format!("{CHAT}?x=y"), body.to_string()).into_parts();
    parts.headers.insert("authorization", "Bearer hoistway-placeholder".parse().unwrap());
    parts.headers.insert("openai-beta", "x".parse().unwrap());
    let answer = egress.send(&agent, Request::from_parts(parts, sent)).await;
    let told = answer.json();
    assert_eq!((answer.status, &told["json"]), (StatusCode::OK, &body));
    assert_eq!((&told["path"], &told["query"]), (&json!("/v1/chat/completions"), &json!("x=y")));
    assert_eq!(
        (&told["headers"]["authorization"], &told["headers"]["openai-beta"]),
        (&json!("Bearer sk-of-main"), &json!("x"))
    );
    assert_eq!(told["headers"]["host"], "llm.test");
    let record = egress.record().await;
    assert_eq!(record.target, Some(CallTarget::ModelProvider(name("main"))));
    assert_eq!((record.origin.as_str(), record.path.as_str()), ("https://llm.test", "/v1/chat/completions"));
    assert_eq!((record.status, record.bytes_up), (Some(200), body.to_string().len() as u64));

    let vectors = egress.send(&agent, post("/v1/embeddings", r#"{"model": "vectors"}"#)).await.json();
    assert_eq!(
        (&vectors["path"], &vectors["headers"]["authorization"]),
        (&json!("/other/v1/embeddings"), &json!("Bearer sk-of-other"))
    );
    // Without a model it is the one for the kind of call.
    let vectors = egress.send(&agent, post("/v1/embeddings", r#"{"input": "x"}"#)).await.json();
    assert_eq!(
        (&vectors["path"], &vectors["json"]),
        (&json!("/other/v1/embeddings"), &json!({"model": "vectors", "input": "x"}))
    );
    let chat = chat(&egress, &agent, json!({})).await.json();
    assert_eq!((&chat["path"], &chat["json"]), (&json!("/v1/chat/completions"), &json!({"model": "large"})));
    assert_eq!(tool_server.connections(), 1, "connections are kept");
}

#[tokio::test]
async fn refusals_have_the_shape_of_the_openai_api_and_reach_no_provider() {
    let (egress, agent, tool_server) = egress(vec![
        model(LlmRole::Chat, "large", server("main", "https://llm.test/v1")),
        model(LlmRole::Classify, "small", unavailable(ModelUnavailableReason::NoKey, "it has no key")),
    ])
    .await;
    let answer = chat(&egress, &agent, json!({"model": "gpt-9"})).await;
    let text = "this agent may not call the model \"gpt-9\", only \"large\", \"small\": llm_configs name its models";
    let error = json!({"message": text, "type": "permission_error", "param": "model", "code": "model_not_allowed"});
    assert_eq!((answer.status, &answer.json()["error"]), (StatusCode::FORBIDDEN, &error));
    let record = egress.record().await;
    assert_eq!((record.refused, record.error.as_deref()), (Some("model_not_allowed"), Some(text)));

    let too_large = format!(r#"{{"model": "large", "x": "{}"}}"#, "x".repeat(3 << 20));
    for (request, status, code) in [
        (post(CHAT, r#"{"model": "small"}"#), 502, "credential_missing"),
        (post(CHAT, "no json"), 400, "bad_request"),
        (post(CHAT, r#"{"model": "large", "model": "gpt-9"}"#), 400, "bad_request"),
        (post(CHAT, too_large), 413, "request_too_large"),
        (get(CHAT), 405, "method"),
        (post("/v1/audio/speech", "{}"), 404, "not_found"),
        (post("/v1/chat/completions/../embeddings", "{}"), 404, "not_found"),
        (get("/v1/models/gpt-9"), 403, "model_not_allowed"),
    ] {
        let uri = request.uri().clone();
        let answer = egress.send(&agent, request).await;
        assert_eq!((answer.status.as_u16(), answer.json()["error"]["code"].as_str()), (status, Some(code)), "{uri}");
        let final_one = status == 502;
        assert_eq!(answer.headers.get("x-should-retry").is_some(), final_one, "{uri}");
    }
    let anonymous = send(egress.connect().await, post(CHAT, "{}")).await;
    assert_eq!(
        (anonymous.status, &anonymous.json()["error"]["type"]),
        (StatusCode::UNAUTHORIZED, &json!("authentication_error"))
    );
    assert_eq!(tool_server.connections(), 0);
}

#[tokio::test]
async fn a_providers_error_comes_out_as_it_is() {
    let (egress, agent, _standin) =
        egress(vec![model(LlmRole::Chat, "m", server("main", "https://llm.test/status/429"))]).await;
    let answer = chat(&egress, &agent, json!({"model": "m"})).await;
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(answer.json()["path"], "/status/429/chat/completions");
    assert!(answer.headers.get("x-hoistway-egress").is_none());
}

#[tokio::test]
async fn a_streamed_answer_passes_event_by_event() {
    let (egress, agent, tool_server) =
        egress(vec![model(LlmRole::Chat, "m", server("main", "https://llm.test/stream"))]).await;
    let events = tool_server.stream();
    let request = Request::post(CHAT).header("proxy-authorization", basic(&agent.token)).header("host", "egress");
    let request = request.body(Full::new(Bytes::from(r#"{"model": "m", "stream": true}"#))).unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(egress.connect().await)).await.unwrap();
    tokio::spawn(connection);
    let mut response = timeout(SOON, sender.send_request(request)).await.unwrap().unwrap();
    for text in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
        events.send(Bytes::from(text)).await.unwrap();
        let frame = timeout(SOON, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text, "it must not wait for the next one");
    }
}

#[tokio::test]
async fn the_playground_answers_without_any_network_and_is_recorded() {
    let playground = ModelBackend::Playground(name("playground-llm"));
    let (egress, agent, tool_server) = egress(vec![model(LlmRole::Chat, "gpt-4o-mini", playground)]).await;
    let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]});
    let answer = chat(&egress, &agent, body.clone()).await;
    assert_eq!((answer.status, &answer.json()["system_fingerprint"]), (StatusCode::OK, &json!("hoistway-playground")));
    let record = egress.record().await;
    assert_eq!((record.target, record.status), (Some(CallTarget::ModelProvider(name("playground-llm"))), Some(200)));
    assert_eq!((record.bytes_up, record.bytes_down), (body.to_string().len() as u64, answer.body.len() as u64));
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let answer = chat(&egress, &agent, streamed).await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"), "{answer:?}");

    let listed = egress.send(&agent, get("/v1/models")).await.json();
    let entry = json!({"id": "gpt-4o-mini", "object": "model", "created": 0, "owned_by": "openai"});
    assert_eq!(listed, json!({"object": "list", "data": [entry]}));
    assert_eq!(egress.send(&agent, get("/v1/models/gpt-4o-mini")).await.json(), entry);
    assert_eq!(tool_server.connections(), 0);
}
