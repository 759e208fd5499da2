//! An egress for one test, with agents that have tokens, and clients that speak to it.

use crate::mock_tool::TestCa;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hoistway_egress::{
    AgentPolicy, Authority, CallRecord, CallRecords, Config, Deps, Policies, PolicyError, Ports, ToolPolicy, grpc,
    open, origin::Origin, policy::static_policy::FixedPolicies, run,
};
use hoistway_kit::{
    db::DatabaseConfig,
    egress_auth::{EgressKey, Flavour, Preface},
    invoke_statement::InvokeStatementKey,
    token::ServiceToken,
};
use hoistway_model::{Name, RevisionId, Secret};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseTransaction, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer unless it is broken.
pub const SOON: Duration = Duration::from_secs(60);

pub fn name(text: &str) -> Name {
    Name::parse("name", text).unwrap()
}

pub fn tool(tool: &str, base_url: &str) -> ToolPolicy {
    ToolPolicy::new(name(tool), base_url).unwrap()
}

pub fn header_key(header: &'static str, prefix: &str, value: &str) -> hoistway_egress::policy::Credential {
    hoistway_egress::policy::Credential::ApiKey {
        place: hoistway_egress::policy::KeyPlace::Header(http::HeaderName::from_static(header)),
        prefix: prefix.into(),
        value: Secret::new(value),
    }
}

/// Policies that can be lost for a while.
#[derive(Debug)]
struct Switched(FixedPolicies, Arc<AtomicBool>);

#[async_trait]
impl Policies for Switched {
    async fn policy(&self, revision: RevisionId) -> Result<Arc<AgentPolicy>, PolicyError> {
        if self.1.load(Ordering::SeqCst) { Err(PolicyError::Unavailable) } else { self.0.policy(revision).await }
    }

    async fn registered_at(&self, origin: &Origin) -> Option<Name> {
        self.0.registered_at(origin).await
    }

    async fn tool(&self, name: &Name) -> hoistway_model::Result<ToolPolicy> {
        self.0.tool(name).await
    }
}

#[derive(Debug)]
struct Sink(mpsc::Sender<CallRecord>);

#[async_trait]
impl CallRecords for Sink {
    async fn keep(&self, records: Vec<CallRecord>) {
        for record in records {
            let _ = self.0.send(record).await;
        }
    }
}

pub struct TestEgress {
    pub address: SocketAddr,
    /// The URL of gRPC.
    pub grpc: String,
    pub token: ServiceToken,
    pub dir: tempfile::TempDir,
    pub key: EgressKey,
    pub policies_are_lost: Arc<AtomicBool>,
    records: Mutex<mpsc::Receiver<CallRecord>>,
    authority: Arc<Authority>,
    shutdown: CancellationToken,
}

/// An agent and its token.
#[derive(Clone)]
pub struct Agent {
    pub policy: AgentPolicy,
    pub token: Secret,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

impl TestEgress {
    /// Starts egress with agents a, b, c… that have these tools.
    pub async fn start<const N: usize>(
        ca: &TestCa,
        tools: [Vec<ToolPolicy>; N],
        configure: impl FnOnce(&mut Config),
    ) -> (Self, [Agent; N]) {
        let key = EgressKey::generate().unwrap();
        let mut letters = 'a'..;
        let agents = tools.map(|tools| {
            let agent = name(&letters.next().unwrap().to_string());
            let revision = RevisionId::mint();
            let policy = AgentPolicy {
                agent,
                revision,
                tools,
                models: Vec::new(),
                own_key_origins: Vec::new(),
                open_network: false,
            };
            Agent { policy, token: key.mint(revision) }
        });
        let policies_are_lost = Arc::new(AtomicBool::new(false));
        let fixed = FixedPolicies::new(agents.iter().map(|agent| agent.policy.clone()));
        let policies = Arc::new(Switched(fixed, Arc::clone(&policies_are_lost)));
        let mut egress = Self::with_policies(ca, key, policies, configure).await;
        egress.policies_are_lost = policies_are_lost;
        (egress, agents)
    }

    /// Starts egress with policies of any kind.
    pub async fn with_policies(
        ca: &TestCa,
        key: EgressKey,
        policies: Arc<dyn Policies>,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let extra_ca_file = Some(dir.path().join("tools.pem"));
        std::fs::write(extra_ca_file.as_ref().unwrap(), &ca.pem).unwrap();
        let mut config = Config {
            data_dir: dir.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            grpc_listen: "127.0.0.1:0".parse().unwrap(),
            extra_ca_file,
            use_proxy: false,
            database: DatabaseConfig::from(hoistway_testing::database_url(dir.path())),
            ..Config::default()
        };
        configure(&mut config);
        let tls = config.tls.load().unwrap();
        let ports = Ports::listen(&mut config, &tls).unwrap();
        let (sink, records) = mpsc::channel(4096);
        let token = ServiceToken::generate().unwrap();
        let deps = Deps {
            token: token.clone(),
            key: key.clone(),
            policies,
            records: Some(Arc::new(Sink(sink))),
            agents: None,
            invoke_statements: InvokeStatementKey::new(&token).unwrap(),
            tls,
        };
        let service = open(&config, &deps).await.unwrap();
        let server = grpc(service.handle(), &deps).unwrap();
        let (authority, shutdown) = (service.authority(), CancellationToken::new());
        tokio::spawn(run(service, server, ports, shutdown.clone()));
        let records = Mutex::new(records);
        let (address, grpc) = (config.listen, format!("http://{}", config.grpc_listen));
        let policies_are_lost = Arc::default();
        Self { address, grpc, token, dir, key, policies_are_lost, records, authority, shutdown }
    }

    /// Where the installation's authority is.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("egress/ca.pem")
    }

    /// The next record.
    pub async fn record(&self) -> CallRecord {
        timeout(SOON, self.records.lock().await.recv()).await.unwrap().unwrap()
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that begins with a preface.
    pub async fn prefaced(&self, token: &Secret, flavour: Flavour, port: u16) -> TcpStream {
        let mut stream = self.connect().await;
        let line = Preface { token: token.clone(), flavour, port }.line();
        stream.write_all(line.expose().as_bytes()).await.unwrap();
        stream
    }

    /// Sends bytes and reads all that comes back.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        exchange(self.connect().await, bytes).await
    }

    /// The answer to a request to the proxy itself.
    pub async fn send(&self, agent: &Agent, request: Request<Full<Bytes>>) -> Answer {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert("proxy-authorization", basic(&agent.token).parse().unwrap());
        send(self.connect().await, Request::from_parts(parts, body)).await
    }

    /// A tunnel, or the head of the answer that says why not.
    pub async fn tunnel(&self, agent: &Agent, authority: &str) -> Result<TcpStream, String> {
        let mut stream = self.connect().await;
        let authorization = basic(&agent.token);
        let head = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {authorization}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(read).unwrap();
        if head.starts_with("HTTP/1.1 200") { Ok(stream) } else { Err(head) }
    }

    /// TLS as an agent makes it, which trusts the installation's authority alone.
    pub async fn tls<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<S>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        timeout(SOON, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
    }

    /// A call to a host through a tunnel.
    pub async fn call(&self, agent: &Agent, host: &str, request: Request<Full<Bytes>>) -> Answer {
        let stream = self.tunnel(agent, &format!("{host}:443")).await.unwrap();
        let tls = self.tls(stream, host, &["http/1.1"]).await.unwrap();
        let (mut parts, body) = request.into_parts();
        parts.headers.entry("host").or_insert(host.parse().unwrap());
        send(tls, Request::from_parts(parts, body)).await
    }
}

impl Drop for TestEgress {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Keeps everybody else from writing the database of egress in a data directory, as another process may.
pub async fn lock(data_dir: &Path) -> DatabaseTransaction {
    let sqlite = || format!("sqlite:{}", data_dir.join("egress/egress.db").display());
    let mut options = ConnectOptions::new(hoistway_testing::database_url(data_dir).unwrap_or_else(sqlite));
    let db = Database::connect(options.set_schema_search_path("egress").to_owned()).await.unwrap();
    let mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let txn = db.begin_with_options(options).await.unwrap();
    if hoistway_testing::uses_postgres() {
        txn.execute_unprepared("LOCK TABLE calls, usage_hours IN EXCLUSIVE MODE").await.unwrap();
    }
    txn
}

pub fn basic(token: &Secret) -> String {
    format!("Basic {}", STANDARD.encode(format!("agent:{}", token.expose())))
}

pub fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

pub fn post(uri: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(uri).body(Full::new(body.into())).unwrap()
}

pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: impl AsRef<[u8]>) -> String {
    stream.write_all(bytes.as_ref()).await.unwrap();
    let mut all = Vec::new();
    // A reset after the answer is an end as well.
    let _ = timeout(SOON, stream.read_to_end(&mut all)).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// One request of HTTP/1.1.
pub async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = timeout(SOON, sender.send_request(request)).await.unwrap().unwrap();
    read(response).await
}

/// Requests of HTTP/2.
pub async fn h2<S>(stream: S) -> http2::SendRequest<Full<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = timeout(SOON, body.collect()).await.unwrap().unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}
