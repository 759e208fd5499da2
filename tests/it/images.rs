//! Images work with other programs, and the same input builds the same image on every machine.

use crate::{
    http, prerequisites,
    test_installation::{Stack, says},
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
fn skopeo_and_docker_pull_built_images() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let image = uri(&stack.deployed(json!({"agent_name": "pulled", "source_files": says("hi")})));
    let digest = stack.get("/api/agents/pulled")["status"]["imageDigest"].as_str().unwrap().to_owned();
    if prerequisites::skopeo() {
        let to = format!("oci:{}:x", dir.path().join("copy").display());
        let creds = format!("any:{}", stack.key);
        run("skopeo", &["copy", "--src-tls-verify=false", "--src-creds", &creds, &format!("docker://{image}"), &to]);
        let seen = run("skopeo", &["inspect", "--raw", &to]);
        assert_eq!(hoistway_model::Digest::of(seen.as_bytes()).to_string(), digest);
    }
    if prerequisites::docker() {
        let config = dir.path().join("docker");
        let docker = ["--config", config.to_str().unwrap()];
        run("docker", &[&docker[..], &["login", "-u", "any", "-p", &stack.key, &stack.registry]].concat());
        run("docker", &[&docker[..], &["pull", "-q", &image]].concat());
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

/// Sends a request to the registry with the key.
fn registry(stack: &Stack, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> http::Answer {
    let key = format!("Bearer {}", stack.key);
    let headers = [&[("Authorization", key.as_str())], headers].concat();
    http::send(&stack.registry, method, path, &headers, body).unwrap()
}

#[test]
fn an_upload_resumes_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
    let digest = hoistway_model::Digest::of(&bytes);
    let stack = Stack::start(dir.path());
    let opened = registry(&stack, "POST", "/v2/team/large/blobs/uploads/", &[], b"");
    let upload = opened.header("location").unwrap().to_owned();
    let first = registry(&stack, "PATCH", &upload, &[("Content-Range", "0-999999")], &bytes[..1_000_000]);
    assert_eq!(first.status, 202, "{}", first.text());
    stack.kill();
    let stack = Stack::start(dir.path());
    let status = registry(&stack, "GET", &upload, &[], b"");
    assert_eq!((status.status, status.header("range")), (204, Some("0-999999")), "{}", status.text());
    let rest = [("Content-Range", "1000000-1599999")];
    let done = registry(&stack, "PUT", &format!("{upload}?digest={digest}"), &rest, &bytes[1_000_000..]);
    assert_eq!(done.status, 201, "{}", done.text());
    assert_eq!(registry(&stack, "GET", &format!("/v2/team/large/blobs/{digest}"), &[], b"").body, bytes);
}

#[test]
fn images_are_removed_once_no_agent_uses_them() {
    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let image = |agent: &str| {
        let agent_seen = stack.get(&format!("/api/agents/{agent}"));
        agent_seen["status"]["imageDigest"].as_str().unwrap().to_owned()
    };
    for (agent, text) in [("kept", "one"), ("kept", "two"), ("deleted", "three")] {
        stack.deployed(json!({"agent_name": agent, "source_files": says(text)}));
    }
    let (kept, deleted) = (image("kept"), image("deleted"));
    // The same image pushed by a client, and an agent that uses it.
    let manifest = registry(&stack, "GET", &format!("/v2/kept/manifests/{kept}"), &[], b"");
    let parts: Value = manifest.json();
    for part in parts["layers"].as_array().unwrap().iter().chain([&parts["config"]]) {
        let mount = format!("/v2/team/x/blobs/uploads/?mount={}&from=kept", part["digest"].as_str().unwrap());
        assert_eq!(registry(&stack, "POST", &mount, &[], b"").status, 201);
    }
    let pushed = registry(&stack, "PUT", "/v2/team/x/manifests/v1", &[("Content-Type", IMAGE)], &manifest.body);
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    let by_tag = json!({"agent_name": "pushed", "image": format!("{}/team/x:v1", stack.registry)});
    stack.deployed(by_tag);
    assert_eq!(stack.answer("pushed", "x"), "two");
    for path in [format!("/v2/kept/manifests/{kept}"), format!("/v2/team/x/manifests/{kept}")] {
        let refused = registry(&stack, "DELETE", &path, &[], b"");
        assert_eq!(refused.status, 405, "{path}: {}", refused.text());
        assert_eq!(refused.json()["errors"][0]["code"], "DENIED", "{path}");
    }
    assert_eq!(stack.call("DELETE", "/api/agents/deleted", None).status / 100, 2);
    assert_eq!(stack.call("GET", "/api/builds", None).json().as_array().unwrap().len(), 3);
    stack.stop();

    // At its start the gateway reports the images in use; the grace period is zero now.
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_BUILD_REGISTRY__GRACE_SECONDS", "0");
    });
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // Both revisions of the agent are kept, and so are their images. (Requesting the image from the registry would be a
    // use.)
    while stack.get("/api/builds").as_array().unwrap().len() != 2 {
        assert!(std::time::Instant::now() < until, "{}", crate::test_installation::log_of(&stack.dir));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(registry(&stack, "GET", &format!("/v2/deleted/manifests/{deleted}"), &[], b"").status, 404);
    for path in [format!("/v2/kept/manifests/{kept}"), "/v2/team/x/manifests/v1".to_owned()] {
        assert_eq!(registry(&stack, "GET", &path, &[], b"").status, 200, "{path}");
    }
    for agent in ["kept", "pushed"] {
        stack.wait_for_phase(agent, "Running");
    }
    assert_eq!((stack.answer("kept", "x"), stack.answer("pushed", "x")), ("two".into(), "two".into()));
}

#[test]
fn a_full_disk_is_reported_and_stops_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    stack.deployed(json!({"agent_name": "before", "source_files": says("before")}));
    stack.stop();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_BUILD_REGISTRY__MIN_FREE_BYTES", (1u64 << 60).to_string());
    });
    stack.wait_for_phase("before", "Running");
    assert_eq!(stack.answer("before", "x"), "before");
    let refused = stack.deploy(json!({"agent_name": "after", "source_files": says("after")}));
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert_eq!(refused.json()["code"], "insufficient_storage");
    let text = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(text.starts_with("build failed: ") && text.contains("nearly full"), "{text}");
    let refused = registry(&stack, "POST", "/v2/a/blobs/uploads/", &[], b"");
    assert_eq!((refused.status, &refused.json()["errors"][0]["code"]), (507, &json!("UNAVAILABLE")));
    assert_eq!(stack.call("DELETE", "/api/agents/before", None).status / 100, 2);
    assert_eq!(stack.call("GET", "/api/agents/after", None).status, 404);
}

/// `scripts/base-image.sh` makes the base image.
#[test]
fn an_image_on_a_base_is_started_by_docker_and_answers() {
    const BASE: &str = "hoistway-test-base:bookworm";
    if !prerequisites::docker()
        || !prerequisites::need("base-image", prerequisites::runs("docker", &["image", "inspect", BASE]), BASE)
    {
        return;
    }
    let python = run("docker", &["run", "--rm", "--entrypoint", "python3", BASE, "-c", MINOR]);
    let host = Command::new("/usr/bin/python3").args(["-c", MINOR]).output();
    let same = host.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim() == python);
    if !prerequisites::need("base-python", same, "the base image's Python is not /usr/bin/python3's") {
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
