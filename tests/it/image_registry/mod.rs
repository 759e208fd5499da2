//! Registries outside of the installation: base images come from there, and built images are pushed to and pulled from
//! there.

mod remote_bases;
mod token_server;
mod tokens;

use crate::{
    containers::{self, BASE, Installation, docker},
    http, prerequisites,
    test_installation::{Stack, log_of, says},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hoistway_testing::{ANN, Access, DockerRegistry};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Starts `hoistway up` with Debian's Python, a base image and the logins of a file.
fn start(dir: &Path, base: &str, logins: &Path, more: &[&str]) -> Stack {
    start_with_settings(dir, "", base, logins, more)
}

/// Like [`start`], with more lines in the configuration file.
fn start_with_settings(dir: &Path, settings: &str, base: &str, logins: &Path, more: &[&str]) -> Stack {
    let file = dir.join("hoistway.toml");
    std::fs::write(&file, format!("docker_config = '{}'\n{settings}\n", logins.display())).unwrap();
    Stack::start_with(dir, |command| {
        command.args(["--python", "/usr/bin/python3", "--base-image", base, "--config"]).arg(&file).args(more);
    })
}

/// Starts a registry with the base image in it; with the file of its user's login, and the image's name.
fn registry_with_base(dir: &Path, access: Access<'_>) -> Option<(DockerRegistry, PathBuf, String)> {
    let registry = DockerRegistry::start(&dir.join("registry"), access)?;
    let logins = registry.docker_config(ANN.name, ANN.password);
    let base = format!("{}/library/python:3", registry.host());
    let config = logins.parent().unwrap().to_str().unwrap();
    docker(&["tag", BASE, &base]);
    docker(&["--config", config, "push", "-q", &base]);
    docker(&["rmi", &base]);
    Some((registry, logins, base))
}

/// Reads what an image is, as any client would.
fn inspect(image: &str, logins: &Path) -> Value {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--tls-verify=false", "--authfile"]).arg(logins).arg(format!("docker://{image}"));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{image}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Reads a manifest as it is.
fn raw(image: &str, logins: &Path) -> Value {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--raw", "--tls-verify=false", "--authfile"]).arg(logins).arg(format!("docker://{image}"));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{image}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The kinds of the documents in an index, sorted.
fn kinds(index: &Value) -> Vec<&str> {
    let documents = index["manifests"].as_array().unwrap();
    let mut kinds: Vec<&str> = documents.iter().map(|document| document["artifactType"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

/// The kinds of documents that an image has.
const DOCUMENTS: [&str; 2] = ["application/vnd.cyclonedx+json", "application/vnd.in-toto+json"];

#[test]
fn the_registry_of_another_installation_is_one_too() {
    if !containers::is_possible() {
        return;
    }
    let owner = Installation::new();
    let shared = Stack::start_with(owner.path(), |command| {
        command.args(["--python", "/usr/bin/python3"]);
    });
    owner.push_base(&shared);
    let dir = Installation::new();
    let logins = dir.path().join("config.json");
    let auth = STANDARD.encode(format!("any:{}", shared.key));
    std::fs::write(&logins, json!({"auths": {&shared.registry: {"auth": auth}}}).to_string()).unwrap();
    let (base, place) = (format!("{}/base/python:1", shared.registry), format!("{}/second", shared.registry));
    let stack = start(dir.path(), &base, &logins, &["--runtime", "docker", "--image-registry", &place]);
    dir.registry_is(&shared.registry);
    let deployed = stack.deployed(json!({"agent_name": "guest", "source_files": says("from the other one")}));
    assert!(deployed["image_uri"].as_str().unwrap().starts_with(&format!("{place}/guest:")), "{deployed}");
    assert_eq!(stack.answer("guest", "x"), "from the other one");
    let digest = stack.get("/api/agents/guest")["status"]["imageDigest"].as_str().unwrap().to_owned();
    let key = format!("Bearer {}", shared.key);
    let path = format!("/v2/second/guest/referrers/{digest}");
    let listed = http::send(&shared.registry, "GET", &path, &[("Authorization", &key)], b"").unwrap().json();
    assert_eq!(kinds(&listed), DOCUMENTS);
    let tags =
        http::send(&shared.registry, "GET", "/v2/second/guest/tags/list", &[("Authorization", &key)], b"").unwrap();
    assert_eq!(tags.json()["tags"].as_array().unwrap().len(), 1, "no tag but the image's");
}

#[test]
fn the_layers_of_a_remote_base_are_copied_once_and_an_image_on_it_runs_in_a_container() {
    if !containers::is_possible() {
        return;
    }
    let dir = Installation::new();
    let Some((registry, logins, base)) = registry_with_base(dir.path(), Access::User(ANN)) else { return };
    let stack = start(dir.path(), &base, &logins, &["--runtime", "docker"]);
    dir.registry_is(&stack.registry);
    let first = stack.deployed(json!({"agent_name": "based", "source_files": says("one")}));
    assert!(first["agent"]["image_uri"].as_str().or(first["image_uri"].as_str()).unwrap().starts_with(&stack.registry));
    assert_eq!(stack.answer("based", "x"), "one");
    let reads = || registry.requests().lines().filter(|line| line.contains("GET") && line.contains("/blobs/")).count();
    let copied = reads();
    stack.deployed(json!({"agent_name": "based", "source_files": says("two")}));
    assert_eq!(stack.answer("based", "x"), "two");
    assert_eq!(reads(), copied, "the layers are here already");
}

#[test]
fn images_are_pushed_to_the_image_registry_and_agents_start_from_it() {
    if !containers::is_possible() || !prerequisites::skopeo() {
        return;
    }
    let dir = Installation::new();
    let Some((registry, logins, base)) = registry_with_base(dir.path(), Access::User(ANN)) else { return };
    let place = format!("{}/team/agents", registry.host());
    let stack = start(dir.path(), &base, &logins, &["--runtime", "docker", "--image-registry", &place]);
    dir.registry_is(registry.host());
    let deployed = stack.deployed(json!({"agent_name": "pushed", "source_files": says("from the registry")}));
    let image = deployed["image_uri"].as_str().unwrap().to_owned();
    assert!(image.starts_with(&format!("{place}/pushed:")), "{deployed}");
    assert_eq!(stack.answer("pushed", "x"), "from the registry");

    // Its layers are those of the base and ours. The base's were mounted; they were read once, for the C library.
    let layers = inspect(&image, &logins)["Layers"].as_array().unwrap().clone();
    for layer in inspect(&base, &logins)["Layers"].as_array().unwrap() {
        assert!(layers.contains(layer), "{layer} is not among {layers:?}");
        let digest = layer.as_str().unwrap();
        let requests = registry.requests();
        let of_layer =
            |part: &str| requests.lines().filter(|line| line.contains(part) && line.contains(digest)).count();
        assert!(requests.contains(&format!("mount={}", digest.replace(':', "%3A"))), "{requests}");
        assert!(of_layer("GET /v2/library/python/blobs") <= 1, "{requests}");
    }

    // Its SBOM and provenance are there too; this registry has no list of referrers, so that they are in an index.
    let digest = inspect(&image, &logins)["Digest"].as_str().unwrap().replace(':', "-");
    let index = raw(&format!("{place}/pushed:{digest}"), &logins);
    assert_eq!(kinds(&index), DOCUMENTS);
    let sbom = index["manifests"].as_array().unwrap().iter().find(|m| m["artifactType"] == DOCUMENTS[0]).unwrap();
    let manifest = raw(&format!("{place}/pushed@{}", sbom["digest"].as_str().unwrap()), &logins);
    assert_eq!(manifest["subject"]["digest"].as_str().unwrap().replace(':', "-"), digest);

    // The deployed image, by the name that users see, is like any other of that registry.
    stack.deployed(json!({"agent_name": "named", "image": image}));
    assert_eq!(stack.answer("named", "x"), "from the registry");

    // An image that is gone from the registry is pushed again by a deploy of the same source.
    std::fs::remove_dir_all(dir.path().join("registry/data/docker/registry/v2/repositories/team")).unwrap();
    let restored = json!({"agent_name": "pushed", "source_files": says("from the registry"), "description": "again"});
    stack.deployed(restored);
    assert_eq!(inspect(&image, &logins)["Layers"].as_array(), Some(&layers));
}

#[test]
fn a_registry_that_refuses_or_is_away_fails_the_deploy_with_the_cause() {
    if !containers::is_possible() {
        return;
    }
    let dir = Installation::new();
    let Some((registry, logins, base)) = registry_with_base(dir.path(), Access::User(ANN)) else { return };
    let host = registry.host().to_owned();
    let body = json!({"agent_name": "refused", "source_files": says("x")});
    let message = |stack: &Stack| {
        let refused = stack.deploy(body.clone());
        assert_eq!(refused.status, 500, "{}\n{}", refused.text(), log_of(&stack.dir));
        assert_eq!(stack.call("GET", "/api/agents/refused", None).status, 404, "nothing is left of it");
        let text = refused.text();
        assert!(!text.contains("wrong-password") && !text.contains(ANN.password), "{text}");
        refused.json()["error"].as_str().unwrap().to_owned()
    };

    let wrong = registry.docker_config("bob", "wrong-password");
    let stack = start(dir.path(), &base, &wrong, &[]);
    assert!(message(&stack).contains(&format!("the registry {host} refuses")), "{}", message(&stack));
    // Logins are read anew: once there is a good one, the same deploy succeeds.
    std::fs::copy(&logins, &wrong).unwrap();
    stack.deployed(body.clone());
    assert_eq!(stack.call("DELETE", "/api/agents/refused", None).status, 200);
    stack.stop();

    let missing = base.replace("python:3", "python:4");
    let stack = start(dir.path(), &missing, &logins, &[]);
    assert!(message(&stack).contains(&format!("the registry {host} does not have")), "{}", message(&stack));
    stack.stop();
    drop(registry);
    let stack = start(dir.path(), &base, &logins, &[]);
    assert!(message(&stack).contains(&format!("the registry {host} cannot be reached")), "{}", message(&stack));
}
