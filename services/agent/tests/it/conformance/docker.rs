//! What is particular to containers.

use super::docker_image::{BASE, Image, docker, is_there};
use super::stops::container;
use super::test_runtime::{Kind, SECRET, Settings, TestRuntime, ask, docker as docker_runtime, try_docker};
use crate::runtime::{GRACE, LIMIT, until};
use hoistway_agent::runtime::{Instance, Program, Runtime, State};
use hoistway_model::{Code, Digest, image::StoredImage};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_confined_and_its_description_has_no_secret() {
    if !is_there() {
        return;
    }
    let test = TestRuntime::with(Kind::Docker, |settings| settings.limits.cpu_millicores = Some(64_000)).await;
    let source = "import os
def handler(message):
    status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
    keys = ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp')
    return [[status[key] for key in keys], os.getuid(), os.getgroups(), os.environ['STRIPE_KEY']]";
    let (instance, started) = test.ready(source).await;
    let none = "0000000000000000";
    let expected = serde_json::json!([[none, none, none, none, none, "1", "2"], 65532, [65532], SECRET]);
    assert_eq!(ask(&started, "x").await, expected.to_string());
    let revision = instance.revision.to_string();
    for role in ["agent", "network"] {
        let id = container(&revision, role);
        let described = docker(&["inspect", &id]);
        for secret in [SECRET, instance.invoke_token.expose(), instance.egress_token.expose()] {
            assert!(!described.contains(secret), "{described}");
        }
        let described: serde_json::Value = serde_json::from_str(&described).unwrap();
        let host = &described[0]["HostConfig"];
        assert_eq!((&host["ReadonlyRootfs"], &host["Privileged"]), (&true.into(), &false.into()));
        let mounts = described[0]["Mounts"].as_array().unwrap();
        if role == "agent" {
            assert!(mounts.is_empty(), "nothing of the machine is mounted: {mounts:?}");
            assert_eq!(host["Memory"], 1 << 30);
            // More processors than the machine has are no error, as they are none for processes.
            let quota = (&host["CpuQuota"], &host["CpuPeriod"], &host["PidsLimit"]);
            assert_eq!(quota, (&6_400_000.into(), &100_000.into(), &512.into()));
        } else {
            assert_eq!((mounts.len(), &mounts[0]["RW"]), (1, &false.into()));
            assert_eq!(host["NetworkMode"], "none");
        }
    }
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let label = format!("label=dev.hoistway.revision={revision}");
    assert_eq!(docker(&["ps", "-aq", "--filter", &label]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Settings { socket: "/nowhere/docker.sock".into(), ..Settings::default() };
    let error = try_docker(dir.path(), nowhere).await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.starts_with("Docker does not answer at /nowhere/docker.sock"), "{error}");

    let test = TestRuntime::new(Kind::Docker).await;
    let without_python = Image::without_python();
    for (reference, expected) in [
        (without_python.0.as_str(), "its base image has no python3 on the search path"),
        ("hoistway-test-nothing:1", "the agent's network cannot be made"),
    ] {
        let program = Program::Image { reference: reference.to_owned() };
        let instance = Instance { program, ..test.instance("def handler(message): return message").await };
        let started = test.runtime.apply(instance).await.unwrap();
        assert_eq!(started.ready().await.unwrap_err().message, expected);
    }
    test.runtime.shutdown(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_removed_and_what_is_others_is_not_touched() {
    if !is_there() {
        return;
    }
    let test = TestRuntime::new(Kind::Docker).await;
    let (instance, started) = test.ready("def handler(message): return message").await;
    let id = container(&instance.revision.to_string(), "agent");
    let installation = docker(&["inspect", "-f", "{{index .Config.Labels \"dev.hoistway.installation\"}}", &id]);
    let run = |labels: &[&str]| {
        let labels: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
        docker(&[&["run", "-d", "--rm"], labels.as_slice(), &["--entrypoint", "sleep", BASE, "600"]].concat())
    };
    let owner = format!("dev.hoistway.installation={installation}");
    let leftover = run(&[&owner, "dev.hoistway.run=earlier"]);
    let others = [run(&["dev.hoistway.installation=another", "dev.hoistway.run=x"]), run(&["dev.hoistway.run=y"])];

    // Another installation on the same daemon.
    let other_dir = tempfile::tempdir().unwrap();
    let other = docker_runtime(other_dir.path(), Settings::default()).await;
    assert_eq!(ask(&started, "still here").await, "still here");
    assert!(is_running(&leftover));
    drop(other);

    // The same one, after it was killed.
    test.runtime.shutdown(GRACE).await;
    let again = docker_runtime(test.dir.path(), Settings::default()).await;
    assert!(!is_running(&leftover));
    for other in &others {
        assert!(is_running(other));
        docker(&["rm", "-f", other]);
    }
    again.shutdown(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_no_agent_uses_are_removed_and_no_others() {
    if !is_there() {
        return;
    }
    let test = TestRuntime::new(Kind::Docker).await;
    let sockets = std::fs::read_dir(test.dir.path().join("sockets")).unwrap().next().unwrap().unwrap();
    let installation = sockets.file_name().into_string().unwrap();
    let image = Image::without_python();
    let (used, unused) = (Digest::of(b"used"), Digest::of(b"unused"));
    let name = |installation: &str, digest: &Digest| format!("hoistway-{installation}/team/agent:{}", digest.hex());
    let names = [name(&installation, &used), name("another", &unused), name(&installation, &unused)];
    for name in &names {
        docker(&["tag", &image.0, name]);
    }
    test.runtime.sweep_images(vec![StoredImage { repository: "team/agent".into(), digest: used }]).await;
    let left = docker(&["image", "inspect", "-f", "{{join .RepoTags \" \"}}", &image.0]);
    let mut left: Vec<&str> = left.split(' ').collect();
    left.sort_unstable();
    let mut expected = [names[0].as_str(), names[1].as_str()];
    expected.sort_unstable();
    assert_eq!(left, expected);
}

fn is_running(id: &str) -> bool {
    !docker(&["ps", "-q", "--no-trunc", "--filter", &format!("id={id}")]).is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_of_the_daemon_is_survived() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let daemon = Proxy::start(&socket);
    let path = socket.to_str().unwrap().to_owned();
    let test = TestRuntime::with(Kind::Docker, |settings| settings.socket = path).await;
    let source = "def handler(message):\n    print(message, flush=True)\n    return message";
    let (instance, started) = test.ready(source).await;
    let revision = instance.revision.to_string();

    // The agent goes on, and its output is not lost.
    let away = daemon.stop().await;
    assert_eq!(ask(&started, "while it was away").await, "while it was away");
    assert_eq!(started.state(), State::Ready);
    let daemon = Proxy::start(&away);
    let logged = async {
        let mut n = 0;
        while !test.log(100).await.iter().any(|line| line.starts_with("back ")) {
            n += 1;
            assert_eq!(ask(&started, &format!("back {n}")).await, format!("back {n}"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, logged).await.unwrap();

    // One that ended meanwhile starts again.
    let away = daemon.stop().await;
    docker(&["kill", &container(&revision, "agent")]);
    let _daemon = Proxy::start(&away);
    let State::Crashed { failure, .. } = until(&started, |s| matches!(s, State::Crashed { .. })).await else {
        unreachable!()
    };
    assert_eq!(failure.message, "ended while Docker was away");
    until(&started, |s| *s == State::Ready).await;
    assert_eq!(ask(&started, "again").await, "again");
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
}

/// A daemon's socket that can go away.
struct Proxy {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl Proxy {
    fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let accepting = tokio::spawn(async move {
            // Ended with this task.
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut daemon = UnixStream::connect("/var/run/docker.sock").await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut daemon).await;
                });
            }
        });
        Self { path: path.to_owned(), accepting }
    }

    async fn stop(self) -> PathBuf {
        self.accepting.abort();
        let _ = self.accepting.await;
        std::fs::remove_file(&self.path).unwrap();
        self.path
    }
}
