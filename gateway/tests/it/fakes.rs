//! The services and the saga as far as the HTTP edge can tell.

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hoistway_gateway::{
    api::deploy_request::DeployRequest,
    deploy::{Accepted, Deployer, Deployment, DeploymentStatus, Progress},
};
use hoistway_model::{
    AgentService, BuildService, Code, DeploymentId, Digest, Error, Name, Operation, OperationId, Result, RevisionId,
    Secret, ToolRegistry,
    agent::{
        Agent, AgentSpec, EnvVar, LlmConfig, LlmRole, Phase, RevisionStatus, Route, RouteEvent, RouteStream,
        RuntimeStatus, VersionedRoute,
    },
    build::{Build, BuildRequest, BuildStatus, BuiltImage},
    image::ImageRef,
    redact::MASK,
    tool::{AppliedTools, BoundTool, ModelProvider, NewTool, Resolved, Tool, ToolPlan},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::{mpsc, watch};

pub fn name(text: &str) -> Name {
    Name::parse("name", text).unwrap()
}

pub fn image() -> BuiltImage {
    BuiltImage {
        build_id: "build-a1b2c3d4e5f6".into(),
        repository: "a".into(),
        tag: "a1b2c3d4e5f6".into(),
        digest: Digest::of(b"manifest"),
        entry_point: "agent.py".into(),
    }
}

fn unused<T>() -> Result<T> {
    Err(Error::new(Code::Internal, "the edge does not call this"))
}

#[derive(Debug, Default)]
pub struct FakeTools {
    pub tools: Mutex<BTreeMap<Name, Tool>>,
    pub providers: Mutex<BTreeMap<Name, ModelProvider>>,
    pub released: Mutex<Vec<Name>>,
    pub release_failures: Mutex<u32>,
}

#[async_trait]
impl ToolRegistry for FakeTools {
    async fn resolve(&self, _: ToolPlan, _: Vec<String>, _: Option<Name>) -> Result<Resolved> {
        unused()
    }

    async fn apply_tools(&self, _: Operation, _: ToolPlan) -> Result<AppliedTools> {
        unused()
    }

    async fn settle_tools(&self, _: Name, _: OperationId) -> Result<()> {
        unused()
    }

    async fn undo_tools(&self, _: OperationId) -> Result<()> {
        unused()
    }

    async fn release_agent(&self, _: Operation, agent: Name) -> Result<()> {
        let mut failures = self.release_failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(Error::new(Code::Unavailable, "away"));
        }
        self.released.lock().unwrap().push(agent);
        Ok(())
    }

    async fn bound_agents(&self) -> Result<Vec<Name>> {
        Ok(Vec::new())
    }

    async fn create_tool(&self, _: Operation, tool: NewTool) -> Result<Tool> {
        let mut tools = self.tools.lock().unwrap();
        let has_credentials = !tool.credentials.is_empty();
        if let Some(known) = tools.get(&tool.name).filter(|known| known.connection != tool.connection) {
            return Err(Error::new(
                Code::Conflict,
                format!("tool \"{}\" is registered with another endpoint", known.name),
            ));
        }
        let internal_url = tool.connection.base_url.clone();
        let NewTool { name, description, connection, labels, .. } = tool;
        let tool =
            Tool { name, description, connection, internal_url, labels, has_credentials, created_at: 0, updated_at: 0 };
        tools.insert(tool.name.clone(), tool.clone());
        Ok(tool)
    }

    async fn get_tool(&self, name: Name) -> Result<Tool> {
        self.tools.lock().unwrap().get(&name).cloned().ok_or_else(|| Error::not_found("tool", name))
    }

    async fn list_tools(&self) -> Result<Vec<Tool>> {
        Ok(self.tools.lock().unwrap().values().cloned().collect())
    }

    async fn delete_tool(&self, _: Operation, name: Name) -> Result<()> {
        self.tools.lock().unwrap().remove(&name).map(drop).ok_or_else(|| Error::not_found("tool", name))
    }

    async fn create_model_provider(&self, _: Operation, provider: ModelProvider) -> Result<ModelProvider> {
        self.providers.lock().unwrap().insert(provider.name.clone(), provider.clone());
        Ok(provider)
    }

    async fn get_model_provider(&self, name: Name) -> Result<ModelProvider> {
        let found = self.providers.lock().unwrap().get(&name).cloned();
        found.ok_or_else(|| Error::not_found("model provider", name))
    }

    async fn list_model_providers(&self) -> Result<Vec<ModelProvider>> {
        Ok(self.providers.lock().unwrap().values().cloned().collect())
    }

    async fn delete_model_provider(&self, _: Operation, name: Name) -> Result<()> {
        self.providers.lock().unwrap().remove(&name);
        Ok(())
    }

    async fn seed_starter_kit(&self, operation: Operation) -> Result<()> {
        let connection = hoistway_model::tool::Connection {
            base_url: "http://127.0.0.1:8201".into(),
            port: 8201,
            scheme: hoistway_model::tool::Scheme::Http,
            auth_type: hoistway_model::tool::AuthType::None,
            api_key: None,
        };
        let (labels, credentials) = (BTreeMap::new(), BTreeMap::new());
        let echo = NewTool { name: name("echo-tool"), description: String::new(), connection, labels, credentials };
        self.create_tool(operation, echo).await.map(drop)
    }
}

#[derive(Debug)]
pub struct FakeBuilds;

#[async_trait]
impl BuildService for FakeBuilds {
    async fn build(&self, _: Operation, _: BuildRequest) -> Result<BuiltImage> {
        unused()
    }

    async fn undo_build(&self, _: OperationId) -> Result<()> {
        unused()
    }

    async fn get_build(&self, id: String) -> Result<Build> {
        let builds = self.list_builds(10).await?;
        builds.into_iter().find(|build| build.id == id).ok_or_else(|| Error::not_found("build", id))
    }

    async fn list_builds(&self, limit: u32) -> Result<Vec<Build>> {
        let done = Build {
            id: image().build_id,
            agent: name("a"),
            status: BuildStatus::Succeeded,
            image: Some(image()),
            error: None,
            created_at: 1_000,
            completed_at: Some(2_000),
        };
        let failed = Build {
            id: "build-0".into(),
            status: BuildStatus::Failed,
            image: None,
            error: Some("no such package".into()),
            ..done.clone()
        };
        Ok([done, failed].into_iter().take(limit as usize).collect())
    }

    async fn build_logs(&self, _: String, tail: Option<u32>) -> Result<Vec<String>> {
        let lines = ["one", "two", "three"].map(str::to_owned);
        let from = lines.len().saturating_sub(tail.unwrap_or(3) as usize);
        Ok(lines[from..].to_vec())
    }
}

/// An agent service whose routing table a test changes, and which remembers what was acknowledged.
#[derive(Debug)]
pub struct FakeAgents {
    pub agents: Mutex<BTreeMap<Name, Agent>>,
    pub bound: watch::Sender<Vec<BoundTool>>,
    pub acknowledged: watch::Sender<u64>,
    routes: Mutex<Vec<Route>>,
    watchers: Mutex<Vec<mpsc::Sender<Result<VersionedRoute>>>>,
    version: Mutex<u64>,
}

impl FakeAgents {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            agents: Mutex::default(),
            bound: watch::Sender::default(),
            acknowledged: watch::Sender::default(),
            routes: Mutex::default(),
            watchers: Mutex::default(),
            version: Mutex::new(1),
        })
    }

    pub fn add(&self, agent: &str) {
        let spec = AgentSpec {
            agent: name(agent),
            image: ImageRef::platform(agent, Some("a1b2c3".into()), Digest::of(b"manifest")),
            build_id: Some("build-a1b2c3".into()),
            system_prompt: "Be brief.".into(),
            tools: vec![BoundTool { name: name("echo-tool"), url: None }],
            llm: vec![LlmConfig { role: LlmRole::Chat, provider: "openai".into(), model: "gpt-4o".into() }],
            env: vec![EnvVar { name: "MY_SECRET".into(), value: Secret::new(MASK) }],
            identity_provider: None,
            entry_point: None,
            fingerprint: Digest::of(b""),
        };
        let shown_env = vec![("LLM_MODEL".to_owned(), "gpt-4o".to_owned()), ("MY_SECRET".to_owned(), MASK.to_owned())];
        let agent = Agent {
            name: name(agent),
            revision: RevisionId::mint(),
            spec,
            shown_env,
            phase: Phase::Running,
            message: String::new(),
            image_digest: Some(Digest::of(b"manifest")),
            isolation: "not sandboxed".into(),
            network: "open".into(),
            limits: "none".into(),
            created_at: 0,
            updated_at: 0,
        };
        self.agents.lock().unwrap().insert(agent.name.clone(), agent);
    }

    /// Tells every watcher of a change; its version.
    pub fn route(&self, event: RouteEvent) -> u64 {
        let mut routes = self.routes.lock().unwrap();
        match &event {
            RouteEvent::Snapshot(all) => *routes = all.clone(),
            RouteEvent::Changed(one) => {
                routes.retain(|route| route.agent != one.agent);
                routes.push((**one).clone());
            }
            RouteEvent::Removed(agent) => routes.retain(|route| route.agent != *agent),
        }
        let mut version = self.version.lock().unwrap();
        *version += 1;
        let change = VersionedRoute { version: *version, event };
        self.watchers.lock().unwrap().retain(|watcher| watcher.try_send(Ok(change.clone())).is_ok());
        *version
    }

    /// Ends every subscription, as a restart of the service would.
    pub fn hang_up(&self) {
        self.watchers.lock().unwrap().clear();
    }
}

#[async_trait]
impl AgentService for FakeAgents {
    async fn resolve_image(&self, _: ImageRef) -> Result<Option<Digest>> {
        unused()
    }

    async fn start_revision(&self, _: Operation, _: RevisionId, _: AgentSpec) -> Result<RevisionStatus> {
        unused()
    }

    async fn switch_route(&self, _: Operation, _: Name, _: RevisionId) -> Result<Agent> {
        unused()
    }

    async fn undo_start(&self, _: OperationId, _: Name, _: RevisionId) -> Result<()> {
        unused()
    }

    async fn bind_tool(&self, _: Operation, tool: BoundTool) -> Result<Vec<Name>> {
        self.bound.send_modify(|bound| bound.push(tool));
        Ok(vec![])
    }

    async fn get_agent(&self, name: Name) -> Result<Agent> {
        self.agents.lock().unwrap().get(&name).cloned().ok_or_else(|| Error::not_found("agent", name))
    }

    async fn list_agents(&self) -> Result<Vec<Agent>> {
        assert!(!self.agents.lock().unwrap().keys().any(|name| name.as_str() == "panics"), "s3cr3t internals");
        Ok(self.agents.lock().unwrap().values().cloned().collect())
    }

    async fn delete_agent(&self, _: Operation, name: Name) -> Result<()> {
        self.agents.lock().unwrap().remove(&name).map(drop).ok_or_else(|| Error::not_found("agent", name))
    }

    async fn agent_logs(&self, name: Name, tail: Option<u32>) -> Result<Vec<String>> {
        self.get_agent(name).await?;
        Ok(vec![format!("tail {tail:?}")])
    }

    async fn watch_routes(&self, _: String) -> Result<RouteStream> {
        let (sender, receiver) = mpsc::channel(64);
        let snapshot = RouteEvent::Snapshot(self.routes.lock().unwrap().clone());
        let _ = sender.try_send(Ok(VersionedRoute { version: *self.version.lock().unwrap(), event: snapshot }));
        self.watchers.lock().unwrap().push(sender);
        Ok(stream::unfold(receiver, |mut r| async move { r.recv().await.map(|event| (event, r)) }).boxed())
    }

    async fn ack_routes(&self, _: String, version: u64) -> Result<()> {
        self.acknowledged.send_replace(version);
        Ok(())
    }

    async fn runtime(&self) -> Result<RuntimeStatus> {
        Ok(RuntimeStatus {
            name: "process".into(),
            isolation: "not sandboxed".into(),
            network: "open".into(),
            limits: "none".into(),
            python: "3.11".into(),
            notes: vec!["no namespaces for agents: it is a fake".into()],
        })
    }
}

/// A saga that only looks up, and goes on as the test says.
#[derive(Debug)]
pub struct FakeDeployer {
    pub progress: watch::Sender<Progress>,
    pub accepted: watch::Sender<Vec<DeployRequest>>,
    pub resolved: Mutex<Resolved>,
    pub refusal: Mutex<Option<Error>>,
    pub id: DeploymentId,
}

impl FakeDeployer {
    pub fn new() -> Arc<Self> {
        let resolved = Resolved { tools: vec![], changed: false, providers: vec![], identity_provider_known: false };
        Arc::new(Self {
            progress: watch::Sender::default(),
            accepted: watch::Sender::default(),
            resolved: Mutex::new(resolved),
            refusal: Mutex::default(),
            id: DeploymentId::mint(),
        })
    }
}

#[async_trait]
impl Deployer for FakeDeployer {
    async fn accept(&self, request: DeployRequest, strict: bool) -> Result<Accepted> {
        let mut resolved = self.resolved.lock().unwrap().clone();
        resolved.identity_provider_known |= request.identity_provider.is_none();
        let warnings = request.check_lookups(&resolved, strict)?;
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return Err(refusal);
        }
        self.accepted.send_modify(|accepted| accepted.push(request));
        Ok(Accepted { id: self.id, warnings, progress: self.progress.subscribe() })
    }

    async fn get(&self, id: DeploymentId) -> Result<Deployment> {
        let all = self.list(None, 10).await?;
        all.into_iter().find(|d| d.id == id).ok_or_else(|| Error::not_found("deployment", id))
    }

    async fn list(&self, agent: Option<Name>, _: u32) -> Result<Vec<Deployment>> {
        let deployment = Deployment {
            id: self.id,
            agent: name("a"),
            status: DeploymentStatus::Succeeded,
            step: Some("switch".into()),
            tools_created: vec!["t".into()],
            image: Some(image()),
            error: None,
            created_at: 0,
            updated_at: 1_000,
            completed_at: Some(1_000),
        };
        Ok([deployment].into_iter().filter(|d| agent.as_ref().is_none_or(|agent| d.agent == *agent)).collect())
    }
}
