//! A runtime that does as the test says, and a service on top of it.

use crate::{
    fake_image::{Image, Layer, layer},
    fake_registry::Registry,
};
use async_trait::async_trait;
use futures_util::StreamExt;
use hoistway_agent::{
    Config, Deps, Service,
    interpreter::Interpreter,
    open,
    runtime::{Failure, Instance, Isolation, Runtime, Started, State},
};
use hoistway_kit::{
    db::DatabaseConfig, egress_auth::EgressKey, secrets::MasterKey, tls::ServiceTls, token::ServiceToken,
};
use hoistway_model::{
    AgentService, Code, Digest, Error, Name, Operation, Result, RevisionId, Secret,
    agent::{Agent, AgentConfig, AgentSpec, EnvVar, Phase, Route, RouteEvent, RouteStream},
    image::ImageRef,
    log::{LogPieces, LogQuery},
};
use sea_orm::{ConnectOptions, ConnectionTrait, Database};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// The system prompt of an agent that fails to start.
pub const FAILS: &str = "fails";
/// The system prompt of an agent that starts when the test says so.
pub const SLOW: &str = "slow";

#[derive(Default)]
pub struct FakeRuntime {
    instances: Mutex<HashMap<RevisionId, (Instance, watch::Sender<State>)>>,
    failing: Mutex<Vec<Name>>,
    /// Why the machine allows no start, if it does not.
    pub refusal: Mutex<Option<(Code, &'static str)>>,
    /// The calls so far, in order.
    pub done: watch::Sender<Vec<Done>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Applied(RevisionId),
    Removed(RevisionId, Duration),
    Forgot(Name),
    ShutDown,
    Remarked(RevisionId, String),
}

impl FakeRuntime {
    pub fn set(&self, revision: &RevisionId, state: State) {
        self.instances.lock().unwrap()[revision].1.send_replace(state);
    }

    pub fn instance(&self, revision: &RevisionId) -> Option<Instance> {
        self.instances.lock().unwrap().get(revision).map(|(instance, _)| instance.clone())
    }

    pub fn applied(&self) -> usize {
        self.done.borrow().iter().filter(|d| matches!(d, Done::Applied(_))).count()
    }

    pub async fn wait_for(&self, what: impl Fn(&Done) -> bool) {
        let mut done = self.done.subscribe();
        let found = done.wait_for(|done| done.iter().any(&what));
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("it was not done").unwrap();
    }

    pub fn fail_from_now_on(&self, agent: &Name) {
        self.failing.lock().unwrap().push(agent.clone());
    }

    fn record(&self, done: Done) {
        self.done.send_modify(|all| all.push(done));
    }
}

pub fn failure(message: &str) -> Failure {
    let details = vec!["Traceback (most recent call last):".into(), message.into()];
    Failure { code: Code::AgentStartFailed, message: message.into(), details }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    fn isolation(&self) -> Isolation {
        Isolation::none()
    }

    async fn apply(&self, instance: Instance) -> Result<Started> {
        self.record(Done::Applied(instance.revision));
        if let Some((code, text)) = *self.refusal.lock().unwrap() {
            return Err(Error::new(code, text));
        }
        let prompt = instance.env.iter().find(|(n, _)| n == "SYSTEM_PROMPT").unwrap().1.expose().to_owned();
        let state = match prompt.as_str() {
            _ if self.failing.lock().unwrap().contains(&instance.agent) => State::Failed(failure("no more")),
            FAILS => State::Failed(failure("RuntimeError: kaboom")),
            SLOW => State::Starting,
            _ => State::Ready,
        };
        let mut instances = self.instances.lock().unwrap();
        let revision = instance.revision;
        let (_, sender) = instances.entry(revision).or_insert_with(|| (instance, watch::Sender::new(state)));
        Ok(Started { address: format!("127.0.0.1:{}", revision.simple().len()), states: sender.subscribe() })
    }

    async fn status(&self, _: &RevisionId) -> Result<Option<Started>> {
        Ok(None)
    }

    async fn logs(&self, _: &Name, _: LogQuery) -> Result<LogPieces> {
        Ok(Box::pin(futures_util::stream::empty()))
    }

    async fn remove(&self, revision: &RevisionId, grace: Duration) -> Result<()> {
        if let Some((_, state)) = self.instances.lock().unwrap().remove(revision) {
            state.send_replace(State::Gone);
        }
        self.record(Done::Removed(*revision, grace));
        Ok(())
    }

    async fn forget(&self, agent: &Name) -> Result<()> {
        self.record(Done::Forgot(agent.clone()));
        Ok(())
    }

    async fn remark(&self, revision: &RevisionId, text: &str) -> Result<()> {
        self.record(Done::Remarked(*revision, text.to_owned()));
        Ok(())
    }

    async fn shutdown(&self, _: Duration) {
        self.record(Done::ShutDown);
    }
}

/// A service with its surroundings.
pub struct TestService {
    pub dir: Arc<tempfile::TempDir>,
    pub registry: Registry,
    pub runtime: Arc<FakeRuntime>,
    pub service: Arc<Service>,
    pub agents: Arc<dyn AgentService>,
    deps: Deps,
    keep: StoreLimits,
    /// The setting, for the next start.
    pub idle_seconds: u64,
    pub interpreter: Interpreter,
}

/// The number of superseded revisions of an agent that are kept, and of agents that there may be.
#[derive(Clone, Copy)]
pub struct StoreLimits {
    pub revisions: u32,
    pub agents: u32,
}

pub const REPOSITORY: &str = "echo";

impl TestService {
    pub async fn start() -> Self {
        let token = ServiceToken::generate().unwrap();
        let registry = Registry::start(Some(token.secret().expose())).await;
        Self::with(registry, token).await
    }

    pub async fn keeping(keep: StoreLimits) -> Self {
        let token = ServiceToken::generate().unwrap();
        let registry = Registry::start(Some(token.secret().expose())).await;
        Self::with_keep(registry, token, keep).await
    }

    pub async fn with(registry: Registry, token: ServiceToken) -> Self {
        Self::with_keep(registry, token, StoreLimits { revisions: 10, agents: 200 }).await
    }

    async fn with_keep(registry: Registry, token: ServiceToken, keep: StoreLimits) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let master_key = MasterKey::from_bytes(&[7; 32]).unwrap();
        let (egress_key, tls) = (EgressKey::generate().unwrap(), ServiceTls::default());
        let deps = Deps { token, master_key, egress_key, runtime: None, tls };
        Self::open(dir, registry, deps, keep, 0).await
    }

    async fn open(
        dir: Arc<tempfile::TempDir>,
        registry: Registry,
        mut deps: Deps,
        keep: StoreLimits,
        idle_seconds: u64,
    ) -> Self {
        let runtime = Arc::new(FakeRuntime::default());
        deps.runtime = Some(runtime.clone());
        let config = Config {
            data_dir: dir.path().to_owned(),
            registry_address: registry.addr.to_string(),
            revisions: keep.revisions,
            max_agents: keep.agents,
            idle_seconds,
            database: DatabaseConfig::from(hoistway_testing::database_url(dir.path())),
            ..Config::default()
        };
        let service = open(&config, &deps).await.unwrap();
        let agents = service.handle();
        let interpreter = Interpreter::find(None).await.unwrap();
        Self { dir, registry, runtime, service, agents, deps, keep, idle_seconds, interpreter }
    }

    /// The same installation, after a restart of the program.
    pub async fn restart(self) -> Self {
        self.service.shutdown().await;
        let Self { dir, registry, service, agents, deps, keep, idle_seconds, runtime, .. } = self;
        drop((service, agents, runtime));
        Self::open(dir, registry, deps, keep, idle_seconds).await
    }

    /// Builds and pushes an image that differs from others by `content`.
    pub fn push(&self, content: &str) -> (ImageRef, Vec<Layer>) {
        let layers = vec![
            layer(&[("opt/hoistway/runner/hoistway_runner.py", "# the runner\n")]),
            layer(&[("opt/hoistway/site-packages/dep.py", "x = 1\n")]),
            layer(&[("app/agent.py", content)]),
        ];
        let image = Image::ours(layers.clone(), &self.interpreter.python);
        let digest = self.registry.push(REPOSITORY, "v", &image);
        (ImageRef::platform(REPOSITORY, Some("v".into()), digest), layers)
    }

    pub async fn start_revision(&self, spec: &AgentSpec) -> (Operation, RevisionId) {
        let (operation, revision) = (Operation::new(), RevisionId::mint());
        self.agents.start_revision(operation.clone(), revision, spec.clone()).await.unwrap();
        (operation, revision)
    }

    pub async fn switch(&self, agent: &Name, revision: RevisionId) -> Agent {
        self.agents.switch_route(Operation::new(), agent.clone(), revision).await.unwrap()
    }

    /// Starts a revision and switches to it.
    pub async fn deploy(&self, spec: &AgentSpec) -> RevisionId {
        let (_, revision) = self.start_revision(spec).await;
        self.switch(&spec.agent, revision).await;
        revision
    }

    pub async fn agent(&self, name: &Name) -> Agent {
        self.agents.get_agent(name.clone()).await.unwrap()
    }

    pub async fn status(&self, name: &Name) -> (Phase, String) {
        let agent = self.agent(name).await;
        (agent.phase, agent.message)
    }

    /// Runs statements of the test in the service's database.
    pub async fn sql(&self, statements: &[&str]) {
        let sqlite = || format!("sqlite:{}", self.dir.path().join("agent/agent.db").display());
        let mut options = ConnectOptions::new(hoistway_testing::database_url(self.dir.path()).unwrap_or_else(sqlite));
        let database = Database::connect(options.set_schema_search_path("agent").to_owned()).await.unwrap();
        for statement in statements {
            database.execute_unprepared(statement).await.unwrap();
        }
        database.close().await.unwrap();
    }

    pub async fn routes(&self) -> Watch {
        Watch { stream: self.agents.watch_routes("gateway".into()).await.unwrap(), agents: self.agents.clone() }
    }
}

/// A gateway that follows the routes.
pub struct Watch {
    stream: RouteStream,
    agents: Arc<dyn AgentService>,
}

impl Watch {
    /// The version and the route of the first event about an agent that `is` as wanted. Nothing is acknowledged.
    pub async fn see(&mut self, is: impl Fn(&Route) -> bool) -> (u64, Route) {
        let seen = async {
            loop {
                let next = self.stream.next().await.unwrap().unwrap();
                let routes = match next.event {
                    RouteEvent::Snapshot(routes) => routes,
                    RouteEvent::Changed(route) => vec![*route],
                    RouteEvent::Removed(_) => continue,
                };
                if let Some(route) = routes.into_iter().find(&is) {
                    return (next.version, route);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("no such route came")
    }

    pub async fn ack(&self, version: u64) {
        self.agents.ack_routes("gateway".into(), version).await.unwrap();
    }
}

pub fn name(text: &str) -> Name {
    Name::parse("name", text).unwrap()
}

pub fn spec(agent: &str, image: &ImageRef) -> AgentSpec {
    AgentSpec {
        agent: name(agent),
        image: image.clone(),
        build_id: None,
        entry_point: None,
        tools: Vec::new(),
        config: AgentConfig {
            system_prompt: "Be kind.".into(),
            env: vec![EnvVar { name: "KEY".into(), value: Secret::new("hunter2"), secret: None }],
            ..AgentConfig::default()
        },
        fingerprint: Digest::of(b"request"),
    }
}

/// The specification with another system prompt.
pub fn with_prompt(spec: &AgentSpec, prompt: &str) -> AgentSpec {
    let config = AgentConfig { system_prompt: prompt.into(), ..spec.config.clone() };
    AgentSpec { config, ..spec.clone() }
}
