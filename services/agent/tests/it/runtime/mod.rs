//! The process runtime with real launchers and a real Python. `stand_in_runner.py` speaks the runner's start protocol
//! and is small enough to misbehave on request.

mod lifecycle;
mod logs;
mod process_environment;
mod process_tree;
mod sandboxes;
mod working_dir;

use hoistway_agent::runtime::{
    Instance, ProcessConfig, ProcessRuntime, Program, RestartDelays, Runtime, StartSettings, Started, State,
};
use hoistway_agent::sandbox::{Mode, Settings};
use hoistway_model::{Name, RevisionId, Secret, framework::Framework};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// Long enough for the slowest machine; nothing waits so long unless it fails.
pub const LIMIT: Duration = Duration::from_secs(30);
pub const GRACE: Duration = Duration::from_secs(20);

/// The real interpreter behind `python3`.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let code = "import os, sys; print(os.path.realpath(sys.executable))";
        let out = Command::new("python3").args(["-c", code]).output().unwrap();
        assert!(out.status.success(), "python3 is needed");
        String::from_utf8(out.stdout).unwrap().trim().into()
    })
}

/// A runtime in a directory of its own.
pub struct Stage {
    pub runtime: ProcessRuntime,
    pub dir: TempDir,
}

/// Says which sandbox the tests of this module have; the strongest unless it is set.
const SANDBOX: &str = "HOISTWAY_TEST_SANDBOX";

fn sandbox() -> Mode {
    std::env::var(SANDBOX).map_or(Mode::Auto, |mode| mode.parse().unwrap())
}

/// A directory that tests and agents share.
fn shared(dir: &Path) -> PathBuf {
    dir.join("shared")
}

fn config(dir: &Path) -> ProcessConfig {
    std::fs::create_dir_all(shared(dir)).unwrap();
    std::fs::set_permissions(shared(dir), std::fs::Permissions::from_mode(0o777)).unwrap();
    ProcessConfig {
        sandbox: Settings { mode: sandbox(), writable: vec![shared(dir)], ..Settings::default() },
        launcher: env!("CARGO_BIN_EXE_hoistway-agent").into(),
        starts: StartSettings {
            restart_delays: RestartDelays {
                first: Duration::from_millis(20),
                longest: Duration::from_millis(80),
                forgiven_after: Duration::from_secs(60),
            },
            ..StartSettings::default()
        },
        ..ProcessConfig::new(dir.join("data"), python().into())
    }
}

impl Stage {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ProcessConfig)) -> Self {
        Self::try_with(change).await.unwrap()
    }

    pub async fn try_with(change: impl FnOnce(&mut ProcessConfig)) -> hoistway_model::Result<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        Ok(Self { runtime: ProcessRuntime::new(config).await?, dir })
    }

    pub fn instance(&self, source: &str) -> Instance {
        instance(self.dir.path(), source)
    }

    /// Starts an agent and waits until it is ready.
    async fn ready(&self, source: &str) -> (Instance, Started) {
        let instance = self.instance(source);
        let started = self.runtime.apply(instance.clone()).await.unwrap();
        tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
        (instance, started)
    }
}

pub fn instance(dir: &Path, source: &str) -> Instance {
    let revision = RevisionId::mint();
    let app_dir = dir.join(revision.simple());
    std::fs::create_dir(&app_dir).unwrap();
    std::fs::create_dir_all(dir.join("site")).unwrap();
    std::fs::write(app_dir.join("agent.py"), source).unwrap();
    Instance {
        agent: Name::parse("name", "test-agent").unwrap(),
        revision,
        program: Program::Unpacked {
            app_dir,
            site_dirs: vec![dir.join("site")],
            site_layers: vec![dir.join("site")],
            runner: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/stand_in_runner.py").into(),
            interpreter: python().into(),
        },
        env: vec![
            ("USER_ENTRY_POINT".into(), Secret::new("agent.py")),
            ("STRIPE_KEY".into(), Secret::new("sk-very-secret")),
            ("LANG".into(), Secret::new("C")),
            (MARK.into(), Secret::new(revision.simple())),
        ],
        endpoints: Vec::new(),
        egress_token: Secret::new("egress-token-1"),
        invoke_token: Secret::new("invoke-token-1"),
        mask: vec![Secret::new("sk-very-secret")],
        framework: Some(Framework::LangGraph),
        proven: false,
    }
}

/// The variable that tells one test's processes from another's.
const MARK: &str = "TEST_MARK";

/// The pid that a process of the instance has for us: it may have another one for itself.
fn host_pid(instance: &Instance, own: i32) -> i32 {
    let marked = marked(instance);
    let found = marked.iter().find(|(_, last)| *last == own).map(|(pid, _)| *pid);
    found.unwrap_or_else(|| panic!("{own} is none of {marked:?}"))
}

/// The pid of the instance's main process.
pub fn host_pid_of(instance: &Instance) -> i32 {
    marked(instance).first().unwrap().0
}

/// The living processes that have the instance's mark: what they are called here, and what they call themselves.
fn marked(instance: &Instance) -> Vec<(i32, i32)> {
    let mark = format!("{MARK}={}", instance.revision.simple());
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let has_mark = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| String::from_utf8_lossy(&env).contains(&mark))
    };
    let last = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        Some((pid, line.split_whitespace().last()?.parse().ok()?))
    };
    pids.filter(has_mark).filter_map(last).collect()
}

/// Sends one line to the agent and returns its answer; empty if it ended instead.
pub async fn ask(started: &Started, line: &str) -> String {
    let (address, line) = (started.address.clone(), format!("{line}\n"));
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        answer.trim().to_owned()
    })
    .await
    .unwrap()
}

/// Waits for a state.
pub async fn until(started: &Started, wanted: impl FnMut(&State) -> bool) -> State {
    let mut states = started.states.clone();
    let state = tokio::time::timeout(LIMIT, states.wait_for(wanted)).await.unwrap().unwrap();
    state.clone()
}

/// A process that is watched for its end.
struct Watched {
    pid: i32,
    fd: OwnedFd,
}

impl Watched {
    fn new(pid: i32) -> Self {
        Self { pid, fd: pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap() }
    }

    fn kill(&self) {
        kill_process(Pid::from_raw(self.pid).unwrap(), Signal::KILL).unwrap();
    }

    fn ends(&self) {
        let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&limit)), Ok(1), "pid {}", self.pid);
    }
}

/// The parent of a process: field 4 of its state.
fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}
