//! The same services as separate processes, as compose runs them.

use crate::{
    http::{self, Answer},
    prerequisites,
    recovery::check_revisions,
    test_installation::{says, signal},
};
use hoistway_client::{EgressClient, Transport};
use hoistway_kit::{tls::ServiceTlsConfig, token::ServiceToken};
use hoistway_model::{Code, EgressService, egress::PolicySource};
use hoistway_testing::{TestAuthority, outer_address};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Returns the path of a service's binary, which is built beside the program under test.
fn binary(name: &str) -> PathBuf {
    Path::new(crate::test_installation::HOISTWAY).with_file_name(format!("hoistway-{name}"))
}

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a free port that no test of this process was given before: the kernel may choose one that was free a moment
/// ago again.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// Returns the variable of a service's setting.
pub fn variable(service: &str, key: &str) -> String {
    format!("HOISTWAY_{}_{key}", service.to_uppercase().replace('-', "_"))
}

fn start(dir: &Path, name: &str, env: &[(&str, String)]) -> Service {
    let log = File::create(dir.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(binary(name));
    command.env(variable(name, "DATA_DIR"), dir.join("data"));
    for (key, value) in env {
        // Such as those of OpenTelemetry, which are the same for all.
        let is_whole = ["OTEL_", "HOISTWAY_"].iter().any(|prefix| key.starts_with(prefix));
        let whole = if is_whole { (*key).to_owned() } else { variable(name, key) };
        command.env(whole, value);
    }
    Service(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

/// The five services, each a separate process on a fixed port.
pub struct Processes {
    dir: PathBuf,
    /// `host:port` of the API.
    pub api: String,
    egress_grpc: String,
    environments: Vec<(&'static str, Environment)>,
    running: Vec<(&'static str, Service)>,
    pub key: String,
}

/// Settings of one service.
pub type Environment = Vec<(&'static str, String)>;

impl Processes {
    /// Starts them, with further settings of the agent service, and returns when they are ready.
    fn start(dir: &Path, agent_settings: &[(&'static str, &str)]) -> Self {
        let agent_settings: Environment =
            agent_settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self::start_with(dir, &|service| if service == "agent" { agent_settings.clone() } else { Environment::new() })
    }

    /// Starts them with further settings of each, whose API key is in the directory `data`.
    pub fn start_with(dir: &Path, settings: &dyn Fn(&str) -> Environment) -> Self {
        Self::start_unready(dir, settings, None).ready(dir)
    }

    /// Starts them. With an authority, each has a certificate of it, and everything but the API and the echo tool is at
    /// an address that other machines reach, if there is one.
    fn start_unready(dir: &Path, settings: &dyn Fn(&str) -> Environment, authority: Option<&TestAuthority>) -> Self {
        let data = dir.join("data");
        std::fs::create_dir_all(&data).unwrap();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let host = authority.and_then(|_| outer_address()).unwrap_or(loopback);
        let at = |host: IpAddr| format!("{host}:{}", free_port());
        let [api, echo] = std::array::from_fn(|_| at(loopback));
        let [tools, build, registry, agent, egress, egress_grpc] = std::array::from_fn(|_| at(host));
        let scheme = if authority.is_some() { "https://" } else { "http://" };
        let url = |at: &str| format!("{scheme}{at}");
        let registry_scheme = if authority.is_some() { scheme } else { "" };
        let agent_env = vec![
            ("GRPC_LISTEN", agent.clone()),
            ("EGRESS_LISTEN", egress.clone()),
            ("EGRESS_URL", url(&egress)),
            ("REGISTRY_ADDRESS", format!("{registry_scheme}{registry}")),
            ("AGENTS_BIND", host.to_string()),
        ];
        let echo_url = format!("http://{echo}");
        let mut environments = vec![
            ("tool-registry", vec![("GRPC_LISTEN", tools.clone()), ("HTTP_LISTEN", echo), ("PUBLIC_URL", echo_url)]),
            (
                "build",
                vec![
                    ("GRPC_LISTEN", build.clone()),
                    ("REGISTRY_LISTEN", registry.clone()),
                    ("API_KEY_FILE", data.join("api-key").display().to_string()),
                ],
            ),
            ("agent", agent_env),
            (
                "egress",
                vec![
                    ("LISTEN", egress),
                    ("GRPC_LISTEN", egress_grpc.clone()),
                    ("TOOL_REGISTRY", url(&tools)),
                    ("AGENT", url(&agent)),
                ],
            ),
            (
                "gateway",
                vec![
                    ("LISTEN", api.clone()),
                    ("TOOL_REGISTRY", url(&tools)),
                    ("BUILD", url(&build)),
                    ("AGENT", url(&agent)),
                    ("EGRESS", url(&egress_grpc)),
                    ("PUBLIC_REGISTRY", registry),
                ],
            ),
        ];
        if let Some(authority) = authority {
            for (name, env) in &mut environments {
                authority.issue(dir, name, &[&host.to_string()]);
                let file = |name: &str| dir.join(name).display().to_string();
                env.push(("TLS__CERT_FILE", file(&format!("{name}.pem"))));
                env.push(("TLS__KEY_FILE", file(&format!("{name}-key.pem"))));
                env.push(("TLS__CA_FILE", file("ca.pem")));
            }
        }
        for (name, environment) in &mut environments {
            environment.extend(settings(name));
        }
        let running = environments.iter().map(|(name, env)| (*name, start(dir, name, env))).collect();
        Self { dir: dir.to_owned(), api, egress_grpc, environments, running, key: String::new() }
    }

    fn ready(mut self, dir: &Path) -> Self {
        self.wait_until_ready();
        self.key = std::fs::read_to_string(dir.join("data/api-key")).unwrap().trim().to_owned();
        self
    }

    fn names(&self) -> Vec<&'static str> {
        self.environments.iter().map(|(name, _)| *name).collect()
    }

    /// Kills a service, as `kill -9` does.
    fn kill(&mut self, name: &str) {
        self.running.retain(|(running, _)| *running != name);
    }

    /// Starts a killed service again, and waits until the API is ready.
    fn start_again(&mut self, name: &str) {
        let (name, env) = self.environments.iter().find(|(known, _)| *known == name).unwrap();
        self.running.push((name, start(&self.dir, name, env)));
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while !http::send(&self.api, "GET", "/readyz", &[], b"").is_ok_and(|a| a.status == 200) {
            assert!(Instant::now() < until, "not ready: {}", logs(&self.dir));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_until_deployments_ended(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let all = self.call("GET", "/api/deployments", &Value::Null).json();
            let open: Vec<&Value> = all.as_array().unwrap().iter().filter(|d| d["completed_at"].is_null()).collect();
            if open.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "in progress for ever: {open:?}\n{}", logs(&self.dir));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The revisions of an agent once none of them waits for its image any more.
    fn settled_revisions(&self, agent: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let revisions = self.call("GET", &format!("/api/agents/{agent}/revisions"), &Value::Null).json();
            if revisions.as_array().unwrap().iter().all(|revision| revision["state"] != "starting") {
                return revisions;
            }
            assert!(Instant::now() < until, "starts for ever: {revisions}\n{}", logs(&self.dir));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends them all as Ctrl-C does, the gateway first.
    pub fn stop(mut self) {
        for (name, mut service) in self.running.drain(..).rev() {
            signal(service.0.id(), "INT");
            assert!(service.0.wait().unwrap().success(), "{name}: {}", logs(&self.dir));
        }
    }

    pub fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.client().send(method, path, body).unwrap()
    }

    fn client(&self) -> Client {
        Client { api: self.api.clone(), authorization: format!("Bearer {}", self.key) }
    }

    /// Registers the tool at a port of this machine as `probe`, with its key.
    fn register_tool(&self, port: u16) {
        let probe = json!({
            "name": "probe",
            "spec": {"connection": {
                "baseUrl": format!("http://127.0.0.1:{port}"),
                "authentication": {"type": "APIKey", "apiKeyConfig": {"in": "Header", "name": "X-Key"}},
            }},
        });
        assert_eq!(self.call("POST", "/api/tools", &probe).status, 201);
        let stored = self.call("PUT", "/api/tools/probe/credentials", &json!({ "api_key": KEY }));
        assert_eq!(stored.status, 200, "{}", stored.text());
    }

    fn deploy(&self, body: &Value) {
        let deployed = self.call("POST", "/api/deploy", body);
        assert_eq!(deployed.status, 201, "{}\n{}", deployed.text(), logs(&self.dir));
    }

    /// Returns an agent's answer, once the services have reconnected.
    pub fn invoke(&self, agent: &str, message: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.call("POST", &format!("/api/agents/{agent}/invoke"), &json!({ "message": message }));
            if answer.status == 200 {
                return answer.json()["response"].clone();
            }
            assert!(answer.status == 503 && Instant::now() < until, "{}\n{}", answer.text(), logs(&self.dir));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A client of the API, which may be away.
#[derive(Clone)]
struct Client {
    api: String,
    authorization: String,
}

impl Client {
    fn send(&self, method: &str, path: &str, body: &Value) -> std::io::Result<Answer> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        http::send(&self.api, method, path, &[("Authorization", &self.authorization)], body.as_bytes())
    }

    /// Deploys one version after the other until `stop`, every third of which fails and has a tool, with the last one
    /// that runs for sure before and the first to try. Returns the last one that runs for sure, and the last one tried.
    fn deploy_until(&self, stop: &AtomicBool, agent: &str, [before, first]: [usize; 2]) -> [usize; 2] {
        let mut acknowledged = before;
        for version in first.. {
            let fails = version % 3 == 2;
            let files = match fails {
                true => json!({"agent.py": "raise SystemExit(3)\ndef handler(message): return message\n"}),
                false => says(&version.to_string()),
            };
            let tools = json!([{"name": format!("{agent}-{version}"), "base_url": "https://a.example"}]);
            let mut deploy = json!({"agent_name": agent, "source_files": files});
            if fails {
                deploy["tools_to_create"] = tools;
            }
            let answer = self.send("POST", "/api/deploy", &deploy);
            match answer {
                Ok(answer) if answer.status == 201 && answer.json()["warnings"].is_null() => acknowledged = version,
                Ok(_) => {}
                // The gateway is being started.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if stop.load(Ordering::Relaxed) {
                return [acknowledged, version];
            }
        }
        unreachable!()
    }
}

#[test]
fn the_master_key_of_running_separate_programs_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let processes = Processes::start(dir.path(), &[]);
    let key = std::fs::read(dir.path().join("data/master.key")).unwrap();
    let mut rotate = Command::new(crate::test_installation::HOISTWAY);
    let refused = rotate.args(["rotate-key", "--data-dir"]).arg(dir.path().join("data")).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--key-file; nothing is changed"), "{said}");
    assert_eq!(std::fs::read(dir.path().join("data/master.key")).unwrap(), key);
    processes.stop();
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each service is killed while deploys go on, at moments that are spread over a deploy.
#[test]
fn a_service_killed_during_deploys_loses_none_and_leaves_nothing() {
    const ROUNDS: u32 = 3;
    let dir = tempfile::tempdir().unwrap();
    let mut processes = Processes::start(dir.path(), &[]);
    let client = processes.client();
    let mut versions = [[0, 1], [0, 1]];
    for round in 0..ROUNDS {
        for (i, name) in processes.names().into_iter().enumerate() {
            let stop = AtomicBool::new(false);
            versions = std::thread::scope(|scope| {
                let (client, stop) = (&client, &stop);
                // Also where the test fails, or the others would go on for ever.
                let _stopped = StopOnDrop(stop);
                let deploying = [("one", versions[0]), ("two", versions[1])]
                    .map(|(agent, versions)| scope.spawn(move || client.deploy_until(stop, agent, versions)));
                std::thread::sleep(Duration::from_millis(200 + 37 * u64::from(round) + 15 * i as u64));
                processes.kill(name);
                processes.start_again(name);
                stop.store(true, Ordering::Relaxed);
                deploying.map(|versions| versions.join().unwrap())
            });
            processes.wait_until_deployments_ended();
            for (agent, [acknowledged, last]) in ["one", "two"].into_iter().zip(&mut versions) {
                let shown = processes.call("GET", &format!("/api/agents/{agent}"), &Value::Null);
                let (tried, runs) = (*last, *acknowledged > 0);
                *last += 1;
                // The first deploys of all may have failed.
                if shown.status == 404 && !runs {
                    continue;
                }
                let said = processes.invoke(agent, "x");
                let said: usize = said.as_str().unwrap().parse().unwrap();
                assert!(
                    (*acknowledged..=tried).contains(&said),
                    "{agent} is {said} after {name} was killed, not {acknowledged} to {tried}\n{}",
                    logs(dir.path())
                );
                check_revisions(&processes.settled_revisions(agent));
            }
        }
    }
    // One that was accepted while its image could not be pulled is no failed one: it waits for the registry.
    let deployments = processes.call("GET", "/api/deployments?status=FAILED&limit=1000", &Value::Null).json();
    let failed = deployments.as_array().unwrap().iter().flat_map(|failed| failed["tools_created"].as_array().unwrap());
    let failed: BTreeSet<&str> = failed.filter_map(Value::as_str).collect();
    assert!(!failed.is_empty());
    let tools = processes.call("GET", "/api/tools", &Value::Null).json();
    let names = tools.as_array().unwrap().iter().filter_map(|tool| tool["name"].as_str());
    let left: Vec<&str> = names.filter(|name| failed.contains(name)).collect();
    assert_eq!(left, Vec::<&str>::new(), "tools of failed deploys are left");
    processes.stop();
}

#[test]
fn five_processes_serve_the_same_api_and_each_may_be_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = Processes::start(dir.path(), &[]);
    let source = |text: &str| json!({"agent_name": "apart", "source_files": says(text)});
    processes.deploy(&source("v1"));
    assert_eq!(processes.invoke("apart", "x"), "v1");
    for (i, name) in processes.names().into_iter().enumerate() {
        processes.kill(name);
        processes.start_again(name);
        assert_eq!(processes.invoke("apart", "x"), format!("v{}", i + 1), "after {name} was killed");
        egress_is_current(dir.path(), &format!("http://{}", processes.egress_grpc));
        let text = format!("v{}", i + 2);
        processes.deploy(&source(&text));
        assert_eq!(processes.invoke("apart", "x"), text, "after {name} was killed");
    }
}

/// Calls its tool, and returns the results and its process id.
const CALLER: &str = r#"
import os, urllib.error, urllib.request, uuid
PROCESS = str(uuid.uuid4())

def call(path):
    try:
        return 200, urllib.request.urlopen(os.environ["TOOL_URL_PROBE"] + path, timeout=60).read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except Exception as e:
        return 0, type(e).__name__

def handler(message):
    return {"response": [PROCESS, *call(message)]}
"#;
pub const KEY: &str = "sk-of-the-kill-51c9";

/// Starts a tool that answers with its key. A request for `/slow` receives the beginning of an answer only, and is
/// reported.
pub fn tool(slow: mpsc::SyncSender<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let key = head.iter().find_map(|line| line.to_lowercase().strip_prefix("x-key: ").map(str::to_owned));
            let key = key.unwrap_or_default();
            if head.first().is_some_and(|line| line.contains("/slow")) {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbeginning");
                slow.send(()).unwrap();
                // Waits until the client disconnects.
                lines.for_each(drop);
                continue;
            }
            let length = key.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{key}");
        }
    });
    port
}

#[test]
fn agents_outlive_a_killed_egress_and_call_again_after_its_restart() {
    if !prerequisites::sandbox(&["--sandbox", "namespaces", "--network", "closed"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut processes = Processes::start(dir.path(), &[("SANDBOX", "namespaces"), ("NETWORK", "closed")]);
    let (slow, is_slow) = mpsc::sync_channel(1);
    processes.register_tool(tool(slow));
    processes
        .deploy(&json!({"agent_name": "caller", "source_files": {"agent.py": CALLER}, "required_tools": ["probe"]}));
    let process = processes.invoke("caller", "/")[0].clone();
    let calls_with_key = |processes: &Processes| {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = processes.invoke("caller", "/");
            if answer == json!([process, 200, KEY]) {
                return;
            }
            assert!(Instant::now() < until, "{answer}\n{}", logs(dir.path()));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    calls_with_key(&processes);
    let listed = |processes: &Processes| {
        let calls = processes.call("GET", "/api/agents/caller/calls?limit=1000", &Value::Null);
        if calls.status == 200 { calls.json().as_array().unwrap().clone() } else { Vec::new() }
    };
    let until = Instant::now() + Duration::from_secs(30);
    let before = loop {
        let calls = listed(&processes);
        if calls.iter().any(|call| call["status"] == 200) {
            break calls;
        }
        assert!(Instant::now() < until, "{calls:?}");
    };

    let broken = std::thread::scope(|scope| {
        let (api, key) = (processes.api.clone(), processes.key.clone());
        let in_progress = scope.spawn(move || {
            let auth = format!("Bearer {key}");
            let body = json!({"message": "/slow"}).to_string();
            http::send(&api, "POST", "/api/agents/caller/invoke", &[("Authorization", &auth)], body.as_bytes()).unwrap()
        });
        is_slow.recv_timeout(Duration::from_secs(30)).unwrap();
        processes.kill("egress");
        in_progress.join().unwrap().json()["response"].clone()
    });
    // The client raises an exception, whether or not the answer has begun to arrive.
    assert_eq!((&broken[0], &broken[1]), (&process, &json!(0)), "{broken}");
    let began = Instant::now();
    let refused = processes.invoke("caller", "/");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((&refused[0], &refused[1]), (&process, &json!(503)), "{refused}");
    assert!(refused[2].as_str().unwrap().contains("egress cannot be reached now"), "{refused}");

    processes.start_again("egress");
    calls_with_key(&processes);
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let after = listed(&processes);
        if before.iter().all(|call| after.contains(call)) {
            break;
        }
        assert!(Instant::now() < until, "{before:?}\n{after:?}");
    }
}

#[test]
fn a_second_process_of_a_service_is_refused_on_its_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("data")).unwrap();
    let at = || format!("127.0.0.1:{}", free_port());
    for (service, listens, path) in
        [("gateway", vec!["LISTEN"], "/healthz"), ("build", vec!["REGISTRY_LISTEN", "GRPC_LISTEN"], "/v2/")]
    {
        let settings = || listens.iter().map(|key| (*key, at())).collect::<Environment>();
        let first = settings();
        let running = start(dir.path(), service, &first);
        let until = Instant::now() + Duration::from_secs(60);
        while http::send(&first[0].1, "GET", path, &[], b"").is_err() {
            assert!(Instant::now() < until, "{service} does not start: {}", logs(dir.path()));
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut second = Command::new(binary(service));
        second.env(variable(service, "DATA_DIR"), dir.path().join("data"));
        second.envs(settings().into_iter().map(|(key, value)| (variable(service, key), value)));
        let refused = second.output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        let expected = format!("another hoistway (pid {}) runs on {}", running.0.id(), dir.path().display());
        assert!(!refused.status.success() && said.contains(&expected), "{said}");
    }
}

#[test]
fn processes_with_certificates_speak_tls_and_strangers_with_the_token_are_not_answered() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    let processes = Processes::start_unready(dir.path(), &|_| Environment::new(), Some(&authority)).ready(dir.path());
    let (slow, _is_slow) = mpsc::sync_channel(1);
    processes.register_tool(tool(slow));
    for round in 0..2 {
        // The second revision takes the first one's place over.
        let source = format!("{CALLER}\n# {round}\n");
        processes.deploy(
            &json!({"agent_name": "caller", "source_files": {"agent.py": source}, "required_tools": ["probe"]}),
        );
        let answer = processes.invoke("caller", "/");
        assert_eq!(json!([answer[1], answer[2]]), json!([200, KEY]), "{}", logs(dir.path()));
    }

    // The service token alone opens nothing: neither without TLS nor with another authority's certificate.
    let token = ServiceToken::load_or_create(&dir.path().join("data/service-token")).unwrap();
    let stranger = tempfile::tempdir().unwrap();
    let other = TestAuthority::new();
    other.issue(stranger.path(), "stranger", &["127.0.0.1"]);
    // It trusts the services, which is no reason for them to trust it.
    std::fs::write(stranger.path().join("ca.pem"), format!("{}{}", authority.pem(), other.pem())).unwrap();
    let file = |name: &str| Some(stranger.path().join(name));
    let certificate = ServiceTlsConfig {
        cert_file: file("stranger.pem"),
        key_file: file("stranger-key.pem"),
        ca_file: file("ca.pem"),
        allow_plaintext: false,
    };
    let plain = ServiceTlsConfig { allow_plaintext: true, ..ServiceTlsConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (scheme, tls) in [("http", plain), ("https", certificate)] {
        let uri = format!("{scheme}://{}", processes.egress_grpc);
        let tls = tls.load().unwrap();
        let asked =
            async { EgressClient::new(Transport::connect_tls("egress", &uri, &token, &tls).unwrap()).status().await };
        assert_eq!(runtime.block_on(asked).unwrap_err().code, Code::Unavailable, "{uri}");
    }
}

/// Prints numbers for as long as it runs.
const COUNTER: &str = r#"
import itertools, threading, time

def count():
    for n in itertools.count():
        print("number", n, flush=True)
        time.sleep(0.002)

threading.Thread(target=count, daemon=True).start()

def handler(message):
    return message
"#;

#[test]
fn logs_are_followed_over_a_killed_gateway_without_a_line_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = Processes::start(dir.path(), &[]);
    let mut command = Command::new(crate::test_installation::HOISTWAY);
    command.args(["logs", "-f", "counter"]).env("RUNAGENTS_ENDPOINT", format!("http://{}", processes.api));
    command.env("RUNAGENTS_API_KEY", &processes.key).stdout(Stdio::piped()).stderr(Stdio::null());
    processes.deploy(&json!({"agent_name": "counter", "source_files": {"agent.py": COUNTER}}));
    let mut follow = Service(command.spawn().unwrap());
    let lines = BufReader::new(follow.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut numbers = lines.filter_map(|line| line.strip_prefix("number ")?.parse::<u64>().ok());
    let mut expected = 0;
    for _ in 0..3 {
        let until = expected + 200;
        while expected < until {
            assert_eq!(numbers.next(), Some(expected), "{}", logs(dir.path()));
            expected += 1;
        }
        processes.kill("gateway");
        processes.start_again("gateway");
    }
}

/// Waits until egress has synchronized with both other services.
fn egress_is_current(dir: &Path, uri: &str) {
    let token = ServiceToken::load_or_create(&dir.join("data/service-token")).unwrap();
    let current = async {
        let egress = EgressClient::new(Transport::connect("egress", uri, &token).unwrap());
        let is_current = |source: PolicySource| source.complete && source.connected && source.records > 0;
        loop {
            if egress.status().await.is_ok_and(|s| is_current(s.identities) && s.tools.complete && s.tools.connected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), current).await });
    assert!(waited.is_ok(), "egress is not current: {}", logs(dir));
}

fn logs(dir: &Path) -> String {
    ["tool-registry", "build", "agent", "egress", "gateway"]
        .map(|name| {
            format!("== {name}\n{}", std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default())
        })
        .join("\n")
}
