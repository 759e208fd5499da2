//! Checks of model providers: what is asked, and what people are told.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{TestEgress, name},
};
use hoistway_client::{EgressClient, Transport};
use hoistway_egress::{
    AgentPolicy,
    origin::Origin,
    policy::static_policy::FixedPolicies,
    policy::{
        AwsKey, ModelBackend, ModelKey, ModelPolicy, ModelServer, ModelUnavailable, ModelUnavailableReason, Protocol,
    },
};
use hoistway_kit::egress_auth::EgressKey;
use hoistway_model::{Code, EgressService, RevisionId, Secret, agent::LlmRole, egress::Check};
use serde_json::json;
use std::sync::Arc;

const KEY: &str = "sk-of-the-check-77d0";

fn server(provider: &str, base_url: &str, key: Option<&str>) -> ModelBackend {
    server_of(Protocol::OpenAi, provider, base_url, key)
}

fn server_of(protocol: Protocol, provider: &str, base_url: &str, key: Option<&str>) -> ModelBackend {
    let (origin, prefix) = Origin::of_url(base_url).unwrap();
    let (name, key) = (name(provider), key.map(|key| ModelKey::ApiKey(Secret::new(key))));
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

fn model(provider: &str, model: &str, backend: ModelBackend) -> ModelPolicy {
    ModelPolicy { role: LlmRole::Chat, model: model.into(), provider: provider.into(), backend, price: None }
}

impl TestEgress {
    /// The status, and each part of the check: its name, then `ok` or what is wrong.
    async fn found_at(&self, provider: &str) -> (Option<u16>, Vec<(&'static str, String)>) {
        let egress = EgressClient::new(Transport::connect("egress", &self.grpc, &self.token).unwrap());
        let check = egress.check_model_provider(name(provider)).await.unwrap();
        assert!(!format!("{check:?}").contains(KEY), "{check:?}");
        let Check { status, steps, .. } = check;
        let part = |ok, message| if ok { "ok".to_owned() } else { message };
        (status, steps.into_iter().map(|s| (s.check.as_str(), part(s.ok, s.message))).collect())
    }
}

fn ok(check: &'static str) -> (&'static str, String) {
    (check, "ok".to_owned())
}

#[tokio::test]
async fn a_model_provider_is_asked_for_its_models_with_its_key() {
    let ca = TestCa::new();
    let tool_server = MockTool::tls_http1(&ca, "llm.test").await;
    tool_server.lists_models(&["large", "llama3:latest"]);
    let unavailable = |reason, text: &str| {
        let origin = Some(Origin::of_url("https://llm.test").unwrap().0);
        ModelBackend::Unavailable(Arc::new(ModelUnavailable { provider: None, reason, origin, text: text.into() }))
    };
    let (origin, prefix) = Origin::of_url("https://llm.test").unwrap();
    let key = AwsKey {
        access_key_id: Secret::new("ASIA0123456789ABCDEF"),
        secret_access_key: Secret::new(KEY),
        session_token: None,
        region: "eu-west-1".into(),
    };
    let temporary = ModelBackend::Server(Arc::new(ModelServer {
        name: name("temporary"),
        protocol: Protocol::Bedrock,
        origin,
        prefix,
        key: Some(ModelKey::Aws(key)),
        allow_private: false,
        timeout: None,
        retries: 0,
    }));
    let main = server("main", "https://llm.test/v1", Some(KEY));
    let models = vec![
        model("main", "large", main.clone()),
        model("main", "llama3", main.clone()),
        model("main", "alias", main.clone()),
        model("main", "no/such", main),
        model("claude", "large", server_of(Protocol::Anthropic, "claude", "https://llm.test/v1", Some(KEY))),
        model("aws", "large", server_of(Protocol::Bedrock, "aws", "https://llm.test", Some(KEY))),
        model("temporary", "large", temporary),
        model("keyless", "large", server("keyless", "https://llm.test/v1", None)),
        model("refused", "large", server("refused", "https://llm.test/status/401", Some(KEY))),
        model("unlisted", "large", server("unlisted", "https://llm.test/status/404", Some(KEY))),
        model("elsewhere", "large", server("elsewhere", "https://no-such-host.invalid/v1", Some(KEY))),
        model("poor", "large", unavailable(ModelUnavailableReason::NoKey, "it has no key yet")),
        model("playground", "large", ModelBackend::Playground(name("playground"))),
    ];
    let (key, revision) = (EgressKey::generate().unwrap(), RevisionId::mint());
    let policy = AgentPolicy {
        agent: name("a"),
        revision,
        tools: Vec::new(),
        models,
        own_key_origins: Vec::new(),
        open_network: false,
    };
    let resolve = vec![format!("llm.test:443={}", tool_server.address)];
    let policies = Arc::new(FixedPolicies::new([policy]));
    let egress = TestEgress::with_policies(&ca, key, policies, |config| config.resolve = resolve).await;

    let missing = "the model provider does not list \"no/such\": compare its identifier with the provider's own, or the \
                   models that the key may use";
    let steps = vec![
        ok("address"),
        ok("tls"),
        ok("credential"),
        ok("model"),
        ok("model"),
        ok("model"),
        ("model", missing.to_owned()),
    ];
    assert_eq!(egress.found_at("main").await, (Some(200), steps));
    let asked = tool_server.seen("/v1/models").remove(0);
    assert_eq!(
        (&asked["method"], &asked["headers"]["authorization"]),
        (&json!("GET"), &json!(format!("Bearer {KEY}")))
    );
    // A name that the list leaves out is asked for.
    assert_eq!(tool_server.seen("/v1/models/alias").len(), 1);

    let steps = vec![ok("address"), ok("tls"), ok("credential"), ok("model")];
    assert_eq!(egress.found_at("claude").await, (Some(200), steps));
    let asked = tool_server.seen("/v1/models").remove(1);
    let headers = (&asked["headers"]["x-api-key"], &asked["headers"]["anthropic-version"]);
    assert_eq!(headers, (&json!(KEY), &json!("2023-06-01")), "Anthropic is asked as its API wants it");

    // Bedrock has no list of models where they are called.
    assert_eq!(egress.found_at("aws").await.1, [ok("address"), ok("tls"), ok("credential")]);
    let missing = "access_key_id is that of temporary credentials, and their session_token is missing: PUT \
                   /api/model-providers/temporary/credentials stores others";
    let steps = egress.found_at("temporary").await.1;
    assert_eq!(steps, [ok("address"), ok("tls"), ("credential", missing.to_owned())]);

    assert_eq!(egress.found_at("keyless").await.1, [ok("address"), ok("tls"), ok("model")]);
    let (status, steps) = egress.found_at("refused").await;
    assert_eq!((status, steps.len(), steps[2].0), (Some(401), 3, "credential"), "{steps:?}");
    assert!(steps[2].1.ends_with("PUT /api/model-providers/refused/credentials stores another one"), "{steps:?}");
    let (status, steps) = egress.found_at("unlisted").await;
    assert_eq!((status, steps.len(), steps[3].0), (Some(404), 4, "model"), "{steps:?}");
    assert!(steps[3].1.starts_with("GET /status/404/models was answered with 404 Not Found and not with"), "{steps:?}");
    let (status, steps) = egress.found_at("elsewhere").await;
    assert_eq!((status, steps.len(), steps[0].0), (None, 1, "address"), "{steps:?}");
    let steps = vec![ok("address"), ok("tls"), ("credential", "it has no key yet".to_owned())];
    assert_eq!(egress.found_at("poor").await, (Some(200), steps), "its address is checked all the same");
    assert_eq!(egress.found_at("playground").await, (None, vec![ok("address")]));
    let egress = EgressClient::new(Transport::connect("egress", &egress.grpc, &egress.token).unwrap());
    assert_eq!(egress.check_model_provider(name("nothing")).await.unwrap_err().code, Code::NotFound);
}
