//! `hoistway up --runtime docker`: agents as containers, from deploy to delete.

use crate::{
    prerequisites,
    test_installation::{Stack, log_of, says, signal},
};
use serde_json::json;
use std::{
    cell::RefCell,
    fs::File,
    path::Path,
    process::{Child, Command},
    sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The flags of such an installation.
pub const FLAGS: [&str; 4] = ["--runtime", "docker", "--base-image", "base/python:1"];

/// `scripts/base-image.sh` makes it.
pub const BASE: &str = "hoistway-test-base:bookworm";

pub fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").args(args).output().unwrap();
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

pub fn is_possible() -> bool {
    prerequisites::docker()
        && prerequisites::need("base-image", prerequisites::runs("docker", &["image", "inspect", BASE]), BASE)
}

/// An installation's directory. What its agents leave at a Docker daemon is removed with it.
pub struct Installation {
    dir: TempDir,
    registry: RefCell<String>,
}

impl Installation {
    /// Starts it, with a base image in its registry.
    fn start(&self) -> Stack {
        let stack = Stack::start_with(self.path(), |command| {
            command.args(FLAGS).args(["--python", "/usr/bin/python3"]);
        });
        self.push_base(&stack);
        stack
    }

    /// Pushes the base image to the registry of the started installation.
    pub fn push_base(&self, stack: &Stack) {
        let base = format!("{}/base/python:1", stack.registry);
        let config = self.path().join("docker");
        let config = ["--config", config.to_str().unwrap()];
        docker(&[&config[..], &["login", "-u", "test", "-p", &stack.key, &stack.registry]].concat());
        docker(&["tag", BASE, &base]);
        docker(&[&config[..], &["push", "-q", &base]].concat());
        docker(&["rmi", &base]);
        self.registry_is(&stack.registry);
    }

    /// Notes the registry that its images are pulled from.
    pub fn registry_is(&self, registry: &str) {
        registry.clone_into(&mut self.registry.borrow_mut());
    }

    /// In a new directory.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), registry: RefCell::default() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The id in its labels and its images' names, once it has had a Docker runtime.
    fn id(&self) -> Option<String> {
        let sockets = std::fs::read_dir(self.path().join("data/agent/sockets")).ok()?.next()?.ok()?;
        sockets.file_name().into_string().ok()
    }

    /// The names of its containers.
    fn containers(&self) -> Vec<String> {
        let Some(id) = self.id() else { return Vec::new() };
        let label = format!("label=dev.hoistway.installation={id}");
        docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &label]).lines().map(str::to_owned).collect()
    }

    /// The names of its images.
    fn images(&self) -> Vec<String> {
        let named = |repository: &str, format: &str| {
            // With a prefix of up to two segments.
            let depths = ["*", "*/*", "*/*/*"].map(|below| format!("reference={repository}/{below}"));
            let filters = depths.iter().flat_map(|reference| ["--filter", reference]);
            docker(&["images", "--digests", "--format", format].into_iter().chain(filters).collect::<Vec<_>>())
        };
        let Some(id) = self.id() else { return Vec::new() };
        let own = named(&format!("hoistway-{id}"), "{{.Repository}}:{{.Tag}}");
        let registry = self.registry.borrow();
        let pulled = match registry.is_empty() {
            true => String::new(),
            false => named(&registry, "{{.Repository}}@{{.Digest}}"),
        };
        own.lines().chain(pulled.lines()).map(str::to_owned).collect()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if self.id().is_none() {
            return;
        }
        for (command, names) in [("rm", self.containers()), ("rmi", self.images())] {
            let _ = Command::new("docker").args([command, "-f"]).args(names).output();
        }
    }
}

#[test]
fn agents_live_in_containers() {
    if !is_possible() {
        return;
    }
    let dir = Installation::new();
    let stack = dir.start();
    let runtime = &stack.get("/api/status")["runtime"];
    assert_eq!((&runtime["name"], &runtime["network"]), (&json!("docker"), &json!("closed")));
    assert!(runtime["isolation"].as_str().unwrap().starts_with("containers of Docker "), "{runtime}");

    // With a package, and a tool that egress leads to.
    let source = "import os, six, urllib.request
print('imported')
def handler(message):
    if message == 'tool':
        return urllib.request.urlopen(os.environ['TOOL_URL_ECHO_TOOL'] + '/echo', b'{\"message\": \"hi\"}').read().decode()
    return six.__version__ + ' ' + os.environ['KEY']
";
    let body = json!({
        "agent_name": "boxed", "source_files": {"agent.py": source}, "requirements": "six==1.16.0",
        "env": [{"name": "KEY", "value": "sk-hidden"}], "required_tools": ["echo-tool"],
    });
    stack.call("POST", "/api/starter-kit", Some(&json!({})));
    let answer = stack.call("POST", "/api/deploy?timeout=300", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), crate::test_installation::log_of(&stack.dir));
    assert_eq!(stack.answer("boxed", "x"), "1.16.0 sk-hidden");
    assert!(stack.answer("boxed", "tool").as_str().is_some_and(|echo| echo.contains("hi")), "through egress");
    assert_eq!(dir.containers().len(), 2);
    let log = stack.call("GET", "/api/agents/boxed/logs", None).text();
    assert!(log.contains("imported"), "{log}");

    let version = |v: u32| json!({"agent.py": format!("import time\ndef handler(r, c):\n    time.sleep(0.01)\n    return {{'response': {v}}}\n")});
    let (answered, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    stack.deployed(json!({"agent_name": "swapped", "source_files": version(0)}));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    assert!(stack.answer("swapped", "x").is_u64());
                    answered.fetch_add(1, SeqCst);
                }
            });
        }
        for v in 1..=3 {
            stack.deployed(json!({"agent_name": "swapped", "source_files": version(v)}));
        }
        stop.store(true, SeqCst);
    });
    assert!(answered.load(SeqCst) > 20, "{answered:?}");
    assert_eq!(stack.answer("swapped", "x"), 3);
    let back = stack.call("POST", "/api/agents/swapped/rollback", Some(&json!({})));
    assert_eq!(back.status / 100, 2, "{}", back.text());
    assert_eq!(stack.answer("swapped", "x"), 2);

    for agent in ["boxed", "swapped"] {
        assert_eq!(stack.call("DELETE", &format!("/api/agents/{agent}"), None).status / 100, 2);
    }
    assert_eq!(dir.containers(), Vec::<String>::new());
}

#[test]
fn agents_that_were_processes_are_built_again_for_containers() {
    if !is_possible() {
        return;
    }
    let dir = Installation::new();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--python", "/usr/bin/python3"]);
    });
    dir.push_base(&stack);
    let version = |version: &str| {
        let source = format!("import six\ndef handler(message):\n    return '{version} ' + six.__version__\n");
        json!({"agent_name": "moved", "source_files": {"agent.py": source}, "requirements": "six==1.16.0"})
    };
    stack.deployed(version("v1"));
    stack.deployed(version("v2"));
    stack.deployed(json!({"agent_name": "stopped", "source_files": says("it goes on")}));
    assert_eq!(stack.call("POST", "/api/agents/stopped/stop", None).status, 200);
    stack.stop();

    let stack = dir.start();
    stack.wait_for_phase("moved", "Running");
    assert_eq!(stack.answer("moved", "x"), "v2 1.16.0");
    let revisions = stack.get("/api/agents/moved/revisions");
    assert_eq!(revisions[0]["reason"], "rebuild", "{revisions}");
    assert_eq!(stack.get("/api/agents/stopped")["status"]["phase"], "Stopped");
    let started = stack.call("POST", "/api/agents/stopped/start", None);
    assert_eq!(started.status / 100, 2, "{}", started.text());
    assert_eq!(stack.answer("stopped", "x"), "it goes on");
    let back = stack.call("POST", "/api/agents/moved/rollback", Some(&json!({"revision": 1})));
    assert_eq!(back.status / 100, 2, "{}", back.text());
    assert_eq!(stack.answer("moved", "x"), "v1 1.16.0");

    // They have a base now.
    stack.stop();
    let stack = dir.start();
    stack.wait_for_phase("moved", "Running");
    let deployments = stack.get("/api/deployments");
    let rebuilds = deployments.as_array().unwrap().iter().filter(|d| d["kind"] == "rebuild").count();
    assert_eq!(rebuilds, 2, "{deployments}");
}

#[test]
fn a_killed_installation_starts_its_containers_anew() {
    if !is_possible() {
        return;
    }
    let dir = Installation::new();
    let stack = dir.start();
    stack.deployed(json!({"agent_name": "kept", "source_files": says("still here")}));
    // Its image is not there any more when its container ends.
    for name in dir.images().iter().filter(|name| name.contains("/kept")) {
        docker(&["rmi", "-f", name]);
    }
    let ended = dir.containers().into_iter().find(|name| name.ends_with("-agent")).unwrap();
    docker(&["kill", &ended]);
    stack.wait_for("/api/agents/kept", "running again", |shown| {
        shown["status"]["phase"] == "Running" && !dir.containers().contains(&ended)
    });
    assert_eq!(stack.answer("kept", "x"), "still here");

    let before = dir.containers();
    stack.kill();
    let agent = before.iter().find(|name| name.ends_with("-agent")).unwrap();
    assert!(dir.containers().contains(agent), "it is left behind");

    let stack = dir.start();
    stack.wait_for_phase("kept", "Running");
    assert_eq!(stack.answer("kept", "x"), "still here");
    let after = dir.containers();
    assert!(after.len() == 2 && !after.contains(agent), "{after:?}");
    assert!(stack.stop().success());
    assert_eq!(dir.containers(), Vec::<String>::new());
}

/// A Docker daemon of the test's own, which may be stopped.
struct DockerDaemon {
    dir: TempDir,
    process: Child,
    /// A network of the other daemon, whose bridge this one uses: without one it would remove the other's.
    bridge: Bridge,
}

struct Bridge(String);

impl Bridge {
    fn new() -> Self {
        // The name of an interface has up to 15 characters.
        let bridge = Self(format!("hoistway{}", std::process::id() % 1_000_000));
        // One of a killed run has the same name if process ids repeat.
        let _ = Command::new("docker").args(["network", "rm", &bridge.0]).output();
        docker(&["network", "create", "-o", &format!("com.docker.network.bridge.name={}", bridge.0), &bridge.0]);
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.0]).output();
    }
}

impl DockerDaemon {
    fn start() -> Self {
        let (dir, bridge) = (tempfile::tempdir().unwrap(), Bridge::new());
        let process = Self::spawn(dir.path(), &bridge);
        Self { dir, process, bridge }
    }

    fn spawn(dir: &Path, bridge: &Bridge) -> Child {
        let log = File::options().create(true).append(true).open(dir.join("dockerd.log")).unwrap();
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("dockerd.pid")]);
        command.args(["--host", &format!("unix://{}", path("docker.sock"))]);
        // What another daemon of this machine has is not touched.
        command.args([
            "--containerd-namespace",
            "hoistway-test",
            "--containerd-plugins-namespace",
            "hoistway-test-plugins",
        ]);
        command.args(["--bridge", &bridge.0, "--iptables=false", "--ip6tables=false"]);
        let mut process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut starting = EndOnDrop(Some(process.id()));
        let until = Instant::now() + Duration::from_secs(60);
        while !prerequisites::runs("docker", &["--host", &format!("unix://{}", path("docker.sock")), "info"]) {
            let log = || std::fs::read_to_string(dir.join("dockerd.log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none() && Instant::now() < until, "no Docker daemon:\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        starting.0 = None;
        process
    }

    fn socket(&self) -> String {
        self.dir.path().join("docker.sock").to_str().unwrap().to_owned()
    }

    /// Ends it as a service manager does; its containers end too.
    fn stop(&mut self) {
        signal(self.process.id(), "TERM");
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::spawn(self.dir.path(), &self.bridge);
    }
}

/// Ends a process if a test fails before it has become part of anything else.
struct EndOnDrop(Option<u32>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            signal(pid, "TERM");
        }
    }
}

impl Drop for DockerDaemon {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let host = format!("unix://{}", self.socket());
            let left = Command::new("docker").args(["--host", &host, "ps", "-q"]).output();
            let left = left.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
            let _ = Command::new("docker").args(["--host", &host, "rm", "-f"]).args(left.lines()).output();
            self.stop();
        }
    }
}

#[test]
fn agents_come_back_after_a_restart_of_the_docker_daemon() {
    if !is_possible() || !prerequisites::dockerd() {
        return;
    }
    let mut daemon = DockerDaemon::start();
    let dir = tempfile::tempdir().unwrap();
    let start = |socket: &str| {
        Stack::start_with(dir.path(), |command| {
            command.args(FLAGS).args(["--python", "/usr/bin/python3"]).env("HOISTWAY_AGENT_DOCKER__SOCKET", socket);
        })
    };
    let stack = start(&daemon.socket());
    let installation = Installation { dir: tempfile::tempdir().unwrap(), registry: RefCell::default() };
    installation.push_base(&stack);
    stack.deployed(json!({"agent_name": "kept", "source_files": says("still here")}));
    assert_eq!(stack.answer("kept", "x"), "still here");

    daemon.stop();
    // A deploy meanwhile is built, and started as soon as that is possible.
    let new = json!({"agent_name": "new", "source_files": says("new")});
    let built = stack.deployed(new);
    let warning = built["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("Pending") && warning.contains("its daemon does not answer"), "{built}");
    let answer = stack.invoke("kept", "x");
    assert!(matches!(answer.status, 502 | 503), "{} {}", answer.status, answer.text());
    daemon.restart();
    // Until it is noticed that the agent ended too, it is called `Running`.
    let until = Instant::now() + Duration::from_secs(60);
    while stack.invoke("kept", "x").status != 200 {
        assert!(Instant::now() < until, "{}", log_of(&stack.dir));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(stack.answer("kept", "x"), "still here");
    stack.wait_for_phase("new", "Running");
    assert_eq!(stack.answer("new", "x"), "new");
    assert!(stack.stop().success());
}

#[test]
fn images_that_cannot_be_containers_are_refused_with_the_reason() {
    if !is_possible() {
        return;
    }
    let dir = Installation::new();
    let stack = dir.start();
    let foreign = stack.deploy(json!({"agent_name": "foreign", "image": format!("{}/base/python:1", stack.registry)}));
    assert_eq!(foreign.json()["code"], "unsupported_image", "{}", foreign.text());
    assert!(foreign.text().contains("is not an image that Hoistway built"), "{}", foreign.text());
    stack.stop();

    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--runtime", "docker", "--python", "/usr/bin/python3"]);
    });
    let refused = stack.deploy(json!({"agent_name": "baseless", "source_files": says("x")}));
    assert_eq!(refused.json()["code"], "unsupported_image", "{}", refused.text());
    assert!(refused.text().contains("base_image"), "{}", refused.text());
}

/// An interpreter on PATH that is of another minor version than the base image's, if there is one.
fn other_python(base: &str) -> Option<String> {
    let described = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)";
    (10..=14).rev().filter(|minor| format!("3.{minor}") != base).find_map(|minor| {
        let out = Command::new(format!("python3.{minor}")).args(["-c", described]).output().ok()?;
        let text = String::from_utf8(out.stdout).ok().filter(|_| out.status.success())?;
        let (version, path) = text.trim().split_once('\n')?;
        (version == format!("3.{minor}")).then(|| path.to_owned())
    })
}

#[test]
fn agents_run_with_the_python_of_their_base_image() {
    if !is_possible() {
        return;
    }
    let describe = "import sys; print('%d.%d' % sys.version_info[:2])";
    let version = docker(&["run", "--rm", "--entrypoint", "python3", BASE, "-c", describe]);
    let Some(host) = other_python(&version) else {
        prerequisites::need("other-python", false, &format!("no python3.MINOR on PATH is another than {version}"));
        return;
    };
    let dir = Installation::new();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(FLAGS).args(["--python", &host]);
    });
    dir.push_base(&stack);
    // Its compiled part is for one version of Python only.
    let source = "import sys, markupsafe._speedups
def handler(message):
    return ['%d.%d' % sys.version_info[:2], str(markupsafe.escape('<'))]
";
    let body = json!({
        "agent_name": "other", "source_files": {"agent.py": source}, "requirements": "markupsafe==3.0.2",
    });
    let answer = stack.call("POST", "/api/deploy?timeout=300", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), crate::test_installation::log_of(&stack.dir));
    assert_eq!(stack.answer("other", "x"), json!([version, "&lt;"]));
    let build = stack.get("/api/builds")[0]["id"].as_str().unwrap().to_owned();
    let log = stack.call("GET", &format!("/api/builds/{build}/logs"), None).text();
    assert!(log.contains(&format!("for Python {version} on linux/")), "{log}");
    assert!(log.contains("modules are compiled whenever the agent starts"), "{log}");
    assert_eq!(stack.call("DELETE", "/api/agents/other", None).status / 100, 2);
    stack.stop();

    let stack = Stack::start_with(dir.path(), |command| {
        command.args(&FLAGS[2..]).args(["--python", &host]);
    });
    let refused = stack.deploy(json!({"agent_name": "process", "source_files": says("x")}));
    assert_eq!(refused.json()["code"], "unsupported_image", "{}", refused.text());
    assert!(refused.text().contains(&format!("built for Python {version} of its base image")), "{}", refused.text());
}
