//! The clients that people use, against the registry. Each is skipped, loudly, where it is not installed, and must be
//! there where `HOISTWAY_TEST_REQUIRE` names it.

use super::*;
use std::{ffi::OsStr, io::Write, process::Output};
use tokio::process::Command;

async fn run(program: &str, args: &[&str], config: Option<&Path>) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    if let Some(dir) = config {
        command.env("DOCKER_CONFIG", dir).env("REGISTRY_AUTH_FILE", dir.join("skopeo.json"));
    }
    command.args(args).stdin(std::process::Stdio::null()).output().await
}

/// Runs to success and returns what was printed.
async fn ok(program: &str, args: &[&str], config: Option<&Path>) -> String {
    let out = run(program, args, config).await.unwrap();
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(out.stdout).unwrap()
}

/// Whether the client `name` works here, by what `probe` says.
async fn available(name: &str, program: &str, probe: &[&str]) -> bool {
    let works = run(program, probe, None).await.is_ok_and(|out| out.status.success());
    hoistway_testing::need(name, works, &format!("`{program} {}` does not work here", probe.join(" ")))
}

fn layer(name: &str, content: &[u8]) -> (Vec<u8>, Digest) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    (gzip.finish().unwrap(), Digest::of(&tar))
}

/// An OCI layout of one image with two layers below `dir`; the digest of its manifest.
fn oci_layout(dir: &Path) -> Digest {
    let put = |media_type: &str, bytes: &[u8]| {
        let path = dir.join("blobs/sha256").join(Digest::of(bytes).hex());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
    };
    let noise: Vec<u8> = (0..1u32 << 20).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (small, small_id) = layer("app/hello.txt", b"hello\n");
    let (large, large_id) = layer("app/noise.bin", &noise);
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Labels": {"dev.hoistway.image": "1"}},
        "rootfs": {"type": "layers", "diff_ids": [small_id, large_id]}});
    let layers = [&small, &large].map(|bytes| put("application/vnd.oci.image.layer.v1.tar+gzip", bytes));
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    let manifest = put(OCI_MANIFEST, manifest.to_string().as_bytes());
    let digest = manifest["digest"].as_str().unwrap().parse().unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pushes_and_pulls() {
    if !available("skopeo", "skopeo", &["--version"]).await {
        return;
    }
    let r = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let digest = oci_layout(&dir.path().join("in"));
    let local = |name: &str| format!("oci:{}", dir.path().join(name).display());
    let remote = |name: &str| format!("docker://{}/{name}", r.addr);
    let (source, creds) = (local("in"), format!("anybody:{KEY}"));
    let config = Some(dir.path());
    let push = ["copy", "--dest-tls-verify=false"];

    let anonymous = run("skopeo", &[&push[..], &[&source, &remote("x/y:tag")]].concat(), config).await.unwrap();
    let error = String::from_utf8_lossy(&anonymous.stderr);
    assert!(!anonymous.status.success() && error.contains("unauthorized"), "{error}");
    ok("skopeo", &[&push[..], &["--dest-creds", &creds, &source, &remote("x/y:tag")]].concat(), config).await;
    // Again, and to a second repository: nothing is sent twice that is there.
    ok("skopeo", &[&push[..], &["--dest-creds", &creds, &source, &remote("x/y:tag")]].concat(), config).await;
    ok("skopeo", &[&push[..], &["--dest-creds", &creds, &source, &remote("z:tag")]].concat(), config).await;

    let pull = ["copy", "--src-tls-verify=false"];
    let anonymous = run("skopeo", &[&pull[..], &[&remote("x/y:tag"), &local("none")]].concat(), config).await.unwrap();
    assert!(!anonymous.status.success(), "a pull without a key");
    ok("skopeo", &[&pull[..], &["--src-creds", &creds, &remote("x/y:tag"), &local("out")]].concat(), config).await;
    let by_digest = remote(&format!("z@{digest}"));
    ok("skopeo", &[&pull[..], &["--src-creds", &creds, &by_digest, &local("out2")]].concat(), config).await;
    for out in ["out", "out2"] {
        for entry in std::fs::read_dir(dir.path().join("in/blobs/sha256")).unwrap() {
            let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
            let pulled: PathBuf =
                [dir.path().as_os_str(), OsStr::new(out), OsStr::new("blobs/sha256"), &name].iter().collect();
            assert!(std::fs::read(path).unwrap() == std::fs::read(pulled).unwrap(), "{name:?}");
        }
    }
    let tags = ok("skopeo", &["list-tags", "--tls-verify=false", "--creds", &creds, &remote("x/y")], config).await;
    assert!(tags.contains("\"tag\""), "{tags}");
    let seen = ok("skopeo", &["inspect", "--tls-verify=false", "--creds", &creds, &remote("x/y:tag")], config).await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&seen["Digest"], &seen["RepoTags"]), (&json!(digest), &json!(["tag"])));

    let delete = ["delete", "--tls-verify=false"];
    let anonymous = run("skopeo", &[&delete[..], &[&remote("x/y:tag")]].concat(), config).await.unwrap();
    assert!(!anonymous.status.success());
    ok("skopeo", &[&delete[..], &["--creds", &creds, &remote("x/y:tag")]].concat(), config).await;
    let inspect = ["inspect", "--tls-verify=false", "--creds", &creds];
    let gone = run("skopeo", &[&inspect[..], &[&remote("x/y:tag")]].concat(), config).await.unwrap();
    assert!(!gone.status.success(), "it is deleted");
    ok("skopeo", &[&inspect[..], &[&remote("z:tag")]].concat(), config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_an_index_with_all_its_images() {
    if !available("skopeo", "skopeo", &["--version"]).await {
        return;
    }
    let r = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    oci_layout(&dir.path().join("in"));
    // Two platforms, which happen to have the same image, under one name.
    let layout = dir.path().join("in");
    let entry = serde_json::from_slice::<Value>(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let entry = entry["manifests"][0].clone();
    let of = |architecture: &str| {
        let mut entry = entry.clone();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let all = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [of("amd64"), of("arm64")]});
    let (bytes, digest) = (all.to_string(), Digest::of(all.to_string().as_bytes()));
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    let index =
        json!({"schemaVersion": 2, "manifests": [{"mediaType": media_type, "digest": digest, "size": bytes.len()}]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();

    let (source, creds) = (format!("oci:{}", layout.display()), format!("anybody:{KEY}"));
    let (remote, copy) = (format!("docker://{}/multi:v1", r.addr), format!("oci:{}", dir.path().join("out").display()));
    let push = ["copy", "--all", "--dest-tls-verify=false", "--dest-creds", &creds, &source, &remote];
    ok("skopeo", &push, Some(dir.path())).await;
    assert_eq!(Digest::of(&r.get("/v2/multi/manifests/v1").await.body), digest);
    ok("skopeo", &["copy", "--all", "--src-tls-verify=false", "--src-creds", &creds, &remote, &copy], Some(dir.path()))
        .await;
    let copied = std::fs::read(dir.path().join("out/blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(copied, bytes.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_and_pulls() {
    if !available("docker", "docker", &["info"]).await {
        return;
    }
    let r = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (logged_in, anonymous) = (dir.path().join("in"), dir.path().join("out"));
    let (logged_in, anonymous) = (Some(logged_in.as_path()), Some(anonymous.as_path()));
    let host = r.addr.to_string();
    let image = format!("{host}/team/tool:v1");
    let tar = dir.path().join("root.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    // Docker does not read the header of a file with holes.
    builder.sparse(false);
    builder.append_path_with_name(std::env::current_exe().unwrap(), "bin/tool").unwrap();
    builder.finish().unwrap();
    ok("docker", &["import", tar.to_str().unwrap(), &image], None).await;

    let refused = run("docker", &["push", &image], anonymous).await.unwrap();
    assert!(!refused.status.success(), "a push without a key");
    assert!(!run("docker", &["login", "-u", "x", "-p", "wrong", &host], logged_in).await.unwrap().status.success());
    ok("docker", &["login", "-u", "x", "-p", KEY, &host], logged_in).await;
    ok("docker", &["push", &image], logged_in).await;
    // The second repository's layers are mounted from the first.
    let second = format!("{host}/team/other:v1");
    ok("docker", &["tag", &image, &second], None).await;
    ok("docker", &["push", &second], logged_in).await;
    ok("docker", &["rmi", &image, &second], None).await;
    assert!(!run("docker", &["pull", &image], anonymous).await.unwrap().status.success(), "a pull without a key");
    ok("docker", &["pull", &image], logged_in).await;
    let found = ok("docker", &["image", "inspect", "--format", "{{index .RepoDigests 0}}", &image], None).await;
    let manifest = r.get("/v2/team/tool/manifests/v1").await;
    assert_eq!(found.trim(), format!("{host}/team/tool@{}", Digest::of(&manifest.body)));
    ok("docker", &["rmi", &image], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pushes_and_pulls() {
    let sockets = ["/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"];
    let socket = sockets.into_iter().find(|path| Path::new(path).exists()).unwrap_or(sockets[0]);
    if !available("containerd", "ctr", &["-a", socket, "version"]).await {
        return;
    }
    let r = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("in");
    oci_layout(&layout);
    let tar = dir.path().join("image.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    builder.append_dir_all(".", &layout).unwrap();
    builder.finish().unwrap();

    let namespace = format!("hoistway-test-{}", r.addr.port());
    let base = ["-a", socket, "-n", &namespace, "images"];
    let image = format!("{}/team/c:v1", r.addr);
    let (creds, tar) = (format!("anybody:{KEY}"), tar.to_str().unwrap());
    let images = async |args: &[&str]| ok("ctr", &[&base[..], args].concat(), None).await;
    images(&["import", "--no-unpack", "--base-name", "local", "--index-name", &image, tar]).await;
    images(&["push", "--plain-http", "--user", &creds, &image]).await;
    images(&["rm", "--sync", &image]).await;
    images(&["pull", "--plain-http", "--skip-verify", "--all-platforms", "--user", &creds, &image]).await;
    let listed = images(&["ls", "-q"]).await;
    assert!(listed.contains(&image), "{listed}");
    images(&["rm", "--sync", &image]).await;
    ok("ctr", &["-a", socket, "namespaces", "rm", &namespace], None).await;
}
