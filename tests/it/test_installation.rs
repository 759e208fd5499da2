//! A running `hoistway up`.

use crate::http::{self, Answer};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

/// The program under test.
pub const HOISTWAY: &str = env!("CARGO_BIN_EXE_hoistway");

/// The setting that lets the build service install uv before it is needed.
pub const PREINSTALL_UV: &str = "HOISTWAY_BUILD_PREINSTALL_UV";
/// The lines of the log that a failed test prints.
const LOG_LINES: usize = 60;

/// `hoistway up` on a data directory, ended when it is dropped.
pub struct Stack {
    child: Child,
    /// `host:port` of the API.
    pub at: String,
    /// `host:port` of the registry.
    pub registry: String,
    pub key: String,
    pub dir: PathBuf,
    /// Its standard output until it was ready.
    pub screen: String,
}

/// The arguments that let agents reach everything the machine reaches.
pub const OPEN: [&str; 2] = ["--network", "open"];

impl Stack {
    /// Starts on `dir` and returns when it reports that it is ready.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| {})
    }

    /// Like [`Stack::start`], with agents that reach everything the machine reaches, including the test itself.
    pub fn start_open(dir: &Path) -> Self {
        Self::start_with(dir, |command| {
            command.args(OPEN);
        })
    }

    /// Like [`Stack::start`], with changes to the command.
    pub fn start_with(dir: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(HOISTWAY);
        command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.join("data"));
        change(&mut command);
        Self::spawn(dir, command)
    }

    /// Runs a command that prints the startup banner.
    pub fn spawn(dir: &Path, mut command: Command) -> Self {
        if let Some(url) = hoistway_testing::database_url(dir) {
            command.env("HOISTWAY_DATABASE_URL", url);
        }
        // Most tests need no packages.
        if command.get_envs().all(|(name, _)| name != PREINSTALL_UV) {
            command.env(PREINSTALL_UV, "false");
        }
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut screen = String::new();
        loop {
            match lines.next() {
                Some(Ok(line)) => screen.push_str(&format!("{line}\n")),
                _ => panic!("it ended before it was ready:\n{screen}\n{}", log_of(dir)),
            }
            if screen.ends_with("next start.\n") {
                break;
            }
        }
        // Further output is read, so that the program never blocks.
        std::thread::spawn(move || lines.for_each(drop));
        let field = |name: &str| {
            let line = screen.lines().find(|l| l.trim_start().starts_with(name)).unwrap();
            line.trim_start()[name.len()..].split_whitespace().next().unwrap().to_owned()
        };
        let at = field("API ").trim_start_matches("http://").trim_end_matches("/api").replace("localhost", "127.0.0.1");
        let key = std::fs::read_to_string(dir.join("data/api-key")).unwrap().trim().to_owned();
        Self { at, registry: field("registry"), key, dir: dir.to_owned(), screen, child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as Ctrl-C does.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.pid(), "INT");
        self.child.wait().unwrap()
    }

    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_call(method, path, body).unwrap()
    }

    pub fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Answer> {
        let key = format!("Bearer {}", self.key);
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        http::send(&self.at, method, path, &[("Authorization", &key)], body.as_bytes())
    }

    pub fn get(&self, path: &str) -> Value {
        let answer = self.call("GET", path, None);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    pub fn deploy(&self, body: Value) -> Answer {
        self.call("POST", "/api/deploy", Some(&body))
    }

    /// Deploys and expects a 201.
    pub fn deployed(&self, body: Value) -> Value {
        let answer = self.deploy(body);
        assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(&self.dir));
        answer.json()
    }

    pub fn invoke(&self, agent: &str, message: &str) -> Answer {
        self.call("POST", &format!("/api/agents/{agent}/invoke"), Some(&json!({ "message": message })))
    }

    /// Invokes and expects an answer.
    pub fn answer(&self, agent: &str, message: &str) -> Value {
        let answer = self.invoke(agent, message);
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), log_of(&self.dir));
        answer.json()["response"].clone()
    }

    /// Waits until the agent is in `phase`, and returns it.
    pub fn wait_for_phase(&self, agent: &str, phase: &str) -> Value {
        self.wait_for(&format!("/api/agents/{agent}"), phase, |shown| shown["status"]["phase"] == phase)
    }

    /// Waits until the answer at `path` is as `wanted`, polling it for at most a minute.
    pub fn wait_for(&self, path: &str, wanted: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let shown = self.call("GET", path, None).json();
            if holds(&shown) {
                return shown;
            }
            assert!(std::time::Instant::now() < until, "{path} is not {wanted}: {shown}\n{}", log_of(&self.dir));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The directory goes with the test, and a failure that shows itself once in a hundred runs is explained by it.
        if std::thread::panicking() {
            eprintln!("the end of the installation's log:\n{}", tail(&log_of(&self.dir)));
        }
    }
}

/// Returns the last lines of a log.
fn tail(log: &str) -> &str {
    let start = log.rmatch_indices('\n').nth(LOG_LINES).map_or(0, |(at, _)| at + 1);
    &log[start..]
}

/// Returns the source of an agent that answers `text`.
pub fn says(text: &str) -> Value {
    json!({ "agent.py": format!("def handler(request, context):\n    return {{'response': {text:?}}}\n") })
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success());
}

pub fn log_of(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Returns the processes whose command line contains `needle`, except this one.
pub fn processes(needle: &Path) -> Vec<String> {
    let needle = needle.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|b| b.is_ascii_digit()) || name == std::process::id().to_string() {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(needle) {
            found.push(format!("{name} {line}"));
        }
    }
    found
}
