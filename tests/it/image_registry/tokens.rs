//! Registries with a token server, and the logins that open it.

use super::{
    inspect, registry_with_base, start,
    token_server::{IDENTITY_TOKEN, TokenServer},
};
use crate::{
    containers::{self, Installation},
    prerequisites,
    test_installation::{Stack, log_of, says},
};
use hoistway_testing::{ANN, Access, DockerRegistry};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Starts a registry with a token server, and the base image in it; with the file of the login with a password, and the
/// base's name.
fn registry(dir: &Path) -> Option<(DockerRegistry, PathBuf, String)> {
    let certificate = dir.join("certificate.pem");
    let tokens = TokenServer::start(&certificate);
    registry_with_base(dir, Access::Token { realm: &tokens.url, certificate: &certificate })
}

/// Checks that the base's layers were mounted in a repository and not sent.
fn check_mounted(registry: &DockerRegistry, repository: &str, base: &str, logins: &Path) {
    let requests = registry.requests();
    for layer in inspect(base, logins)["Layers"].as_array().unwrap() {
        let digest = layer.as_str().unwrap().replace(':', "%3A");
        let of_layer = |begin: &str| -> Vec<&str> {
            let begin = format!("\"{begin} /v2/{repository}/blobs/uploads/");
            requests.lines().filter(|line| line.contains(&begin) && line.contains(&digest)).collect()
        };
        let mounted = of_layer("POST");
        assert!(mounted.len() == 1 && mounted[0].contains("mount=") && mounted[0].contains(" 201 "), "{requests}");
        assert!(of_layer("PUT").is_empty(), "{requests}");
    }
}

#[test]
fn registries_with_a_token_server_are_pulled_from_and_pushed_to() {
    if !containers::is_possible() || !prerequisites::skopeo() {
        return;
    }
    let dir = Installation::new();
    let Some((registry, logins, base)) = registry(dir.path()) else { return };
    let stack = start(dir.path(), &base, &logins, &["--runtime", "docker", "--image-registry", registry.host()]);
    dir.registry_is(registry.host());
    let deployed = stack.deployed(json!({"agent_name": "tokens", "source_files": says("with a token")}));
    assert_eq!(stack.answer("tokens", "x"), "with a token");
    inspect(deployed["image_uri"].as_str().unwrap(), &logins);
    check_mounted(&registry, "tokens", &base, &logins);
}

/// Writes a credential helper that knows a login, and returns the PATH with it.
fn credential_helper(dir: &Path, name: &str, user: &str, secret: &str) -> String {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let program = bin.join(format!("docker-credential-{name}"));
    let answer = json!({"Username": user, "Secret": secret});
    fs::write(&program, format!("#!/bin/sh\nread host\n[ \"$1\" = get ] && echo '{answer}'\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn identity_tokens_open_a_registry_with_a_token_server() {
    if !containers::is_possible() || !prerequisites::skopeo() {
        return;
    }
    let dir = Installation::new();
    let Some((registry, with_password, base)) = registry(dir.path()) else { return };
    let logins = dir.path().join("config.json");
    let write = |login: serde_json::Value| fs::write(&logins, login.to_string()).unwrap();
    write(json!({"auths": {registry.host(): {"identitytoken": "wrong-token"}}}));
    let path = credential_helper(dir.path(), "of-the-test", "<token>", IDENTITY_TOKEN);
    let file = dir.path().join("hoistway.toml");
    fs::write(&file, format!("docker_config = '{}'\n", logins.display())).unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--python", "/usr/bin/python3", "--runtime", "docker", "--base-image", &base]);
        command.args(["--image-registry", registry.host(), "--config"]).arg(&file).env("PATH", path);
    });
    dir.registry_is(registry.host());
    let body = |text: &str| json!({"agent_name": "identity", "source_files": says(text)});

    let refused = stack.deploy(body("one"));
    assert_eq!(refused.status, 500, "{}\n{}", refused.text(), log_of(&stack.dir));
    assert!(refused.text().contains(&format!("the registry {} refuses a token for {base}", registry.host())));
    assert!(!log_of(&stack.dir).contains("wrong-token"));

    write(json!({"auths": {registry.host(): {"identitytoken": IDENTITY_TOKEN}}}));
    stack.deployed(body("one"));
    assert_eq!(stack.answer("identity", "x"), "one");
    check_mounted(&registry, "identity", &base, &with_password);

    write(json!({"auths": {registry.host(): {}}, "credHelpers": {registry.host(): "of-the-test"}}));
    stack.deployed(json!({"agent_name": "helper", "source_files": says("two")}));
    assert_eq!(stack.answer("helper", "x"), "two");
    assert!(registry.requests().contains("\"PUT /v2/helper/manifests/"), "it is in the registry");
    assert!(!log_of(&stack.dir).contains(IDENTITY_TOKEN) && !log_of(&stack.dir).contains(ANN.password));
}
