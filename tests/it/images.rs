//! Images are real: other programs pull them, and the same input makes the same image anywhere.

use crate::{
    http, need,
    stack::{Stack, says},
};
use serde_json::{Value, json};
use std::process::Command;

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn uri(deployed: &Value) -> String {
    deployed["image_uri"].as_str().unwrap().to_owned()
}

#[test]
fn skopeo_and_docker_pull_what_was_built() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let image = uri(&stack.deployed(json!({"agent_name": "pulled", "source_files": says("hi")})));
    let digest = stack.get("/api/agents/pulled")["status"]["imageDigest"].as_str().unwrap().to_owned();
    if need::skopeo() {
        let to = format!("oci:{}:x", dir.path().join("copy").display());
        run("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{image}"), &to]);
        let seen = run("skopeo", &["inspect", "--raw", &to]);
        assert_eq!(hoistway_model::Digest::of(seen.as_bytes()).to_string(), digest);
    }
    if need::docker() {
        run("docker", &["pull", "-q", &image]);
        let digests = run("docker", &["image", "inspect", "-f", "{{.RepoDigests}}", &image]);
        assert!(digests.contains(&digest), "{digests}");
        run("docker", &["rmi", "-f", &image]);
    }
}

#[test]
fn two_installations_build_the_same_image() {
    let digest = || {
        let dir = tempfile::tempdir().unwrap();
        let stack = Stack::start(dir.path());
        let body = json!({"agent_name": "same", "source_files": says("hi"), "requirements": "six==1.16.0"});
        let answer = stack.call("POST", "/api/deploy?timeout=300", Some(&body));
        assert_eq!(answer.status, 201, "{}", answer.text());
        stack.get("/api/agents/same")["status"]["imageDigest"].clone()
    };
    let (one, two) = (digest(), digest());
    assert!(one.is_string());
    assert_eq!(one, two);
}

/// The base is made by `scripts/base-image.sh`.
#[test]
fn an_image_on_a_base_is_started_by_docker_and_answers() {
    const BASE: &str = "hoistway-test-base:bookworm";
    if !need::docker() || !need::need("base-image", need::runs("docker", &["image", "inspect", BASE]), BASE) {
        return;
    }
    let python = run("docker", &["run", "--rm", "--entrypoint", "python3", BASE, "-c", MINOR]);
    let host = Command::new("/usr/bin/python3").args(["-c", MINOR]).output();
    let same = host.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim() == python);
    if !need::need("base-python", same, "the base image's Python is not /usr/bin/python3's") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--python", "/usr/bin/python3", "--base-image", "base/python:1"]);
    });
    let base = format!("{}/base/python:1", stack.registry);
    run("docker", &["login", "-u", "test", "-p", &stack.key, &stack.registry]);
    run("docker", &["tag", BASE, &base]);
    run("docker", &["push", "-q", &base]);
    run("docker", &["rmi", &base]);
    let image = uri(&stack.deployed(json!({"agent_name": "based", "source_files": says("from a container")})));
    assert_eq!(stack.answer("based", "x"), "from a container", "the process runtime runs it too");
    run("docker", &["pull", "-q", &image]);
    let id = run("docker", &["run", "-d", "--rm", "--network", "host", "-e", "PORT=18475", "--read-only", &image]);
    let answer = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        http::send("127.0.0.1:18475", "POST", "/invoke", &[], br#"{"message": "x"}"#).ok()
    });
    run("docker", &["kill", &id]);
    run("docker", &["rmi", "-f", &image]);
    run("docker", &["logout", &stack.registry]);
    assert_eq!(answer.expect("the container did not answer").json()["response"], "from a container");
}

const MINOR: &str = "import sys; print('%d.%d' % sys.version_info[:2])";
