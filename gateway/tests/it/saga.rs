//! The saga's three tests, for each kind of deployment: every call fails, every action is repeated, every undo is
//! repeated. The calls are those of a run without failures, so that no step is left out.

use crate::{
    fake_egress::FakeEgress,
    fake_services::{FakeServices, Fault, When},
    fakes::{FakeAgents, FakeBuilds, FakeTools},
    test_gateway::{Answer, call},
};
use hoistway_gateway::{Config, Deps, Gateway, saga::Services};
use hoistway_kit::{
    db::DatabaseConfig,
    invoke_statement::InvokeStatementKey,
    ports,
    secrets::MasterKey,
    tls::ServiceTls,
    token::{ApiKey, ServiceToken},
};
use hoistway_model::Code;
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A whole gateway with its saga, over fake services.
pub struct SagaGateway {
    pub services: Arc<FakeServices>,
    address: SocketAddr,
    key: ApiKey,
    master_key: MasterKey,
    dir: Arc<tempfile::TempDir>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl SagaGateway {
    /// Returns a gateway with an agent that was deployed twice: first with the tool `t1`, then without.
    pub async fn start() -> Self {
        let services = Arc::<FakeServices>::default();
        let (key, master_key) = (ApiKey::generate().unwrap(), MasterKey::from_bytes(&[7; 32]).unwrap());
        let gateway = Self::open(services, Arc::new(tempfile::tempdir().unwrap()), key, master_key).await;
        let tool = json!([{"name": "t1", "base_url": "http://t1.example"}]);
        let first = json!({"agent_name": "a", "image": "x:1", "system_prompt": "one", "tools_to_create": tool,
            "required_tools": ["t1"], "env": [{"name": "KEY", "value": "s3cr3t"}]});
        for body in [first, json!({"agent_name": "a", "image": "x:2", "system_prompt": "two"})] {
            let deployed = gateway.call("POST", "/api/deploy", body).await;
            assert_eq!(deployed.status, 201, "{}", deployed.text);
        }
        gateway.services.forget_calls();
        gateway
    }

    async fn open(
        services: Arc<FakeServices>,
        dir: Arc<tempfile::TempDir>,
        key: ApiKey,
        master_key: MasterKey,
    ) -> Self {
        // Waiting tests send many requests.
        let config = Config { requests_per_second: 0, ..Config::default() };
        Self::open_with(services, dir, key, master_key, config).await
    }

    async fn open_with(
        services: Arc<FakeServices>,
        dir: Arc<tempfile::TempDir>,
        key: ApiKey,
        master_key: MasterKey,
        config: Config,
    ) -> Self {
        let agents = FakeAgents::of(services.clone());
        let tools = FakeTools { services: Some(services.clone()), ..FakeTools::default() };
        let clients = Services { tools: Arc::new(tools), builds: FakeBuilds::of(services.clone()), agents };
        let database = DatabaseConfig::from(hoistway_testing::database_url(dir.path()));
        let config = Config { data_dir: dir.path().to_owned(), database, ..config };
        let shutdown = CancellationToken::new();
        let invoke_statements = InvokeStatementKey::new(&ServiceToken::generate().unwrap()).unwrap();
        let deps = Deps {
            services: clients,
            egress: FakeEgress::new(),
            tls: ServiceTls::default(),
            master_key: master_key.clone(),
            api_key: key.clone(),
            invoke_statements,
        };
        let gateway = Gateway::open(&config, deps, shutdown.clone()).await.unwrap();
        let listeners = ports::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listeners.addrs()[0];
        let serving = tokio::spawn(async move { gateway.serve(listeners).await.unwrap() });
        Self { services, address, key, master_key, dir, shutdown, serving }
    }

    /// Returns the same gateway after a shutdown in the middle of its work.
    pub async fn restart(self) -> Self {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        Self::open(self.services, self.dir, self.key, self.master_key).await
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let key = format!("Bearer {}", self.key.secret().expose());
        call(self.address, method, path, body.to_string(), &[("authorization", &key)]).await
    }

    /// Waits until no deployment is in progress.
    pub async fn ended(&self) {
        let waiting = async {
            loop {
                let all = self.call("GET", "/api/deployments", json!({})).await.json();
                if all.as_array().unwrap().iter().all(|d| !d["completed_at"].is_null()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        // Longer than the longest pause before a retry.
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("something is in progress for ever");
    }
}

/// A kind of deployment and its request.
struct Kind {
    method: &'static str,
    path: &'static str,
    body: &'static str,
    success: u16,
    /// Prepares the state before it.
    prepare: fn(&FakeServices),
}

const IMAGE: Kind = Kind {
    method: "POST",
    path: "/api/deploy",
    body: r#"{"agent_name": "a", "image": "x:3", "required_tools": ["t2"],
        "tools_to_create": [{"name": "t2", "base_url": "http://t2.example"}]}"#,
    success: 201,
    prepare: |_| {},
};

const SOURCE: Kind = Kind {
    body: r#"{"agent_name": "a", "source_files": {"agent.py": "print(1)"}, "required_tools": ["t2"],
        "tools_to_create": [{"name": "t2", "base_url": "http://t2.example"}]}"#,
    ..IMAGE
};

const ROLLBACK: Kind = Kind { path: "/api/agents/a/rollback", body: "{}", ..IMAGE };

const CONFIG: Kind = Kind {
    method: "PUT",
    path: "/api/agents/a/config",
    body: r#"{"system_prompt": "changed", "required_tools": ["t1"]}"#,
    success: 200,
    prepare: |_| {},
};

const REBUILD: Kind =
    Kind { path: "/api/agents/a/start", body: "{}", success: 200, prepare: FakeServices::outdate, ..IMAGE };

const KINDS: [Kind; 5] = [IMAGE, SOURCE, ROLLBACK, CONFIG, REBUILD];

/// The call of the point of no return.
const COMMIT: &str = "switch_route";

/// The results of a run without failures.
struct Clean {
    picture: String,
    /// The calls in their order.
    calls: Vec<&'static str>,
    /// The names of the steps in their order.
    steps: Vec<String>,
}

impl Clean {
    /// Returns the calls up to that of the point of no return.
    fn until_commit(&self) -> &[&'static str] {
        let at = self.calls.iter().position(|call| *call == COMMIT).unwrap();
        &self.calls[..=at]
    }
}

impl Kind {
    async fn prepared(&self) -> SagaGateway {
        let gateway = SagaGateway::start().await;
        (self.prepare)(&gateway.services);
        gateway
    }

    fn body(&self) -> Value {
        serde_json::from_str(self.body).unwrap()
    }

    async fn run(&self, gateway: &SagaGateway) -> Answer {
        gateway.call(self.method, self.path, self.body()).await
    }

    async fn clean(&self) -> Clean {
        let gateway = self.prepared().await;
        let done = self.run(&gateway).await;
        assert_eq!(done.status, self.success, "{}", done.text);
        gateway.ended().await;
        let calls = gateway.services.calls();
        for call in &calls {
            assert_eq!(gateway.services.count(call), 1, "{} {call}", self.path);
        }
        let newest = &gateway.call("GET", "/api/deployments", json!({})).await.json()[0];
        let id = newest["id"].as_str().unwrap();
        let deployment = gateway.call("GET", &format!("/api/deployments/{id}"), json!({})).await.json();
        let steps = deployment["steps"].as_array().unwrap().iter();
        let steps = steps.map(|step| step["step"].as_str().unwrap().to_owned()).collect();
        Clean { picture: gateway.services.picture(), calls, steps }
    }
}

#[tokio::test]
async fn every_step_is_part_of_some_kind_of_deployment() {
    let mut covered = std::collections::BTreeSet::new();
    for kind in &KINDS {
        covered.extend(kind.clean().await.steps);
    }
    assert_eq!(covered, hoistway_gateway::saga::step_names().map(str::to_owned).collect());
}

#[tokio::test]
async fn every_call_that_fails_before_the_switch_is_undone() {
    for kind in &KINDS {
        let clean = kind.clean().await;
        for call in clean.until_commit() {
            for when in [When::Before, When::After] {
                let gateway = kind.prepared().await;
                let before = gateway.services.picture();
                gateway.services.fail(Fault { call, when, code: Code::AgentStartFailed });
                let answer = kind.run(&gateway).await;
                let at = format!("{} {call} {when:?}: {}", kind.path, answer.text);
                assert!(gateway.services.all_failed(), "{at}");
                if (*call, when) == (COMMIT, When::After) {
                    // The switch took effect: the deployment goes on, and the answer does not wait for the rest.
                    gateway.ended().await;
                    assert_eq!(
                        (answer.status, gateway.services.picture()),
                        (kind.success, clean.picture.clone()),
                        "{at}"
                    );
                } else {
                    assert_eq!((answer.status, gateway.services.picture()), (500, before), "{at}");
                    // Nothing of it blocks the next deployment.
                    let again = kind.run(&gateway).await;
                    gateway.ended().await;
                    assert_eq!(
                        (again.status, gateway.services.picture()),
                        (kind.success, clean.picture.clone()),
                        "{at}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn no_call_that_fails_after_the_switch_fails_the_deployment() {
    for kind in &KINDS {
        let clean = kind.clean().await;
        for call in &clean.calls[clean.until_commit().len()..] {
            let gateway = kind.prepared().await;
            gateway.services.fail(Fault { call, when: When::After, code: Code::AgentStartFailed });
            let answer = kind.run(&gateway).await;
            gateway.ended().await;
            let at = format!("{} {call}: {}", kind.path, answer.text);
            assert!(gateway.services.all_failed(), "{at}");
            assert_eq!((answer.status, gateway.services.picture()), (kind.success, clean.picture.clone()), "{at}");
        }
    }
}

#[tokio::test]
async fn every_action_can_be_repeated() {
    for kind in &KINDS {
        let clean = kind.clean().await;
        for call in &clean.calls {
            for when in [When::Before, When::After] {
                let gateway = kind.prepared().await;
                let last = gateway.services.revisions().len();
                gateway.services.fail(Fault { call, when, code: Code::Unavailable });
                let answer = kind.run(&gateway).await;
                gateway.ended().await;
                let at = format!("{} {call} {when:?}: {}", kind.path, answer.text);
                assert_eq!((answer.status, gateway.services.picture()), (kind.success, clean.picture.clone()), "{at}");
                assert_eq!((gateway.services.count(call), gateway.services.revisions().len()), (2, last + 1), "{at}");
            }
        }
    }
}

#[tokio::test]
async fn every_undo_can_be_repeated() {
    for kind in &KINDS {
        let fails = Fault { call: COMMIT, when: When::Before, code: Code::AgentStartFailed };
        let undos: Vec<_> = {
            let gateway = kind.prepared().await;
            gateway.services.fail(fails);
            assert_eq!(kind.run(&gateway).await.status, 500);
            gateway.services.calls().into_iter().filter(|call| call.starts_with("undo_")).collect()
        };
        assert!(undos.contains(&"undo_start"), "{} {undos:?}", kind.path);
        for undo in undos {
            for when in [When::Before, When::After] {
                let gateway = kind.prepared().await;
                let before = gateway.services.picture();
                gateway.services.fail(fails);
                gateway.services.fail(Fault { call: undo, when, code: Code::Unavailable });
                let answer = kind.run(&gateway).await;
                let at = format!("{} {undo} {when:?}: {}", kind.path, answer.text);
                assert!(answer.status == 500 && gateway.services.all_failed(), "{at}");
                assert_eq!((gateway.services.count(undo), gateway.services.picture()), (2, before), "{at}");
            }
        }
    }
}

#[tokio::test]
async fn an_interrupted_deployment_continues_from_the_journal() {
    for kind in &KINDS {
        let clean = kind.clean().await;
        for call in &clean.calls {
            let gateway = kind.prepared().await;
            // It fails so often that the shutdown comes before it succeeds.
            for _ in 0..20 {
                gateway.services.fail(Fault { call, when: When::After, code: Code::Unavailable });
            }
            let made = async || {
                while gateway.services.count(call) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            // The deployment goes on when its caller has disconnected.
            tokio::select! {
                _ = kind.run(&gateway) => made().await,
                () = made() => {}
            }
            let gateway = gateway.restart().await;
            gateway.services.no_more_faults();
            gateway.ended().await;
            assert_eq!(gateway.services.picture(), clean.picture, "{} {call}", kind.path);
        }
    }
}

#[tokio::test]
async fn an_unchanged_deploy_makes_no_calls() {
    let gateway = SagaGateway::start().await;
    let before = gateway.services.picture();
    for (method, path, body) in [
        ("POST", "/api/agents/a/rollback", json!({"revision": 2})),
        ("PUT", "/api/agents/a/config", json!({"system_prompt": "two", "required_tools": []})),
        ("POST", "/api/deploy", json!({"agent_name": "a", "image": "x:2", "system_prompt": "two"})),
    ] {
        let answer = gateway.call(method, path, body).await;
        assert!([200, 201].contains(&answer.status), "{path}: {}", answer.text);
    }
    assert_eq!(gateway.services.picture(), before);
    assert_eq!(
        ["apply_tools", "start_revision", "derive_revision", "switch_route"].map(|c| gateway.services.count(c)),
        [0; 4]
    );
}

#[tokio::test]
async fn a_repeated_deploy_after_a_rollback_is_no_change() {
    let gateway = SagaGateway::start().await;
    assert_eq!(ROLLBACK.run(&gateway).await.json()["revision"], 3);
    let tool = json!([{"name": "t1", "base_url": "http://t1.example"}]);
    let first = json!({"agent_name": "a", "image": "x:1", "system_prompt": "one", "tools_to_create": tool,
        "required_tools": ["t1"], "env": [{"name": "KEY", "value": "s3cr3t"}]});
    assert_eq!(gateway.call("POST", "/api/deploy", first.clone()).await.status, 201);
    assert_eq!(gateway.services.revisions().len(), 3);
    assert_eq!(CONFIG.run(&gateway).await.status, 200);
    assert_eq!(gateway.call("POST", "/api/deploy", first).await.status, 201);
    let made: Vec<_> = gateway.services.revisions().iter().map(|r| (r.number, r.reason.as_str(), r.of)).collect();
    assert_eq!(made[2..], [(3, "rollback", Some(1)), (4, "config", Some(3)), (5, "deploy", None)]);
}

#[tokio::test]
async fn the_newest_and_running_deployments_are_kept() {
    let gateway = SagaGateway::start().await;
    for _ in 0..20 {
        gateway.services.fail(Fault { call: "switch_route", when: When::After, code: Code::Unavailable });
    }
    let accepted = gateway.call("POST", "/api/deploy?wait=none", IMAGE.body()).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    while gateway.services.count("switch_route") == 0 {
        tokio::task::yield_now().await;
    }
    gateway.shutdown.cancel();
    gateway.serving.await.unwrap();
    // The deployment runs when the gateway opens, which then tidies at once.
    let config = Config { journal_entries: 1, tidy_seconds: 1, requests_per_second: 0, ..Config::default() };
    let (services, dir) = (gateway.services, gateway.dir);
    let gateway = SagaGateway::open_with(services, dir, gateway.key, gateway.master_key, config).await;
    let kept = async || {
        let all = gateway.call("GET", "/api/deployments", json!({})).await.json();
        all.as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let id = accepted.header("hoistway-deployment").to_owned();
    let until = async |count| {
        while kept().await.len() != count {
            tokio::task::yield_now().await;
        }
        assert_eq!(kept().await[0], id);
    };
    let patience = Duration::from_secs(60);
    // The running one, and the newest of the two that ended; once it has ended too, it is the newest.
    tokio::time::timeout(patience, until(2)).await.unwrap();
    gateway.services.no_more_faults();
    gateway.ended().await;
    tokio::time::timeout(patience, until(1)).await.unwrap();
}

#[tokio::test]
async fn a_choice_between_providers_is_a_warning() {
    let gateway = SagaGateway::start().await;
    for name in ["second", "first"] {
        let provider = json!({"name": name, "provider": "openai", "api_key": "k"});
        assert_eq!(gateway.call("POST", "/api/model-providers", provider).await.status, 201);
    }
    let models = json!([{"provider": "openai", "model": "m"}]);
    let deploy = json!({"agent_name": "a", "image": "x:3", "llm_configs": models});
    let deployed = gateway.call("POST", "/api/deploy", deploy).await.json();
    let expected = "llm_configs[0]: 2 model providers of \"openai\" serve the model: \"first\", \"second\". \"first\" is \
                    used, the first by name; give the name of one as provider to choose";
    assert_eq!(deployed["warnings"], json!([expected]), "{deployed}");
    let models = json!([{"provider": "openai", "model": "n"}]);
    let changed = gateway.call("PUT", "/api/agents/a/config", json!({"llm_configs": models})).await.json();
    assert_eq!(changed["warnings"], json!([expected]), "{changed}");
    let models = json!([{"provider": "second", "model": "n"}]);
    let changed = gateway.call("PUT", "/api/agents/a/config", json!({"llm_configs": models})).await.json();
    assert_eq!(changed["warnings"], json!(null), "{changed}");
}
