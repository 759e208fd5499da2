//! Hostile agents: each of them tries one thing, in each sandbox, and exactly what the documentation says is stopped.

mod table;
mod victims;

use crate::conformance::docker_image::{self, Image};
use crate::conformance::test_runtime::{self as conformance, counted, docker, until_warm};
use crate::runtime::{GRACE, LIMIT, Stage, ask, host_pid_of, until};
use hoistway_agent::{
    launcher::Limits,
    runtime::{Instance, Program, Runtime, Started, State},
    sandbox::{self, Mode, Pretend, Settings},
};
use hoistway_model::{Name, Secret};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::Read,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use table::{ATTEMPTS, COLUMNS, Column, Network};
use tempfile::TempDir;
use victims::Victims;

/// An interpreter that every user can reach.
const PYTHON: &str = "/usr/bin/python3";
/// Set where a test runs once more, as an ordinary user: a set-user-ID program of root, or nothing.
const ORDINARY: &str = "HOISTWAY_TEST_ORDINARY";

#[test]
fn the_documentation_has_the_same_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sandbox.md");
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.contains(&table::markdown()), "docs/sandbox.md must contain this table:\n{}", table::markdown());
    assert!(ATTEMPTS.len() >= 25 && ATTEMPTS.iter().all(|(.., verdicts)| verdicts.len() == COLUMNS.len()));
}

/// As root for the columns of root, and for the others once more as an ordinary user.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_documented_attempts_are_stopped() {
    if !rustix::process::geteuid().is_root() {
        let setuid = std::env::var_os(ORDINARY).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
        return try_columns(false, setuid.as_deref()).await;
    }
    let there = Path::new(PYTHON).exists() && hoistway_testing::runs("setpriv", &["true"]);
    if !hoistway_testing::need("root", there, "setpriv and /usr/bin/python3 are needed to be an ordinary user") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let setuid = dir.path().join("id");
    std::fs::copy("/usr/bin/id", &setuid).unwrap();
    std::fs::set_permissions(&setuid, std::fs::Permissions::from_mode(0o4755)).unwrap();
    try_columns(true, Some(&setuid)).await;

    let program = std::env::current_exe().unwrap();
    let ordinary = tokio::task::spawn_blocking(move || {
        Command::new("setpriv")
            .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
            .arg(program)
            .args(["--exact", "hostile::exactly_the_documented_attempts_are_stopped", "--nocapture"])
            .env(ORDINARY, setuid)
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", "/tmp")
            .env_remove("TMPDIR")
            .current_dir("/")
            .output()
            .unwrap()
    });
    let output = ordinary.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "as an ordinary user: {said}");
}

async fn try_columns(root: bool, setuid: Option<&Path>) {
    let mut wrong = Vec::new();
    for (index, column) in COLUMNS.iter().enumerate().filter(|(_, column)| column.root == root) {
        let ways = [(Network::Open, false), (Network::Closed, false), (Network::Closed, true)];
        for (network, forked) in ways.into_iter().filter(|(_, forked)| !forked || column.mode == Mode::Namespaces) {
            let rows: Vec<_> = ATTEMPTS
                .iter()
                .filter(|(_, _, of, verdicts)| *of == network && verdicts.as_bytes()[index] != b'-')
                .collect();
            if rows.is_empty() {
                continue;
            }
            let Some(mut trial) = Trial::start(column, network, setuid, forked).await else { continue };
            for (name, _, _, verdicts) in rows {
                let expected = verdicts.as_bytes()[index];
                let answer = trial.attempt(name).await;
                let reached = answer.starts_with("reached");
                let as_expected = match expected {
                    b's' => !reached,
                    b'r' => reached,
                    _ => true,
                };
                if !as_expected {
                    let name_of = column.name;
                    let name_of = if forked { format!("{name_of}, forked") } else { name_of.to_owned() };
                    wrong.push(format!("{name_of}: {name} should be '{}': {answer}", char::from(expected)));
                }
            }
            trial.end().await;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Says which processes are its own.
const HARMLESS: &str = "import os\ndef handle(line): return os.readlink('/proc/self/ns/mnt')\n";
/// The end of an attempt for the runner of real agents.
const FORKED: &str = include_str!("forked.py");
const LIMITS: Limits = Limits {
    memory: Some(256 << 20),
    processes: Some(64),
    cpu_millicores: None,
    disk: Some(24 << 20),
    open_files: Some(256),
    file_size: Some(16 << 20),
    data: None,
};

/// One sandbox with a hostile agent, a harmless one, and victims.
struct Trial {
    runtime: Arc<dyn Runtime>,
    dir: TempDir,
    /// The images of agents in containers.
    _images: Vec<Image>,
    /// Whether the agents are forked from a warm parent.
    forked: bool,
    victims: Victims,
    hostile: Instance,
    started: Started,
}

impl Trial {
    /// `None`, and said so, where this machine does not have the sandbox.
    async fn start(column: &Column, network: Network, setuid: Option<&Path>, forked: bool) -> Option<Self> {
        if column.docker {
            return Self::in_containers(setuid).await;
        }
        let python = Path::new(PYTHON).canonicalize().unwrap();
        let stage = stage(column, network, setuid, &python, forked).await?;
        let instance = |source: &str| match forked {
            true => with_own_runner(stage.instance(&format!("{source}{FORKED}")), &stage, &python),
            false => with_python(stage.instance(source), &stage, &python),
        };
        let (other, hostile) = (instance(HARMLESS), instance(include_str!("attempts.py")));
        std::fs::write(stage.dir.path().join("site/data.txt"), "not empty").unwrap();
        if forked {
            warm_up(&stage.runtime, instance(HARMLESS)).await;
        }
        let Stage { runtime, dir } = stage;
        let trial = Self::with(Arc::new(runtime), dir, other, hostile, setuid, Vec::new(), forked).await;
        let starts = |way: &str| counted(&*trial.runtime, "hoistway_agent_starts_total", way);
        assert!(!forked || starts("forked") + starts("prepared") == 2.0);
        Some(trial)
    }

    async fn in_containers(setuid: Option<&Path>) -> Option<Self> {
        if !docker_image::is_there() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let runtime = docker(dir.path(), conformance::Settings { limits: LIMITS, ..Default::default() }).await;
        let images = [HARMLESS, include_str!("attempts.py")].map(Image::with_stand_in_runner);
        let instance = |image: &Image| {
            let program = Program::Image { reference: image.0.clone() };
            Instance { program, ..crate::runtime::instance(dir.path(), "") }
        };
        let (other, hostile) = (instance(&images[0]), instance(&images[1]));
        Some(Self::with(Arc::new(runtime), dir, other, hostile, setuid, images.into(), false).await)
    }

    async fn with(
        runtime: Arc<dyn Runtime>,
        dir: TempDir,
        mut other: Instance,
        mut hostile: Instance,
        setuid: Option<&Path>,
        images: Vec<Image>,
        forked: bool,
    ) -> Self {
        let data = dir.path().join("data");
        let mut victims = Victims::new(dir.path(), &data, setuid);
        other.agent = Name::parse("name", "other").unwrap();
        other.env.push(("TOKEN".into(), Secret::new(victims::SECRET)));
        let other_started = runtime.apply(other.clone()).await.unwrap();
        tokio::time::timeout(LIMIT, other_started.ready()).await.unwrap().unwrap();
        victims.facts["other_agent"] = match forked {
            true => process_in(&conformance::ask(&other_started, "where").await).into(),
            false => host_pid_of(&other).into(),
        };
        victims.facts["other_address"] = other_started.address.clone().into();

        let image = match &hostile.program {
            Program::Unpacked { app_dir, .. } => app_dir.to_str().unwrap().to_owned(),
            Program::Image { reference } => docker_image::source_of(reference),
            other => panic!("{other:?}"),
        };
        victims.facts["image"] = image.into();
        hostile.env.push(("FACTS".into(), Secret::new(victims.facts.to_string())));
        hostile.proven = true;
        let started = runtime.apply(hostile.clone()).await.unwrap();
        tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
        Self { runtime, dir, _images: images, forked, victims, hostile, started }
    }

    /// The agent's answer; empty if it did not survive the attempt.
    async fn attempt(&mut self, name: &str) -> String {
        until(&self.started, |state| *state == State::Ready).await;
        let mut answer = self.ask(name).await;
        if answer == "again" {
            // The second request uses the result of the first.
            answer = self.ask(name).await;
        }
        // Who kills its launcher may not live to say so.
        if answer == "started" || name.starts_with("stay_behind") {
            return self.remove_and_look().await;
        }
        if let Some(port) = answer.strip_prefix("listening ") {
            return self.call(port.parse().unwrap());
        }
        if answer.is_empty() {
            // It was killed, and comes back.
            until(&self.started, |state| *state != State::Ready).await;
        }
        answer
    }

    async fn ask(&self, name: &str) -> String {
        match self.forked {
            true => match conformance::invoke(&self.started, name).await {
                Ok(answer) => answer.as_str().map_or_else(|| answer.to_string(), str::to_owned),
                Err(_) => String::new(),
            },
            false => ask(&self.started, name).await,
        }
    }

    /// Whether it is the agent that listens on this port of the machine.
    fn call(&self, port: u16) -> String {
        let Ok(mut called) = TcpStream::connect(("127.0.0.1", port)) else {
            return "stopped: nobody listens".to_owned();
        };
        called.set_read_timeout(Some(LIMIT)).unwrap();
        let mut said = String::new();
        // Whoever else it is may say anything.
        let _ = called.read_to_string(&mut said);
        let agent = said == self.victims.facts["marker"].as_str().unwrap();
        if agent { "reached".to_owned() } else { "stopped: somebody else listens".to_owned() }
    }

    /// Whether anything of the agent is left once it was deleted.
    async fn remove_and_look(&mut self) -> String {
        self.runtime.remove(&self.hostile.revision, GRACE).await.unwrap();
        self.runtime.forget(&self.hostile.agent).await.unwrap();
        let daemons = self.victims.daemons();
        for pid in &daemons {
            let _ = kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL);
        }
        let left = self.victims.left();
        self.started = self.runtime.apply(self.hostile.clone()).await.unwrap();
        tokio::time::timeout(LIMIT, self.started.ready()).await.unwrap().unwrap();
        let nothing = daemons.is_empty() && left.is_empty();
        if nothing { "stopped: nothing is left".to_owned() } else { format!("reached: {daemons:?} {left:?}") }
    }

    async fn end(self) {
        self.runtime.shutdown(GRACE).await;
        // Its changes to its own directories did not lead the supervisor astray.
        assert!(self.dir.path().join("data/master.key").exists());
    }
}

/// A runtime of processes; `None`, and said so, where this machine does not have the sandbox.
async fn stage(
    column: &Column,
    network: Network,
    setuid: Option<&Path>,
    python: &Path,
    warm_parents: bool,
) -> Option<Stage> {
    let network = match network {
        Network::Open => sandbox::Network::Open,
        Network::Closed => sandbox::Network::Closed,
    };
    let settings = Settings {
        mode: column.mode,
        network,
        egress_port: 1,
        readable: setuid.map(Path::to_owned).into_iter().collect(),
        pretend: Pretend {
            landlock_abi: column.landlock_abi,
            no_cgroups: !column.root,
            no_uids: false,
            no_namespaces: false,
        },
        ..Settings::default()
    };
    let made = Stage::try_with(|config| {
        config.sandbox = settings;
        config.python = python.to_owned();
        config.limits = LIMITS;
        config.warm_parents = warm_parents;
    });
    let stage = match made.await {
        Ok(stage) => stage,
        Err(error) => {
            hoistway_testing::need("sandbox", false, &format!("{}: {error}", column.name));
            return None;
        }
    };
    let isolation = stage.runtime.isolation();
    // Whether root has control groups is for the machine to say.
    if column.root && !(isolation.enforced.ends_with("own uid") && isolation.limits.contains("256 MiB memory,")) {
        hoistway_testing::need("cgroups", false, &format!("{}: {isolation:?}", column.name));
        return None;
    }
    if column.mode == Mode::Landlock && column.landlock_abi.is_none() && !isolation.enforced.contains("signals, ") {
        hoistway_testing::need("sandbox", false, &format!("{}: an old kernel: {isolation}", column.name));
        return None;
    }
    Some(stage)
}

/// The same with the runner of real agents, from which others can be forked.
fn with_own_runner(instance: Instance, stage: &Stage, python: &Path) -> Instance {
    let mut instance = with_python(instance, stage, python);
    let Program::Unpacked { runner, .. } = &mut instance.program else { unreachable!() };
    let own = stage.dir.path().join("own-runner");
    if !own.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/runner");
        let package = "_hoistway_runner";
        std::fs::create_dir_all(own.join(package)).unwrap();
        let modules = std::fs::read_dir(source.join(package))
            .unwrap()
            .map(|entry| Path::new(package).join(entry.unwrap().file_name()));
        for file in
            modules.filter(|file| file.extension().is_some_and(|end| end == "py")).chain(["hoistway_runner.py".into()])
        {
            std::fs::copy(source.join(&file), own.join(&file)).unwrap();
        }
    }
    *runner = own.join("hoistway_runner.py");
    instance.env.retain(|(name, _)| name != "LANG");
    instance
}

/// A forked agent's process. The kernel shows the environment of its parent, so it is found by its mount namespace.
fn process_in(namespace: &str) -> i32 {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_there = |pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|link| link == Path::new(namespace))
            && std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("hoistway_runner.py"))
    };
    let mut pids = pids;
    pids.find(is_there).unwrap_or_else(|| panic!("no process is in {namespace}"))
}

/// Has a warm parent started for agents like this one.
async fn warm_up(runtime: &dyn Runtime, instance: Instance) {
    let started = runtime.apply(instance.clone()).await.unwrap();
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    until_warm(runtime, 1.0).await;
    runtime.remove(&instance.revision, GRACE).await.unwrap();
}

/// The instance with an interpreter and a runner that every user can reach.
fn with_python(mut instance: Instance, stage: &Stage, python: &Path) -> Instance {
    let Program::Unpacked { interpreter, runner, app_dir, .. } = &mut instance.program else { unreachable!() };
    let copy = stage.dir.path().join("runner/runner.py");
    if !copy.exists() {
        std::fs::create_dir(copy.parent().unwrap()).unwrap();
        std::fs::copy(&*runner, &copy).unwrap();
    }
    for path in [app_dir.as_path(), &stage.dir.path().join("site")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    (*interpreter, *runner) = (python.to_owned(), copy);
    instance
}
