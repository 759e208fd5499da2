//! A gateway on its own port over fake services, and a client.

use crate::{
    fake_egress::FakeEgress,
    fakes::{FakeAgents, FakeBuilds, FakeDeployer, FakeTools},
};
use async_trait::async_trait;
use bytes::Bytes;
use hoistway_gateway::{
    access_control::{Access, AccessLimits},
    api::{self, request_body},
    events::Events,
    image_host::PublicRegistry,
    metrics::GatewayMetrics,
    oidc::{CallerLimits, Callers},
    routing_table::RoutingTable,
    state::{AppState, LargeDeploys, Limits, Lists},
};
use hoistway_kit::{
    connection_limits::Limits as ConnectionLimits,
    db::{DatabaseConfig, Location},
    disk_reserve::Reserve,
    invoke_statement::InvokeStatementKey,
    ports,
    probes::ReadyCheck,
    tls::ServiceTls,
    token::{ApiKey, ServiceToken},
    web,
};
use hoistway_model::Result;
use hoistway_testing::database_url;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sea_orm::{ConnectOptions, Database, DatabaseConnection};
use serde_json::Value;
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub struct TestGateway {
    pub address: SocketAddr,
    pub key: String,
    pub tools: Arc<FakeTools>,
    pub agents: Arc<FakeAgents>,
    pub egress: Arc<FakeEgress>,
    pub deployer: Arc<FakeDeployer>,
    pub state: Arc<AppState>,
    /// The directory of the database.
    pub dir: tempfile::TempDir,
    shutdown: CancellationToken,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// The origin whose pages are permitted.
pub const ORIGIN: &str = "https://app.example.com";

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the status and the error body, with the request id checked and removed.
    pub fn error(&self) -> String {
        let mut body = self.json();
        let id = body.as_object_mut().unwrap().remove("request_id").unwrap();
        assert_eq!(id.as_str().unwrap(), self.header("x-request-id"));
        let mut text =
            format!("{} {} {}", self.status, body["code"].as_str().unwrap(), body["error"].as_str().unwrap());
        if let Some(details) = body.get("details") {
            text.push_str(&format!(" {details}"));
        }
        text
    }
}

#[derive(Debug)]
struct Always;

#[async_trait]
impl ReadyCheck for Always {
    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The gateway's database in a directory, of the engine that tests use.
pub async fn database(dir: &Path) -> Location {
    DatabaseConfig::from(database_url(dir)).location("gateway", dir).await.unwrap()
}

/// A connection to the same tables for a test's own statements.
pub async fn connection(dir: &Path) -> DatabaseConnection {
    let sqlite = || format!("sqlite:{}", dir.join("gateway.db").display());
    let mut options = ConnectOptions::new(database_url(dir).unwrap_or_else(sqlite));
    Database::connect(options.set_schema_search_path("gateway").to_owned()).await.unwrap()
}

impl TestGateway {
    pub async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        Self::with_access(limits, AccessLimits::default()).await
    }

    pub async fn with_access(limits: Limits, access: AccessLimits) -> Self {
        Self::with_all(limits, access, CallerLimits::default()).await
    }

    pub async fn with_all(limits: Limits, access: AccessLimits, callers: CallerLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tools, agents, deployer) = (Arc::<FakeTools>::default(), FakeAgents::new(), FakeDeployer::new());
        let (key, egress) = (ApiKey::generate().unwrap(), FakeEgress::new());
        let shutdown = CancellationToken::new();
        let metrics = GatewayMetrics::new();
        let state = Arc::new(AppState {
            tls: ServiceTls::default(),
            tools: tools.clone(),
            builds: FakeBuilds::new(),
            agents: agents.clone(),
            egress: egress.clone(),
            deployer: deployer.clone(),
            routes: RoutingTable::new(agents.clone()),
            access: Access::open(&database(dir.path()).await, key.clone(), access).await.unwrap(),
            callers: Callers::new(tools.clone(), callers),
            invoke_statements: InvokeStatementKey::new(&ServiceToken::generate().unwrap()).unwrap(),
            public_registry: PublicRegistry::new("127.0.0.1:5005", None),
            bodies: request_body::budget(limits.max_body),
            lists: Lists::default(),
            scraped: Default::default(),
            large_deploys: LargeDeploys::default(),
            limits,
            ready: Arc::new(Always),
            tasks: TaskTracker::new(),
            reserve: Reserve::new(dir.path()),
            events: Events::new(metrics.clone()),
            metrics,
            closing: shutdown.child_token(),
        });
        let mut changes = state.routes.changes();
        tokio::spawn(state.routes.clone().run(shutdown.clone()));
        tokio::spawn(state.events.clone().follow_agents(agents.clone(), shutdown.clone()));
        tokio::spawn(state.events.clone().follow_egress(egress.clone(), shutdown.clone()));
        changes.wait_for(|count| *count > 0).await.unwrap();
        let listeners = ports::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listeners.addrs()[0];
        let router = api::router(state.clone(), &[ORIGIN.to_owned()]).unwrap();
        tokio::spawn(web::serve("api", listeners, router, ConnectionLimits::default(), shutdown.clone()));
        Self { address, key: key.secret().expose().to_owned(), tools, agents, egress, deployer, state, dir, shutdown }
    }

    pub async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        self.call_with(method, path, body, &[("authorization", &format!("Bearer {}", self.key))]).await
    }

    pub async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Answer {
        call(self.address, method, path, body, headers).await
    }

    pub async fn open(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> http::Response<hyper::body::Incoming> {
        open(self.address, method, path, body, headers).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "").await
    }

    /// Sends the request with another key.
    pub async fn call_as(&self, key: &str, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        self.call_with(method, path, body, &[("authorization", &format!("Bearer {key}"))]).await
    }

    /// Creates a key; returns its id and text.
    pub async fn make_key(&self, name: &str, scopes: &[&str]) -> (String, String) {
        let made = self.post("/api/keys", serde_json::json!({"name": name, "scopes": scopes})).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let made = made.json();
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, body.to_string()).await
    }
}

impl TestGateway {
    /// Begins the shutdown.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Sends a request and reads the whole answer.
pub async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
    headers: &[(&str, &str)],
) -> Answer {
    let (parts, body) = open(address, method, path, body, headers).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(bytes.into()).unwrap() }
}

async fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
    headers: &[(&str, &str)],
) -> http::Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(Method::try_from(method).unwrap()).uri(path).header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
}
