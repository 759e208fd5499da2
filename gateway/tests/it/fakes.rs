//! The services and the saga as the HTTP API uses them.

use crate::fake_services::FakeServices;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hoistway_gateway::deploy::{
    Accepted, AgentLease, Deployer, Deployment, DeploymentQuery, DeploymentStatus, DeploymentStep, Progress, Room,
    Urgency, kind::DeploymentKind, request::DeployRequest,
};
use hoistway_kit::{metrics, process_metrics};
use hoistway_model::{
    AgentService, BuildAttemptId, BuildService, Code, DeploymentId, Digest, Error, Name, Operation, OperationId,
    Result, RevisionId, Secret, ToolRegistry,
    agent::{
        Agent, AgentConfig, AgentEvent, AgentEvents, AgentSpec, EnvVar, EventPosition, LlmConfig, LlmRole, Phase,
        RevisionStatus, Route, RouteEvent, RouteStream, RuntimeStatus, VersionedRoute,
    },
    build::{
        Build, BuildEvents, BuildQuery, BuildRequest, BuildStatus, BuildStep, BuiltImage, Collected, RebuildRequest,
    },
    image::{ImageRef, StoredImage},
    log::{LogLine, LogPiece, LogPieces, LogQuery, LogStream},
    metric::{Kind, Metrics},
    page::{Page, PageQuery},
    redact::MASK,
    revision::{Change, Derivation, Diff, Reason, Revision, RevisionRef, RevisionState},
    tool::{
        AppliedTools, BoundTool, IdentityProvider, ModelProvider, NewModelProvider, NewTool, Resolved, Tool, ToolPlan,
        ToolUpdate, Upserted,
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

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

fn services(services: &Option<Arc<FakeServices>>) -> Result<&FakeServices> {
    services.as_deref().ok_or_else(|| Error::new(Code::Internal, "the edge does not call this"))
}

/// Returns an agent that runs a revision.
pub fn agent(name: Name, revision: &Revision) -> Agent {
    Agent {
        name,
        revision: revision.id,
        revision_number: revision.number,
        spec: revision.spec.clone(),
        shown_env: Vec::new(),
        phase: Phase::Running,
        message: String::new(),
        idle: false,
        image_digest: revision.image_digest,
        needs_rebuild: false,
        isolation: "not sandboxed".into(),
        network: "open".into(),
        limits: "none".into(),
        created_at: 0,
        updated_at: 0,
    }
}

/// Returns the requested part of a list, at most two entries, so that a longer list has several pages.
fn part<T>(all: Vec<T>, PageQuery { after, limit }: PageQuery, name: impl Fn(&T) -> &Name) -> Page<T> {
    let rest = all.into_iter().filter(|item| after.as_ref().is_none_or(|after| name(item) > after));
    Page::of(rest.collect(), limit.min(2) as usize)
}

/// Returns a tool that has just been registered.
fn registered(tool: NewTool) -> Tool {
    let (internal_url, has_credentials) = (tool.connection.base_url.clone(), !tool.credentials.is_empty());
    let NewTool { name, description, connection, labels, .. } = tool;
    Tool {
        name,
        description,
        connection,
        internal_url,
        labels,
        has_credentials,
        credentials_set_at: has_credentials.then_some(0),
        version: OperationId::mint(),
        created_at: 0,
        updated_at: 0,
    }
}

#[derive(Debug, Default)]
pub struct FakeTools {
    /// The state that the saga changes; `None`: there is no saga.
    pub services: Option<Arc<FakeServices>>,
    pub tools: Mutex<BTreeMap<Name, Tool>>,
    pub providers: Mutex<BTreeMap<Name, ModelProvider>>,
    pub identities: Mutex<BTreeMap<Name, IdentityProvider>>,
    /// The number of concurrent changes to the tools before an update arrives.
    pub meanwhile: Mutex<u32>,
    pub released: Mutex<Vec<Name>>,
    pub release_failures: Mutex<u32>,
}

#[async_trait]
impl ToolRegistry for FakeTools {
    async fn resolve(&self, plan: ToolPlan, _: Vec<String>, _: Option<Name>) -> Result<Resolved> {
        Ok(services(&self.services)?.resolve(&plan))
    }

    async fn apply_tools(&self, operation: Operation, plan: ToolPlan) -> Result<AppliedTools> {
        services(&self.services)?.apply_tools(&operation, plan)
    }

    async fn settle_tools(&self, _: Name, applied: OperationId) -> Result<()> {
        services(&self.services)?.settle_tools(applied)
    }

    async fn undo_tools(&self, applied: OperationId) -> Result<()> {
        services(&self.services)?.undo_tools(applied)
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
        if let Some(known) = tools.get(&tool.name).filter(|known| known.connection != tool.connection) {
            return Err(Error::new(
                Code::Conflict,
                format!("tool \"{}\" is registered with another endpoint", known.name),
            ));
        }
        let tool = registered(tool);
        tools.insert(tool.name.clone(), tool.clone());
        Ok(tool)
    }

    async fn update_tool(&self, operation: Operation, update: ToolUpdate) -> Result<Tool> {
        let name = update.tool.name.clone();
        {
            let (mut tools, mut meanwhile) = (self.tools.lock().unwrap(), self.meanwhile.lock().unwrap());
            let tool = tools.get_mut(&name).ok_or_else(|| Error::not_found("tool", &name))?;
            if *meanwhile > 0 {
                *meanwhile -= 1;
                tool.version = OperationId::mint();
            }
            if update.version.is_some_and(|version| version != tool.version) {
                return Err(Error::new(Code::Aborted, "changed meanwhile"));
            }
            tools.remove(&name);
        }
        self.create_tool(operation, update.tool).await
    }

    async fn set_tool_credentials(
        &self,
        _: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<Tool> {
        let mut tools = self.tools.lock().unwrap();
        let tool = tools.get_mut(&name).ok_or_else(|| Error::not_found("tool", &name))?;
        tool.has_credentials = !credentials.is_empty();
        tool.credentials_set_at = tool.has_credentials.then_some(0);
        Ok(tool.clone())
    }

    async fn get_tool(&self, name: Name) -> Result<Tool> {
        if let Some(services) = &self.services {
            return services.tool(&name).map(registered);
        }
        self.tools.lock().unwrap().get(&name).cloned().ok_or_else(|| Error::not_found("tool", name))
    }

    async fn list_tools(&self, query: PageQuery) -> Result<Page<Tool>> {
        Ok(part(self.tools.lock().unwrap().values().cloned().collect(), query, |tool| &tool.name))
    }

    async fn delete_tool(&self, _: Operation, name: Name) -> Result<()> {
        self.tools.lock().unwrap().remove(&name).map(drop).ok_or_else(|| Error::not_found("tool", name))
    }

    async fn create_model_provider(&self, operation: Operation, provider: NewModelProvider) -> Result<ModelProvider> {
        Ok(self.put_model_provider(operation, provider).await?.value)
    }

    async fn put_model_provider(&self, _: Operation, p: NewModelProvider) -> Result<Upserted<ModelProvider>> {
        let value = ModelProvider {
            name: p.name,
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            prices: p.prices,
            timeout_seconds: p.timeout_seconds,
            retries: p.retries,
            labels: p.labels,
            credentials_set_at: (!p.credentials.is_empty()).then_some(0),
            created_at: 0,
            updated_at: 0,
        };
        let created = self.providers.lock().unwrap().insert(value.name.clone(), value.clone()).is_none();
        Ok(Upserted { value, created })
    }

    async fn set_model_provider_credentials(
        &self,
        _: Operation,
        name: Name,
        credentials: BTreeMap<String, Secret>,
    ) -> Result<ModelProvider> {
        let mut providers = self.providers.lock().unwrap();
        let provider = providers.get_mut(&name).ok_or_else(|| Error::not_found("model provider", &name))?;
        provider.credentials_set_at = (!credentials.is_empty()).then_some(0);
        Ok(provider.clone())
    }

    async fn put_identity_provider(&self, _: Operation, value: IdentityProvider) -> Result<Upserted<IdentityProvider>> {
        let created = self.identities.lock().unwrap().insert(value.name.clone(), value.clone()).is_none();
        Ok(Upserted { value, created })
    }

    async fn get_identity_provider(&self, name: Name) -> Result<IdentityProvider> {
        let found = self.identities.lock().unwrap().get(&name).cloned();
        found.ok_or_else(|| Error::not_found("identity provider", name))
    }

    async fn list_identity_providers(&self) -> Result<Vec<IdentityProvider>> {
        Ok(self.identities.lock().unwrap().values().cloned().collect())
    }

    async fn delete_identity_provider(&self, _: Operation, name: Name) -> Result<()> {
        let gone = self.identities.lock().unwrap().remove(&name);
        gone.map(drop).ok_or_else(|| Error::not_found("identity provider", name))
    }

    async fn get_model_provider(&self, name: Name) -> Result<ModelProvider> {
        let found = self.providers.lock().unwrap().get(&name).cloned();
        found.ok_or_else(|| Error::not_found("model provider", name))
    }

    async fn list_model_providers(&self) -> Result<Vec<ModelProvider>> {
        Ok(self.providers.lock().unwrap().values().cloned().collect())
    }

    async fn delete_model_provider(&self, _: Operation, name: Name) -> Result<()> {
        if name.as_str() == "waits" {
            std::future::pending::<()>().await;
        }
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
            oauth2: None,
        };
        let (labels, credentials) = (BTreeMap::new(), BTreeMap::new());
        let echo = NewTool { name: name("echo-tool"), description: String::new(), connection, labels, credentials };
        self.create_tool(operation, echo).await.map(drop)
    }

    async fn tool_metrics(&self) -> Result<Metrics> {
        Ok(process_metrics::of_service("tool-registry", Vec::new()))
    }
}

#[derive(Debug)]
pub struct FakeBuilds {
    /// The state that the saga changes; `None`: there is no saga.
    services: Option<Arc<FakeServices>>,
    attempts: [BuildAttemptId; 2],
}

impl FakeBuilds {
    pub fn new() -> Arc<Self> {
        Self::with(None)
    }

    /// Returns the builds of these services.
    pub fn of(services: Arc<FakeServices>) -> Arc<Self> {
        Self::with(Some(services))
    }

    fn with(services: Option<Arc<FakeServices>>) -> Arc<Self> {
        Arc::new(Self { services, attempts: [BuildAttemptId::mint(), BuildAttemptId::mint()] })
    }
}

#[async_trait]
impl BuildService for FakeBuilds {
    async fn build(&self, operation: Operation, _: BuildRequest) -> Result<BuiltImage> {
        services(&self.services)?.build(&operation)
    }

    async fn rebuild(&self, operation: Operation, _: RebuildRequest) -> Result<BuiltImage> {
        services(&self.services)?.build(&operation)
    }

    async fn undo_build(&self, built: OperationId) -> Result<()> {
        services(&self.services)?.undo_build(built)
    }

    async fn get_build(&self, id: String) -> Result<Build> {
        let builds = self.list_builds(BuildQuery { limit: 10, ..BuildQuery::default() }).await?;
        builds.into_iter().find(|build| build.id == id).ok_or_else(|| Error::not_found("build", id))
    }

    async fn list_builds(&self, query: BuildQuery) -> Result<Vec<Build>> {
        let before: Option<BuildAttemptId> = query.before.map(|id| id.parse().unwrap());
        assert!(query.agent.is_none_or(|agent| agent == name("a")));
        let done = Build {
            id: image().build_id,
            agent: name("a"),
            status: BuildStatus::Succeeded,
            image: Some(image()),
            error: None,
            created_at: 1_000,
            completed_at: Some(2_000),
            attempt: self.attempts[1],
            request_id: Some("req-1".into()),
            steps: vec![BuildStep { step: "image".into(), started_at: 1_200, completed_at: Some(1_900) }],
        };
        let failed = Build {
            id: "build-0".into(),
            status: BuildStatus::Failed,
            image: None,
            error: Some("no such package".into()),
            attempt: self.attempts[0],
            ..done.clone()
        };
        let wanted = [done, failed].into_iter().filter(|build| before.is_none_or(|before| build.attempt < before));
        Ok(wanted.take(query.limit as usize).collect())
    }

    async fn build_logs(&self, _: String, query: LogQuery) -> Result<LogPieces> {
        let texts = ["one", "two", "three"];
        let from = texts.len().saturating_sub(query.count());
        let line =
            |text: &&str| LogLine { time_ms: 0, stream: LogStream::Platform, revision: None, text: (*text).to_owned() };
        Ok(stream::iter([Ok(LogPiece::Lines(texts[from..].iter().map(line).collect()))]).boxed())
    }

    async fn build_events(&self) -> Result<BuildEvents> {
        Ok(stream::pending().boxed())
    }

    async fn build_metrics(&self) -> Result<Metrics> {
        Err(Error::new(Code::Unavailable, "away"))
    }

    async fn keep_images(&self, _: Vec<StoredImage>) -> Result<()> {
        services(&self.services)?.keep_images()
    }

    async fn collect_images(&self, _: Vec<StoredImage>) -> Result<Collected> {
        Ok(Collected::default())
    }
}

/// An agent service whose routing table a test changes, with a record of acknowledgements.
#[derive(Debug)]
pub struct FakeAgents {
    /// The state that the saga changes; `None`: there is no saga.
    services: Option<Arc<FakeServices>>,
    pub agents: Mutex<BTreeMap<Name, Agent>>,
    pub bound: watch::Sender<Vec<BoundTool>>,
    pub replaced: Mutex<Vec<Option<String>>>,
    pub acknowledged: watch::Sender<u64>,
    /// The last query of logs, and the pieces that answer it.
    pub log_query: Mutex<Option<LogQuery>>,
    pub log: Mutex<Option<mpsc::Receiver<LogPiece>>>,
    pub events: broadcast::Sender<AgentEvent>,
    /// The number of invokes that have asked for an idle agent, and what its start comes to once it is decided.
    pub wakes: watch::Sender<usize>,
    pub woken: watch::Sender<Option<Result<(), String>>>,
    /// The reports of idleness, and of their ends.
    pub idle: watch::Sender<Vec<(Name, RevisionId, bool)>>,
    routes: Mutex<Vec<Route>>,
    watchers: Mutex<Vec<mpsc::Sender<Result<VersionedRoute>>>>,
    version: Mutex<u64>,
}

impl FakeAgents {
    pub fn new() -> Arc<Self> {
        Self::with(None)
    }

    /// Returns the agents of these services.
    pub fn of(services: Arc<FakeServices>) -> Arc<Self> {
        Self::with(Some(services))
    }

    fn with(services: Option<Arc<FakeServices>>) -> Arc<Self> {
        Arc::new(Self {
            services,
            agents: Mutex::default(),
            bound: watch::Sender::default(),
            replaced: Mutex::default(),
            acknowledged: watch::Sender::default(),
            log_query: Mutex::default(),
            log: Mutex::default(),
            events: broadcast::channel(16).0,
            wakes: watch::Sender::default(),
            woken: watch::Sender::default(),
            idle: watch::Sender::default(),
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
            entry_point: None,
            tools: vec![BoundTool { name: name("echo-tool"), url: None }],
            config: AgentConfig {
                system_prompt: "Be brief.".into(),
                llm: vec![LlmConfig { role: LlmRole::Chat, provider: "openai".into(), model: "gpt-4o".into() }],
                env: vec![EnvVar { name: "MY_SECRET".into(), value: Secret::new(MASK), secret: None }],
                ..AgentConfig::default()
            },
            fingerprint: Digest::of(b""),
        };
        let shown_env = vec![("LLM_MODEL".to_owned(), "gpt-4o".to_owned()), ("MY_SECRET".to_owned(), MASK.to_owned())];
        let agent = Agent {
            name: name(agent),
            revision: RevisionId::mint(),
            revision_number: 1,
            spec,
            shown_env,
            phase: Phase::Running,
            message: String::new(),
            idle: false,
            image_digest: Some(Digest::of(b"manifest")),
            needs_rebuild: false,
            isolation: "not sandboxed".into(),
            network: "open".into(),
            limits: "none".into(),
            created_at: 0,
            updated_at: 0,
        };
        self.agents.lock().unwrap().insert(agent.name.clone(), agent);
    }

    /// Sends a change to every watcher; returns its version.
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

    async fn in_phase(&self, name: Name, phase: Phase) -> Result<Agent> {
        let mut agents = self.agents.lock().unwrap();
        let agent = agents.get_mut(&name).ok_or_else(|| Error::not_found("agent", name))?;
        agent.phase = phase;
        Ok(agent.clone())
    }

    /// Ends every subscription, as a restart of the service would.
    pub fn hang_up(&self) {
        self.watchers.lock().unwrap().clear();
    }
}

#[async_trait]
impl AgentService for FakeAgents {
    async fn resolve_image(&self, image: ImageRef) -> Result<Option<Digest>> {
        services(&self.services)?;
        Ok(Some(Digest::of(image.to_string().as_bytes())))
    }

    async fn start_revision(&self, o: Operation, id: RevisionId, spec: AgentSpec) -> Result<RevisionStatus> {
        services(&self.services)?.start(&o, id, spec)
    }

    async fn switch_route(&self, operation: Operation, _: Name, id: RevisionId) -> Result<Agent> {
        services(&self.services)?.switch(&operation, id)
    }

    async fn undo_start(&self, started: OperationId, _: Name, id: RevisionId) -> Result<()> {
        services(&self.services)?.undo_start(started, id)
    }

    async fn derive_revision(&self, o: Operation, id: RevisionId, derivation: Derivation) -> Result<RevisionStatus> {
        services(&self.services)?.derive(&o, id, derivation)
    }

    async fn get_revision(&self, agent: Name, wanted: RevisionRef) -> Result<Revision> {
        if let Some(services) = &self.services {
            return services.revision(wanted);
        }
        let all = self.list_revisions(agent.clone(), None, 10).await?;
        let found = all.into_iter().find(|r| match wanted {
            RevisionRef::Current => r.current,
            RevisionRef::Previous => r.number == 2,
            RevisionRef::Number(number) => r.number == number,
            RevisionRef::Id(id) => r.id == id,
        });
        found.ok_or_else(|| Error::not_found("revision", wanted))
    }

    async fn list_revisions(&self, agent: Name, before: Option<RevisionRef>, limit: u32) -> Result<Vec<Revision>> {
        let agent = self.get_agent(agent).await?;
        let before = match before {
            Some(RevisionRef::Number(number)) => number,
            _ => u64::MAX,
        };
        let one = |number: u64| Revision {
            needs_rebuild: false,
            id: agent.revision,
            number,
            spec: agent.spec.clone(),
            image_digest: agent.image_digest,
            reason: if number == 3 { Reason::Rollback } else { Reason::Deploy },
            deployment: None,
            of: (number == 3).then_some(1),
            state: if number == 3 { RevisionState::Serving } else { RevisionState::Superseded },
            message: String::new(),
            current: number == 3,
            created_at: 0,
            served_at: Some(1_000),
        };
        Ok([3, 2, 1].into_iter().filter(|n| *n < before).take(limit as usize).map(one).collect())
    }

    async fn diff_revisions(&self, agent: Name, from: Option<RevisionRef>, to: RevisionRef) -> Result<Diff> {
        let to = self.get_revision(agent.clone(), to).await?;
        let from = match from {
            Some(from) => Some(self.get_revision(agent, from).await?),
            None => None,
        };
        let change = |field: &str, from: Option<&str>, to: Option<&str>| Change {
            field: field.into(),
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        Ok(Diff {
            from: from.map(|r| (r.id, r.number)),
            to: (to.id, to.number),
            changes: vec![
                change("env[A]", Some(MASK), Some(MASK)),
                change("env[B]", None, Some(MASK)),
                change("system_prompt", Some("x"), None),
            ],
        })
    }

    async fn check_room(&self, _: Name) -> Result<()> {
        Ok(())
    }

    async fn stop_agent(&self, _: Operation, name: Name) -> Result<Agent> {
        self.in_phase(name, Phase::Stopped).await
    }

    async fn start_agent(&self, _: Operation, name: Name) -> Result<Agent> {
        self.in_phase(name, Phase::Running).await
    }

    async fn restart_agent(&self, _: Operation, name: Name) -> Result<Agent> {
        self.in_phase(name, Phase::Running).await
    }

    async fn bind_tool(&self, _: Operation, tool: BoundTool, replaces: Option<String>) -> Result<Vec<Name>> {
        if let Some(services) = &self.services {
            return services.bind(&tool.name);
        }
        self.replaced.lock().unwrap().push(replaces);
        self.bound.send_modify(|bound| bound.push(tool));
        Ok(vec![])
    }

    async fn get_agent(&self, name: Name) -> Result<Agent> {
        if let Some(services) = &self.services {
            return services.agent();
        }
        self.agents.lock().unwrap().get(&name).cloned().ok_or_else(|| Error::not_found("agent", name))
    }

    async fn list_agents(&self, query: PageQuery) -> Result<Page<Agent>> {
        assert!(!self.agents.lock().unwrap().keys().any(|name| name.as_str() == "panics"), "s3cr3t internals");
        Ok(part(self.agents.lock().unwrap().values().cloned().collect(), query, |agent| &agent.name))
    }

    async fn images_in_use(&self) -> Result<Vec<StoredImage>> {
        Ok(Vec::new())
    }

    async fn delete_agent(&self, _: Operation, name: Name) -> Result<()> {
        self.agents.lock().unwrap().remove(&name).map(drop).ok_or_else(|| Error::not_found("agent", name))
    }

    async fn agent_logs(&self, name: Name, query: LogQuery) -> Result<LogPieces> {
        self.get_agent(name).await?;
        let text = format!("tail {:?}", query.tail);
        *self.log_query.lock().unwrap() = Some(query);
        match self.log.lock().unwrap().take() {
            Some(pieces) => {
                Ok(stream::unfold(pieces, |mut p| async move { p.recv().await.map(|piece| (Ok(piece), p)) }).boxed())
            }
            None => {
                let line = LogLine { time_ms: 0, stream: LogStream::Stdout, revision: None, text };
                Ok(stream::iter([Ok(LogPiece::Lines(vec![line]))]).boxed())
            }
        }
    }

    async fn agent_events(&self, _: Option<EventPosition>) -> Result<AgentEvents> {
        let events = self.events.subscribe();
        Ok(stream::unfold(events, |mut e| async move { e.recv().await.ok().map(|event| (Ok(event), e)) }).boxed())
    }

    async fn agent_metrics(&self) -> Result<Metrics> {
        let up = metrics::family(Kind::Gauge, "hoistway_agent_up", "Up.", [([("agent", "a".to_owned())], 1.0)]);
        Ok(process_metrics::of_service("agent", vec![up]))
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

    async fn report_idle(&self, _: String, agent: Name, instance: RevisionId, in_use: bool) -> Result<()> {
        self.idle.send_modify(|idle| idle.push((agent, instance, in_use)));
        Ok(())
    }

    async fn wake_agent(&self, _: Name) -> Result<()> {
        self.wakes.send_modify(|wakes| *wakes += 1);
        let woken = self.woken.subscribe().wait_for(Option::is_some).await.unwrap().clone();
        let failed = |text| Error::new(Code::AgentStartFailed, text).with_details(["the log's last line".to_owned()]);
        woken.unwrap().map_err(failed)
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

/// A saga that only looks up, and whose progress the test sets.
#[derive(Debug)]
pub struct FakeDeployer {
    pub progress: watch::Sender<Progress>,
    pub accepted: watch::Sender<Vec<DeployRequest>>,
    /// The accepted works that are no deploys.
    pub others: watch::Sender<Vec<DeploymentKind>>,
    pub turns: watch::Sender<Vec<Name>>,
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
            others: watch::Sender::default(),
            turns: watch::Sender::default(),
            resolved: Mutex::new(resolved),
            refusal: Mutex::default(),
            id: DeploymentId::mint(),
        })
    }
}

#[async_trait]
impl Deployer for FakeDeployer {
    async fn accept(&self, work: DeploymentKind, strict: bool, _: Option<Room>) -> Result<Accepted> {
        let DeploymentKind::Deploy(request) = work else {
            self.others.send_modify(|others| others.push(work));
            return Ok(Accepted { id: self.id, warnings: vec![], progress: self.progress.subscribe() });
        };
        let mut resolved = self.resolved.lock().unwrap().clone();
        resolved.identity_provider_known |= request.config.identity_provider.is_none();
        let warnings = request.check_lookups(&resolved, strict)?;
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return Err(refusal);
        }
        self.accepted.send_modify(|accepted| accepted.push(*request));
        Ok(Accepted { id: self.id, warnings, progress: self.progress.subscribe() })
    }

    async fn lease(&self, agent: Name, _: Urgency, _: Duration) -> Result<AgentLease> {
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return Err(refusal);
        }
        self.turns.send_modify(|turns| turns.push(agent));
        Ok(AgentLease::new(CancellationToken::new().drop_guard(), CancellationToken::new()))
    }

    async fn cancel(&self, id: DeploymentId) -> Result<Deployment> {
        self.get(id).await
    }

    async fn get(&self, id: DeploymentId) -> Result<Deployment> {
        let all = self.list(DeploymentQuery { limit: 10, ..DeploymentQuery::default() }).await?;
        all.into_iter().find(|d| d.id == id).ok_or_else(|| Error::not_found("deployment", id))
    }

    async fn list(&self, query: DeploymentQuery) -> Result<Vec<Deployment>> {
        let DeploymentQuery { agent, status, before, .. } = query;
        let deployment = Deployment {
            id: self.id,
            agent: name("a"),
            kind: Reason::Deploy,
            revision: Some(1),
            status: DeploymentStatus::Succeeded,
            step: Some("switch".into()),
            tools_created: vec!["t".into()],
            image: Some(image()),
            error: None,
            revision_id: None,
            warnings: vec!["careful".into()],
            request_id: Some("req-1".into()),
            steps: vec![DeploymentStep {
                step: "switch",
                status: "SUCCEEDED",
                started_at: 400,
                completed_at: Some(1_000),
            }],
            created_at: 0,
            updated_at: 1_000,
            completed_at: Some(1_000),
        };
        let of_agent = |d: &Deployment| agent.as_ref().is_none_or(|agent| d.agent == *agent);
        let of_status = |d: &Deployment| status.is_none_or(|status| d.status == status);
        let older = |d: &Deployment| before.is_none_or(|before| d.id < before);
        Ok([deployment].into_iter().filter(|d| of_agent(d) && of_status(d) && older(d)).collect())
    }
}
