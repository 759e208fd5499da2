//! Images of agents for a Docker daemon, made of the base image of `scripts/base-image.sh`.

use hoistway_testing::{need, runs};
use std::path::Path;
use std::process::Command;

pub const BASE: &str = "hoistway-test-base:bookworm";
const RUNNER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../build/runner");

/// Whether there are a daemon and the base image.
pub fn is_there() -> bool {
    need("docker", runs("docker", &["info"]), "no Docker engine answers `docker info`")
        && need("base-image", runs("docker", &["image", "inspect", BASE]), BASE)
}

pub fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").args(args).output().unwrap();
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Where the daemon has the source of an image, if it stores images in layers on this machine.
pub fn source_of(image: &str) -> String {
    docker(&["image", "inspect", "-f", "{{.GraphDriver.Data.UpperDir}}/app", image])
}

/// An image, removed when it is dropped.
#[derive(Debug)]
pub struct Image(pub String);

impl Image {
    /// The runner, and an agent with this source.
    pub fn of(source: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        assert!(runs("cp", &["-r", RUNNER, dir.path().join("runner").to_str().unwrap()]));
        std::fs::write(dir.path().join("agent.py"), source).unwrap();
        let copies = "COPY runner /opt/hoistway/runner\nCOPY agent.py /app/agent.py\n";
        Self(build(dir.path(), &format!("FROM {BASE}\n{copies}")))
    }

    /// The small runner that speaks lines of text, and an agent with this source.
    pub fn with_stand_in_runner(source: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("runner.py"), include_str!("../stand_in_runner.py")).unwrap();
        std::fs::write(dir.path().join("agent.py"), source).unwrap();
        let copies = "COPY runner.py /opt/hoistway/runner/hoistway_runner.py\nCOPY agent.py /app/agent.py\n";
        Self(build(dir.path(), &format!("FROM {BASE}\n{copies}")))
    }

    /// An image of ours with nothing in it.
    pub fn without_python() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(build(dir.path(), "FROM scratch\nLABEL dev.hoistway.image=2\nCOPY Dockerfile /\n"))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Of a test that failed, containers are left.
        let left = docker(&["ps", "-aq", "--filter", &format!("ancestor={}", self.0)]);
        for args in [["rm", "-f"], ["rmi", "-f"]].iter().zip([left.lines().collect(), vec![self.0.as_str()]]) {
            let _ = Command::new("docker").args(args.0).args(args.1).output();
        }
    }
}

fn build(context: &Path, dockerfile: &str) -> String {
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let mut command = Command::new("docker");
    // Without a cache each image is one of its own, also among tests with the same agent.
    command.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "--no-cache"]).arg(context);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}
