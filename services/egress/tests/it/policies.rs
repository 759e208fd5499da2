//! Policies that follow the tool registry and the agent service.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, Answer, SOON, TestEgress, get, name, post, send},
};
use async_trait::async_trait;
use futures_util::stream;
use hoistway_client::{EgressClient, Transport};
use hoistway_egress::{AgentPolicy, WatchedPolicies};
use hoistway_kit::{egress_auth::EgressKey, token::ServiceToken};
use hoistway_model::{
    AgentIdentities, Code, EgressService, Name, Result, RevisionId, Secret, ToolCredentials,
    agent::{LlmConfig, LlmRole},
    egress::{AgentIdentity, EgressStatus, ModelProviderAccess, PolicySource, RefusedCall, ToolAccess},
    tool::AuthType,
    watch::{Update, Updates},
};
use http::StatusCode;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};

/// The time limit that the platform promises for a change.
const ONE_SECOND: Duration = Duration::from_secs(1);

type Subscription<K, V> = mpsc::Sender<Result<Update<K, V>>>;

/// A service whose subscriptions the test feeds.
#[derive(Debug)]
struct Fed<K, V>(mpsc::Sender<Subscription<K, V>>);

impl<K: Send + 'static, V: Send + 'static> Fed<K, V> {
    async fn subscribe(&self) -> Result<Updates<K, V>> {
        let (updates, fed) = mpsc::channel(64);
        self.0.send(updates).await.unwrap();
        let next = |mut fed: mpsc::Receiver<_>| async move { fed.recv().await.map(|update| (update, fed)) };
        Ok(Box::pin(stream::unfold(fed, next)))
    }
}

/// A tool registry with both of its subscriptions.
#[derive(Debug)]
struct FedRegistry {
    tools: Fed<Name, ToolAccess>,
    model_providers: Fed<Name, ModelProviderAccess>,
}

#[async_trait]
impl ToolCredentials for FedRegistry {
    async fn watch_tools(&self) -> Result<Updates<Name, ToolAccess>> {
        self.tools.subscribe().await
    }

    async fn watch_model_providers(&self) -> Result<Updates<Name, ModelProviderAccess>> {
        self.model_providers.subscribe().await
    }
}

#[async_trait]
impl AgentIdentities for Fed<RevisionId, AgentIdentity> {
    async fn watch_identities(&self) -> Result<Updates<RevisionId, AgentIdentity>> {
        self.subscribe().await
    }

    async fn log_refused_calls(&self, _: Vec<RefusedCall>) -> Result<()> {
        Ok(())
    }
}

/// Egress with both services, of which nothing has been heard yet.
struct Platform {
    egress: TestEgress,
    tool_server: MockTool,
    tools: Subscription<Name, ToolAccess>,
    model_providers: Subscription<Name, ModelProviderAccess>,
    identities: Subscription<RevisionId, AgentIdentity>,
    /// Later subscriptions to the agent service.
    resubscribed: Mutex<mpsc::Receiver<Subscription<RevisionId, AgentIdentity>>>,
}

impl Platform {
    async fn start() -> Self {
        let ca = TestCa::new();
        let tool_server = MockTool::plain().await;
        let ((tools, mut tool_feeds), (identities, mut feeds)) = (mpsc::channel(1), mpsc::channel(1));
        let (model_providers, mut model_feeds) = mpsc::channel(1);
        let registry = FedRegistry { tools: Fed(tools), model_providers: Fed(model_providers) };
        let policies = WatchedPolicies::new(Arc::new(registry), Arc::new(Fed(identities)), &[]).unwrap();
        let resolve = vec![format!("api.test:80={}", tool_server.address)];
        let key = EgressKey::generate().unwrap();
        let egress = TestEgress::with_policies(&ca, key, Arc::new(policies), |config| config.resolve = resolve).await;
        let tools = tool_feeds.recv().await.unwrap();
        let model_providers = model_feeds.recv().await.unwrap();
        let identities = feeds.recv().await.unwrap();
        Self { egress, tool_server, tools, model_providers, identities, resubscribed: Mutex::new(feeds) }
    }

    /// The same once it knows the tool `api` and an agent that requires it.
    async fn with_agent() -> (Self, Agent) {
        let platform = Self::start().await;
        let agent = platform.agent("a");
        platform.set_tool(tool("api", "first")).await;
        platform.tools.send(Ok(Update::Complete)).await.unwrap();
        platform.model_providers.send(Ok(Update::Complete)).await.unwrap();
        platform.identify(&agent, &["api"]).await;
        platform.identities.send(Ok(Update::Complete)).await.unwrap();
        (platform, agent)
    }

    fn agent(&self, text: &str) -> Agent {
        let revision = RevisionId::mint();
        let policy = AgentPolicy {
            agent: name(text),
            revision,
            tools: Vec::new(),
            models: Vec::new(),
            own_key_origins: Vec::new(),
            open_network: false,
        };
        Agent { policy, token: self.egress.key.mint(revision) }
    }

    async fn set_tool(&self, tool: ToolAccess) {
        self.tools.send(Ok(Update::Set(tool.name.clone(), tool))).await.unwrap();
    }

    async fn identify(&self, agent: &Agent, tools: &[&str]) {
        self.identities.send(Ok(identity(agent, tools))).await.unwrap();
    }

    async fn call(&self, agent: &Agent) -> Answer {
        self.egress.send(agent, get("/tools/api/x")).await
    }

    /// Calls until the answer is as wanted, which it must be within a second.
    async fn becomes(&self, agent: &Agent, wanted: (StatusCode, &str)) {
        let mut last = None;
        let calling = async {
            loop {
                let answer = self.call(agent).await;
                if (answer.status, outcome(&answer).as_str()) == wanted {
                    return;
                }
                last = Some(answer);
            }
        };
        let became = timeout(ONE_SECOND, calling).await.is_ok();
        assert!(became, "{wanted:?} was not there in time: {last:?}");
    }
}

/// The key that the tool got, or the reason of a refusal.
fn outcome(answer: &Answer) -> String {
    match answer.status {
        StatusCode::OK => answer.json()["headers"]["authorization"].as_str().unwrap_or_default().to_owned(),
        _ => answer.reason(),
    }
}

fn identity(agent: &Agent, tools: &[&str]) -> Update<RevisionId, AgentIdentity> {
    let AgentPolicy { agent, revision, open_network, .. } = agent.policy.clone();
    let required_tools = tools.iter().map(|t| name(t)).collect();
    let (llm, own_key_origins) = (Vec::new(), Vec::new());
    Update::Set(revision, AgentIdentity { revision, agent, required_tools, open_network, llm, own_key_origins })
}

fn tool(text: &str, key: &str) -> ToolAccess {
    ToolAccess {
        name: name(text),
        url: "http://api.test".into(),
        auth_type: AuthType::ApiKey,
        api_key: None,
        oauth2: None,
        credentials: BTreeMap::from([("api_key".to_owned(), Secret::new(key))]),
    }
}

const REFUSED: (StatusCode, &str) = (StatusCode::UNAUTHORIZED, "identity_unknown");

#[tokio::test]
async fn a_call_waits_until_it_is_known_what_its_agent_may_do() {
    let platform = Platform::start().await;
    let agent = platform.agent("a");
    let feed = async {
        // Each service may be the last one.
        platform.identify(&agent, &["api"]).await;
        platform.identities.send(Ok(Update::Complete)).await.unwrap();
        platform.model_providers.send(Ok(Update::Complete)).await.unwrap();
        platform.set_tool(tool("api", "first")).await;
        platform.tools.send(Ok(Update::Complete)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(platform.call(&agent), feed);
    assert_eq!((answer.status, outcome(&answer).as_str()), (StatusCode::OK, "Bearer first"));
}

#[tokio::test]
async fn egress_is_ready_once_it_knows_what_both_services_say() {
    let platform = Platform::start().await;
    let probe = async |path: &str| send(platform.egress.connect().await, get(path)).await.status;
    assert_eq!(probe("/healthz").await, StatusCode::OK);
    platform.tools.send(Ok(Update::Complete)).await.unwrap();
    assert_eq!(probe("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    platform.model_providers.send(Ok(Update::Complete)).await.unwrap();
    assert_eq!(probe("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    platform.identities.send(Ok(Update::Complete)).await.unwrap();
    let ready = async { while probe("/readyz").await != StatusCode::OK {} };
    timeout(ONE_SECOND, ready).await.unwrap();
}

#[tokio::test]
async fn changes_of_credentials_tools_and_bindings_are_in_force_within_a_second() {
    let (platform, agent) = Platform::with_agent().await;
    platform.becomes(&agent, (StatusCode::OK, "Bearer first")).await;
    platform.set_tool(tool("api", "second")).await;
    platform.becomes(&agent, (StatusCode::OK, "Bearer second")).await;
    platform.set_tool(ToolAccess { credentials: BTreeMap::new(), ..tool("api", "") }).await;
    platform.becomes(&agent, (StatusCode::BAD_GATEWAY, "credential_missing")).await;
    let text = platform.call(&agent).await.json()["error"].to_string();
    assert!(text.contains("the tool \\\"api\\\" has no credential yet"), "{text}");
    platform.set_tool(tool("api", "third")).await;
    platform.becomes(&agent, (StatusCode::OK, "Bearer third")).await;

    platform.identify(&agent, &["other"]).await;
    platform.becomes(&agent, (StatusCode::FORBIDDEN, "tool_not_allowed")).await;
    platform.identify(&agent, &["other", "api"]).await;
    platform.becomes(&agent, (StatusCode::OK, "Bearer third")).await;
    platform.tools.send(Ok(Update::Removed(name("api")))).await.unwrap();
    platform.becomes(&agent, (StatusCode::FORBIDDEN, "tool_not_allowed")).await;
    platform.set_tool(tool("api", "again")).await;
    platform.becomes(&agent, (StatusCode::OK, "Bearer again")).await;
}

#[tokio::test]
async fn the_token_of_a_deleted_agent_is_worthless_and_that_of_another_one_is_not() {
    let (platform, agent) = Platform::with_agent().await;
    let other = platform.agent("b");
    assert_eq!(platform.call(&other).await.status, StatusCode::UNAUTHORIZED);
    platform.identify(&other, &["api"]).await;
    platform.becomes(&other, (StatusCode::OK, "Bearer first")).await;
    platform.identities.send(Ok(Update::Removed(agent.policy.revision))).await.unwrap();
    platform.becomes(&agent, REFUSED).await;
    platform.becomes(&other, (StatusCode::OK, "Bearer first")).await;
}

#[tokio::test]
async fn when_a_service_is_lost_its_last_word_stays_in_force_until_it_is_back() {
    let (platform, agent) = Platform::with_agent().await;
    let (gone, new) = (platform.agent("gone"), platform.agent("new"));
    platform.identify(&gone, &["api"]).await;
    platform.becomes(&gone, (StatusCode::OK, "Bearer first")).await;

    let Platform { egress, tool_server, tools, model_providers, identities, resubscribed } = platform;
    drop(identities);
    let identities = timeout(SOON, resubscribed.lock().await.recv()).await.unwrap().unwrap();
    let platform = Platform { egress, tool_server, tools, model_providers, identities, resubscribed };
    for known in [&agent, &gone] {
        assert_eq!(outcome(&platform.call(known).await), "Bearer first");
    }
    platform.set_tool(tool("api", "meanwhile")).await;
    platform.becomes(&agent, (StatusCode::OK, "Bearer meanwhile")).await;

    // Whoever was started meanwhile is not refused before the service has said so.
    let back = async {
        platform.identify(&agent, &["api"]).await;
        platform.identify(&new, &["api"]).await;
        assert_eq!(outcome(&platform.call(&gone).await), "Bearer meanwhile", "it is not all there yet");
        platform.identities.send(Ok(Update::Complete)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(platform.call(&new), back);
    assert_eq!(outcome(&answer), "Bearer meanwhile");
    platform.becomes(&gone, REFUSED).await;
    assert_eq!(outcome(&platform.call(&agent).await), "Bearer meanwhile");
}

#[tokio::test]
async fn a_refusal_names_the_registered_tool_that_would_be_needed() {
    let (platform, _) = Platform::with_agent().await;
    let poor = platform.agent("poor");
    platform.identify(&poor, &[]).await;
    platform.becomes(&poor, (StatusCode::FORBIDDEN, "tool_not_allowed")).await;
    let answer = platform.egress.send(&poor, get("http://api.test/x")).await;
    let text = "http://api.test is the tool \"api\", which this agent does not require: add it to required_tools";
    assert_eq!((answer.status, answer.json()["error"].as_str()), (StatusCode::FORBIDDEN, Some(text)));
    assert_eq!(platform.tool_server.connections(), 0);
}

#[tokio::test]
async fn the_platform_asks_how_current_egress_is_and_whom_agents_must_trust() {
    let (platform, agent) = Platform::with_agent().await;
    platform.becomes(&agent, (StatusCode::OK, "Bearer first")).await;
    let client =
        |token: &ServiceToken| EgressClient::new(Transport::connect("egress", &platform.egress.grpc, token).unwrap());
    let egress = client(&platform.egress.token);
    let source = PolicySource { complete: true, connected: true, records: 1 };
    let model_providers = PolicySource { records: 0, ..source };
    let status = EgressStatus { tools: source, identities: source, model_providers };
    assert_eq!(egress.status().await.unwrap(), status);
    assert_eq!(egress.authority().await.unwrap(), std::fs::read_to_string(platform.egress.ca_file()).unwrap());
    let metrics = egress.egress_metrics().await.unwrap();
    let up = metrics.of_service.iter().find(|family| family.name == "hoistway_egress_policy_source_up").unwrap();
    assert_eq!(up.samples.iter().map(|sample| sample.value).collect::<Vec<_>>(), [1.0, 1.0, 1.0]);
    let stranger = client(&ServiceToken::generate().unwrap());
    assert_eq!(stranger.status().await.unwrap_err().code, Code::Unauthenticated);
}

#[tokio::test]
async fn a_key_of_a_model_provider_and_an_agents_models_are_in_force_within_a_second() {
    let (platform, agent) = Platform::with_agent().await;
    let provider = |key: &str| ModelProviderAccess {
        name: name("own"),
        provider: "openai".into(),
        endpoint: "http://api.test/v1".into(),
        models: Vec::new(),
        prices: BTreeMap::new(),
        timeout_seconds: None,
        retries: 0,
        credentials: BTreeMap::from([("api_key".to_owned(), Secret::new(key))]),
        demo: false,
    };
    let Update::Set(revision, mut with_model) = identity(&agent, &["api"]) else { panic!() };
    with_model.llm = vec![LlmConfig { role: LlmRole::Chat, provider: "own".into(), model: "m".into() }];
    let becomes = async |wanted: &str| {
        let calling = async {
            loop {
                let answer = platform.egress.send(&agent, post("/v1/chat/completions", r#"{"model": "m"}"#)).await;
                let found = if answer.status.is_success() { outcome(&answer) } else { answer.reason() };
                if found == wanted {
                    return;
                }
            }
        };
        timeout(ONE_SECOND, calling).await.unwrap();
    };
    becomes("model_not_allowed").await;
    platform.identities.send(Ok(Update::Set(revision, with_model))).await.unwrap();
    becomes("provider_missing").await;
    for key in ["first", "second"] {
        let update = Update::Set(name("own"), provider(key));
        platform.model_providers.send(Ok(update)).await.unwrap();
        becomes(&format!("Bearer {key}")).await;
    }
    platform.model_providers.send(Ok(Update::Removed(name("own")))).await.unwrap();
    becomes("provider_missing").await;
}
