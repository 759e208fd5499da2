//! Base images in registries that are not the images' own, and indexes of images for several platforms.

use super::{inspect, registry_with_base, start, start_with_settings};
use crate::{
    containers::{self, BASE, Installation},
    http, prerequisites,
    test_installation::{log_of, says},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hoistway_model::Digest;
use hoistway_testing::{ANN, Access, BOB, DockerRegistry, write_docker_config};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, UdpSocket},
    path::Path,
    process::Command,
};

/// Pushes the base image to a registry that the Docker daemon would ask for TLS.
fn push_base(base: &str, logins: &Path) {
    let mut command = Command::new("skopeo");
    command.args(["copy", "-q", "--dest-tls-verify=false", "--dest-authfile"]).arg(logins);
    let out = command.arg(format!("docker-daemon:{BASE}")).arg(format!("docker://{base}")).output().unwrap();
    assert!(out.status.success(), "{base}: {}", String::from_utf8_lossy(&out.stderr));
}

/// An address of this machine that is not one of loopback. Nothing is sent: connecting only selects a route.
fn outward_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:53").unwrap();
    socket.local_addr().unwrap().ip()
}

#[test]
fn a_base_goes_from_its_registry_to_the_image_registry_with_the_login_of_each() {
    if !containers::is_possible() || !prerequisites::skopeo() {
        return;
    }
    // There a registry is asked with TLS, unless a setting says otherwise.
    let address = outward_address();
    let dir = Installation::new();
    let (bases, images) = (dir.path().join("bases"), dir.path().join("images"));
    let Some(bases) = DockerRegistry::start_at(address, &bases, Access::User(BOB)) else { return };
    let Some(images) = DockerRegistry::start(&images, Access::User(ANN)) else { return };
    let logins = dir.path().join("config.json");
    let both = [(bases.host(), BOB.name, BOB.password), (images.host(), ANN.name, ANN.password)];
    write_docker_config(&logins, &both);
    let base = format!("{}/library/python:3", bases.host());
    push_base(&base, &logins);
    let place = format!("{}/team", images.host());
    let flags = ["--runtime", "docker", "--image-registry", &place];
    let body = json!({"agent_name": "across", "source_files": says("from two registries")});

    let stack = start(dir.path(), &base, &logins, &flags);
    dir.registry_is(images.host());
    let refused = stack.deploy(body.clone());
    assert_eq!(refused.status, 500, "{}\n{}", refused.text(), log_of(&stack.dir));
    let error = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains(&format!("the registry {} cannot be reached (", bases.host())), "{error}");
    stack.stop();

    let settings = format!("insecure_registries = ['{}']", bases.host());
    let stack = start_with_settings(dir.path(), &settings, &base, &logins, &flags);
    let deployed = stack.deployed(body);
    assert_eq!(stack.answer("across", "x"), "from two registries");
    let layers = |image: &str| inspect(image, &logins)["Layers"].as_array().unwrap().clone();
    let (there, pushed) = (layers(&base), layers(deployed["image_uri"].as_str().unwrap()));
    assert_eq!(pushed[..there.len()], there, "the base's layers are the lowest ones");
    let (read, written) = (bases.requests(), images.requests());
    for layer in &there {
        let digest = layer.as_str().unwrap();
        let (plain, escaped) = (format!("/blobs/{digest}"), digest.replace(':', "%3A"));
        assert!(read.lines().any(|line| line.contains("GET") && line.contains(&plain)), "{digest}: {read}");
        assert!(written.lines().any(|line| line.contains("PUT") && line.contains(&escaped)), "{digest}: {written}");
    }
    assert!(!written.contains("mount="), "nothing can be mounted from another registry: {written}");
}

/// A repository of a registry that takes the login of [`ANN`].
struct Repository<'a> {
    host: &'a str,
    name: &'a str,
}

impl Repository<'_> {
    fn call(&self, method: &str, path: &str, kind: (&str, &str), body: &[u8]) -> http::Answer {
        let login = format!("Basic {}", STANDARD.encode(format!("{}:{}", ANN.name, ANN.password)));
        let path = path
            .strip_prefix(&format!("http://{}", self.host))
            .map_or_else(|| format!("/v2/{}/{path}", self.name), str::to_owned);
        let answer = http::send(self.host, method, &path, &[("Authorization", &login), kind], body).unwrap();
        assert!(answer.status < 300, "{method} {path}: {}", answer.text());
        answer
    }

    fn manifest(&self, tag: &str) -> Vec<u8> {
        let kinds = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
        self.call("GET", &format!("manifests/{tag}"), ("Accept", kinds), b"").body
    }

    fn blob(&self, digest: &str) -> Vec<u8> {
        self.call("GET", &format!("blobs/{digest}"), ("Accept", "*/*"), b"").body
    }

    /// Puts a blob there, and returns its digest.
    fn push_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let upload = self.call("POST", "blobs/uploads/", ("Accept", "*/*"), b"");
        let place = format!("{}&digest={digest}", upload.header("location").unwrap());
        self.call("PUT", &place, ("Content-Type", "application/octet-stream"), bytes);
        digest
    }

    /// Puts a manifest or an index there, under a tag or its digest, and returns its entry in an index.
    fn push(&self, document: &Value, tag: Option<&str>) -> Value {
        let bytes = document.to_string().into_bytes();
        let (kind, digest) = (document["mediaType"].as_str().unwrap(), Digest::of(&bytes));
        let named = tag.map_or_else(|| digest.to_string(), str::to_owned);
        self.call("PUT", &format!("manifests/{named}"), ("Content-Type", kind), &bytes);
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    }
}

#[test]
fn an_index_in_a_remote_registry_is_resolved_by_platform() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    if !containers::is_possible() {
        return;
    }
    let dir = Installation::new();
    let Some((registry, logins, base)) = registry_with_base(dir.path(), Access::User(ANN)) else { return };
    let repository = Repository { host: registry.host(), name: "library/python" };

    // The image for another platform differs in its configuration only: nothing else of it is looked at.
    let own = repository.manifest("3");
    let mut manifest: Value = serde_json::from_slice(&own).unwrap();
    let config = repository.blob(manifest["config"]["digest"].as_str().unwrap());
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    let here = config["architecture"].as_str().unwrap().to_owned();
    let other = if here == "arm64" { "amd64" } else { "arm64" };
    config["architecture"] = json!(other);
    let bytes = config.to_string();
    manifest["config"]["digest"] = json!(repository.push_blob(bytes.as_bytes()));
    manifest["config"]["size"] = json!(bytes.len());
    let mut foreign = repository.push(&manifest, None);
    foreign["platform"] = json!({"os": "linux", "architecture": other});
    let mut native = json!({"mediaType": manifest["mediaType"], "digest": Digest::of(&own), "size": own.len()});
    native["platform"] = json!({"os": "linux", "architecture": here});
    let index = |entries: &[&Value]| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    repository.push(&index(&[&foreign, &native]), Some("multi"));
    let pinned = repository.push(&index(&[&foreign]), None);

    let multi = base.replace("python:3", "python:multi");
    let stack = start(dir.path(), &multi, &logins, &["--runtime", "docker"]);
    dir.registry_is(&stack.registry);
    stack.deployed(json!({"agent_name": "multi", "source_files": says("of an index")}));
    assert_eq!(stack.answer("multi", "x"), "of an index");
    let requests = registry.requests();
    let foreign_manifest = foreign["digest"].as_str().unwrap();
    let asked = requests.lines().filter(|line| line.contains("GET") && line.contains(foreign_manifest));
    assert_eq!(asked.count(), 0, "{requests}");
    stack.stop();

    let pinned = base.replace("python:3", &format!("python@{}", pinned["digest"].as_str().unwrap()));
    let stack = start(dir.path(), &pinned, &logins, &["--runtime", "docker"]);
    let refused = stack.deploy(json!({"agent_name": "missing", "source_files": says("x")}));
    let error = refused.json()["error"].as_str().unwrap_or_default().to_owned();
    let want = format!("it has no image for linux/{here}; the platforms of its images are: linux/{other}");
    assert!(error.ends_with(&want), "{}", refused.text());
}
