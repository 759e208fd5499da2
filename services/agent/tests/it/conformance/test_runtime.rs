//! A runtime under test, and agents in it.

use super::docker_image::Image;
use crate::runtime::LIMIT;
use futures_util::StreamExt;
use hoistway_agent::launcher::Limits;
use hoistway_agent::runtime::{
    DockerConfig, DockerRuntime, Instance, LogLimits, ProcessConfig, ProcessRuntime, Program, RestartDelays, Runtime,
    StartSettings, Started,
};
use hoistway_agent::sandbox;
use hoistway_kit::{
    registry_logins::RegistryLogins,
    tls::{ServiceAddress, ServiceTls},
};
use hoistway_model::log::{LogPiece, LogQuery};
use hoistway_model::metric::Sample;
use hoistway_model::{Name, RevisionId, Secret};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

pub const SECRET: &str = "sk-very-secret";
const TOKEN: &str = "invoke-token-1";
pub const EGRESS_TOKEN: &str = "egress-token-1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Process,
    /// As processes that are forked from a warm parent.
    Forked,
    Docker,
}

/// What a test changes of a runtime.
#[derive(Clone)]
pub struct Settings {
    pub starts: StartSettings,
    pub limits: Limits,
    pub logs: LogLimits,
    pub egress: String,
    pub socket: String,
    pub readable: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        // Long enough for a crash to be seen.
        let pause = Duration::from_millis(700);
        let restart_delays = RestartDelays { first: pause, longest: pause, ..RestartDelays::default() };
        Self {
            starts: StartSettings { restart_delays, ..StartSettings::default() },
            limits: Limits::default(),
            logs: LogLimits::default(),
            egress: "127.0.0.1:9".into(),
            socket: "/var/run/docker.sock".into(),
            readable: Vec::new(),
        }
    }
}

/// A runtime in a directory of its own.
pub struct TestRuntime {
    pub kind: Kind,
    pub runtime: Arc<dyn Runtime>,
    pub dir: TempDir,
    images: Mutex<Vec<Image>>,
}

impl TestRuntime {
    pub async fn new(kind: Kind) -> Self {
        Self::with(kind, |_| {}).await
    }

    pub async fn with(kind: Kind, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let dir = tempfile::tempdir().unwrap();
        let runtime: Arc<dyn Runtime> = match kind {
            Kind::Process => Arc::new(process(dir.path(), settings, false).await),
            Kind::Forked => Arc::new(process(dir.path(), settings, true).await),
            Kind::Docker => Arc::new(docker(dir.path(), settings).await),
        };
        let test = Self { kind, runtime, dir, images: Mutex::default() };
        if kind == Kind::Forked {
            test.warm_up().await;
        }
        test
    }

    /// Has a warm parent started, and a process prepared: the first agent of a test becomes that one, and others that are
    /// started soon after are forked.
    async fn warm_up(&self) {
        let (first, _) = self.ready("def handler(message): return message").await;
        until_warm(&*self.runtime, 1.0).await;
        let (second, _) = self.ready("def handler(message): return message").await;
        assert_eq!(counted(&*self.runtime, "hoistway_agent_starts_total", "executed"), 1.0);
        until_prepared(&*self.runtime, 1.0).await;
        for instance in [first, second] {
            self.runtime.remove(&instance.revision, Duration::ZERO).await.unwrap();
        }
    }

    /// An agent with this source.
    pub async fn instance(&self, source: &str) -> Instance {
        let program = match self.kind {
            Kind::Process | Kind::Forked => self.unpacked(source),
            Kind::Docker => {
                let source = source.to_owned();
                let image = tokio::task::spawn_blocking(move || Image::of(&source)).await.unwrap();
                let reference = image.0.clone();
                self.images.lock().unwrap().push(image);
                Program::Image { reference }
            }
        };
        Instance {
            agent: Name::parse("name", "test-agent").unwrap(),
            revision: RevisionId::mint(),
            program,
            env: vec![("USER_ENTRY_POINT".into(), Secret::new("agent.py")), ("STRIPE_KEY".into(), Secret::new(SECRET))],
            endpoints: Vec::new(),
            egress_token: Secret::new(EGRESS_TOKEN),
            invoke_token: Secret::new(TOKEN),
            mask: vec![Secret::new(SECRET)],
            framework: None,
            proven: false,
        }
    }

    fn unpacked(&self, source: &str) -> Program {
        let app_dir = self.dir.path().join(RevisionId::mint().simple());
        std::fs::create_dir(&app_dir).unwrap();
        std::fs::write(app_dir.join("agent.py"), source).unwrap();
        Program::Unpacked {
            app_dir,
            site_dirs: Vec::new(),
            site_layers: Vec::new(),
            runner: concat!(env!("CARGO_MANIFEST_DIR"), "/../build/runner/hoistway_runner.py").into(),
            interpreter: crate::runtime::python().into(),
        }
    }

    /// Starts an agent and waits until it is ready.
    pub async fn ready(&self, source: &str) -> (Instance, Started) {
        let instance = self.instance(source).await;
        let started = self.runtime.apply(instance.clone()).await.unwrap();
        if let Err(e) = tokio::time::timeout(LIMIT, started.ready()).await.unwrap() {
            panic!("{e}: {:?}", e.details);
        }
        (instance, started)
    }

    /// The last lines of the agents' log.
    pub async fn log(&self, lines: u32) -> Vec<String> {
        let agent = Name::parse("name", "test-agent").unwrap();
        let mut pieces = self.runtime.logs(&agent, LogQuery::last(lines)).await.unwrap();
        let mut texts = Vec::new();
        while let Some(piece) = pieces.next().await {
            if let LogPiece::Lines(lines) = piece.unwrap() {
                texts.extend(lines.into_iter().map(|line| line.text));
            }
        }
        texts
    }
}

/// Lets agents read a directory.
pub fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
}

/// Waits until so many warm parents have become ready; none may fail to start.
pub async fn until_warm(runtime: &dyn Runtime, count: f64) {
    let ready = async {
        while counted(runtime, "hoistway_warm_parents_total", "ready") < count {
            assert!(counted(runtime, "hoistway_warm_parents_total", "failed") == 0.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, ready).await.unwrap();
}

/// Waits until so many processes wait for the next revision of an agent.
pub async fn until_prepared(runtime: &dyn Runtime, count: f64) {
    let waiting = async {
        while sum(runtime, "hoistway_prepared_processes", |_| true) != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap();
}

/// The sum of a metric's samples with this label.
pub fn counted(runtime: &dyn Runtime, name: &str, label: &str) -> f64 {
    sum(runtime, name, |sample| sample.labels.iter().any(|(_, value)| value == label))
}

fn sum(runtime: &dyn Runtime, name: &str, is_counted: impl Fn(&Sample) -> bool) -> f64 {
    let families = runtime.metrics();
    let samples = families.into_iter().filter(|family| family.name == name).flat_map(|family| family.samples);
    samples.filter(is_counted).map(|sample| sample.value).sum()
}

async fn process(dir: &Path, settings: Settings, warm_parents: bool) -> ProcessRuntime {
    let Settings { starts, limits, logs, egress, readable, .. } = settings;
    let config = ProcessConfig {
        sandbox: sandbox::Settings { readable, ..sandbox::Settings::default() },
        launcher: env!("CARGO_BIN_EXE_hoistway-agent").into(),
        starts,
        limits,
        logs,
        egress: ServiceAddress::local(&egress),
        warm_parents,
        ..ProcessConfig::new(dir.join("data"), crate::runtime::python().into())
    };
    ProcessRuntime::new(config).await.unwrap()
}

pub async fn docker(dir: &Path, settings: Settings) -> DockerRuntime {
    try_docker(dir, settings).await.unwrap()
}

pub async fn try_docker(dir: &Path, settings: Settings) -> Result<DockerRuntime, hoistway_model::Error> {
    let Settings { starts, limits, logs, egress, socket, .. } = settings;
    let config = DockerConfig {
        socket,
        dir: dir.join("sockets"),
        data_dir: dir.join("data"),
        registry: "127.0.0.1:9".into(),
        registry_password: Secret::new(""),
        image_registry: None,
        image_registry_logins: RegistryLogins::named(None),
        logins: RegistryLogins::named(None),
        bind: Ipv4Addr::LOCALHOST.into(),
        advertise: None,
        egress: ServiceAddress::local(&egress),
        tls: ServiceTls::default(),
        ca_bundle: None,
        starts,
        limits,
        logs,
    };
    DockerRuntime::new(config).await
}

/// The answer to an invoke; an error if there is none.
pub async fn invoke(started: &Started, message: &str) -> Result<Value, reqwest::Error> {
    static CLIENT: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    CLIENT.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/invoke", started.address);
    let request = client.post(url).header("X-Hoistway-Invoke-Token", TOKEN).json(&json!({"message": message}));
    let answer: Value = request.timeout(LIMIT).send().await?.json().await?;
    Ok(answer.get("response").cloned().unwrap_or(answer))
}

/// The same as text, which there must be.
pub async fn ask(started: &Started, message: &str) -> String {
    let answer = invoke(started, message).await.unwrap();
    answer.as_str().map_or_else(|| answer.to_string(), str::to_owned)
}
