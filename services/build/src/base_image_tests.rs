//! Images on bases that have another Python, platform or C library than this machine.
#![allow(clippy::unwrap_used)]

use crate::{
    base_image::BaseImage,
    image::media_type,
    layer::LayerBuilder,
    python::{Indexes, Interpreter},
    registry::{Manifest, NewTag, RegistryConfig, RepoName, store},
    remote_registry::RemoteRegistries,
    tests::{Index, SPELT, Service, names, with_uv},
};
use futures_util::StreamExt;
use hoistway_kit::registry_logins::RegistryLogins;
use hoistway_model::{
    BuildService, Code, Digest,
    build::{BuildQuery, BuiltImage},
    image::{RUNNER_PATH, label},
    log::LogQuery,
};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

/// The most bytes that packages may take unpacked.
const MOST: u64 = 64 << 20;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const GLIBC: &str = "GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.";
/// The names of C libraries in images, without and with a processor's name to come.
const LIBC: &str = "usr/lib/libc.so.6";
const MUSL: &str = "lib/ld-musl-{}.so.1";

/// A base image: its Python, its processor, the name of its C library, and a text in that.
#[derive(Clone, Copy)]
struct Base<'a> {
    python: &'a str,
    architecture: &'a str,
    libc: (&'a str, &'a str),
}

const ARM: Base<'static> = Base { python: "3.13.1", architecture: "arm64", libc: (LIBC, GLIBC) };

/// The host's version with another minor number, which this machine has no interpreter for.
fn other_minor(host: &Interpreter) -> &'static str {
    if host.version == (3, 13) { "3.12.1" } else { "3.13.1" }
}

/// Puts a manifest into the registry at `base/python:TAG`.
async fn put(service: &Service, document: &Value, kind: &str, tag: &str) -> Value {
    let bytes = serde_json::to_vec(document).unwrap();
    let manifest = Manifest::parse(Some(kind), bytes.clone().into()).unwrap();
    let repository: RepoName = "base/python".parse().unwrap();
    let txn = service.store.db().begin().await.unwrap();
    if !manifest.blobs().is_empty() {
        store::link_blobs(&txn, &repository, manifest.blobs()).await.unwrap();
    }
    let tag = NewTag { tag: tag.parse().unwrap(), immutable: false };
    store::put_manifest(&txn, &repository, &manifest, Some(&tag)).await.unwrap();
    txn.commit().await.unwrap();
    json!({"mediaType": kind, "digest": manifest.digest(), "size": bytes.len()})
}

/// Puts a base image into the registry at `base/python:TAG`.
async fn push(service: &Service, base: Base<'_>, tag: &str) -> Value {
    let Base { python, architecture, libc: (place, text) } = base;
    let (machine, kernel) = if architecture == "arm64" { (183, "aarch64") } else { (62, "x86_64") };
    let mut library = b"\x7fELF".to_vec();
    library.resize(18, 0);
    library.extend([machine, 0]);
    library.extend(text.as_bytes());
    let mut layer = LayerBuilder::new();
    layer.file(&place.replace("{}", kernel), library).unwrap();
    let (layer, bytes) = layer.to_bytes().unwrap();
    service.blobs.put_bytes(&bytes).unwrap();
    let config = json!({
        "os": "linux", "architecture": architecture, "config": {"Env": [format!("PYTHON_VERSION={python}")]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    service.blobs.put_bytes(&config).unwrap();
    let document = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST,
        "config": {"mediaType": media_type::CONFIG, "digest": Digest::of(&config), "size": config.len()},
        "layers": [{"mediaType": media_type::LAYER, "digest": layer.digest, "size": layer.size}],
    });
    let mut entry = put(service, &document, media_type::MANIFEST, tag).await;
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

async fn service(dir: &Path, indexes: Indexes, host: &Interpreter, platform: Option<&str>) -> Service {
    let remotes = Arc::new(RemoteRegistries::new(RegistryLogins::new(None), Vec::new()));
    let base = BaseImage::parse("base/python:1", platform, remotes).unwrap();
    Service::open_with(dir, indexes, host.clone(), Some(base), MOST, &RegistryConfig::default()).await
}

async fn host() -> Interpreter {
    Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap()
}

/// The logs of all builds.
async fn logs(service: &Service) -> String {
    let mut logs = String::new();
    for build in service.builder.list_builds(BuildQuery { limit: 100, ..BuildQuery::default() }).await.unwrap() {
        let mut pieces = service.builder.build_logs(build.id, LogQuery::default()).await.unwrap();
        while let Some(piece) = pieces.next().await {
            logs.push_str(&format!("{piece:?}\n"));
        }
    }
    logs
}

/// The digest of the layer above the base with a line in the history.
async fn layer(service: &Service, image: &BuiltImage, line: &str) -> String {
    let [manifest, config] = service.manifest_and_config(image).await;
    let history = config["history"].as_array().unwrap();
    let at = history.iter().position(|one| one["created_by"] == line).unwrap();
    manifest["layers"][at]["digest"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_has_the_platform_and_the_python_of_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let host = host().await;
    let alone = Service::open(dir.path(), Indexes::default(), host.clone()).await;
    let compiled = layer(&alone, &alone.build("", false).await.unwrap(), "hoistway: runtime").await;
    drop(alone);

    let service = service(dir.path(), Indexes::default(), &host, None).await;
    let (same, other) = (host.python(), other_minor(&host));
    let own = Base { python: &same, architecture: &host.architecture, libc: (LIBC, GLIBC) };
    for (base, is_compiled) in [
        (own, true),
        (Base { architecture: "arm64", ..own }, true),
        (Base { architecture: "amd64", ..own }, true),
        (Base { python: other, ..own }, false),
        (Base { python: other, architecture: "arm64", libc: (MUSL, "musl libc") }, false),
    ] {
        let minor = base.python.rsplitn(2, '.').last().filter(|_| base.python != same).unwrap_or(base.python);
        push(&service, base, "1").await;
        let image = service.build("", false).await.unwrap();
        let [_, config] = service.manifest_and_config(&image).await;
        assert_eq!((&config["os"], &config["architecture"]), (&json!("linux"), &json!(base.architecture)));
        let labels = &config["config"]["Labels"];
        assert_eq!(labels[label::PYTHON], minor);
        assert_eq!(labels[label::PLATFORM], format!("linux/{}", base.architecture));
        let runner = layer(&service, &image, "hoistway: runtime").await;
        assert_eq!(runner == compiled, is_compiled, "{} {}", base.python, base.architecture);
        let files = service.files(&runner);
        assert!(files.contains_key(RUNNER_PATH.trim_start_matches('/')), "{:?}", files.keys());
        assert_eq!(files.keys().any(|file| file.ends_with(".pyc")), is_compiled, "{:?}", files.keys());
    }
    let logs = logs(&service).await;
    assert!(logs.contains(&format!("for Python {other} on linux/arm64")), "{logs}");
    assert!(logs.contains(&format!("for Python {} on {}", host.full_version, host.platform())), "{logs}");
    assert!(logs.contains("modules are compiled whenever the agent starts"), "{logs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_as_base_is_resolved_by_platform() {
    let dir = tempfile::tempdir().unwrap();
    let host = host().await;
    let platform_of = |config: &Value| config["architecture"].as_str().unwrap().to_owned();
    let first = service(dir.path(), Indexes::default(), &host, None).await;
    let python = host.full_version.clone();
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        entries.push(push(&first, Base { python: &python, architecture, libc: (LIBC, GLIBC) }, architecture).await);
    }
    let index = |entries: &[Value]| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    put(&first, &index(&entries), INDEX, "1").await;
    let [_, config] = first.manifest_and_config(&first.build("", false).await.unwrap()).await;
    assert_eq!(platform_of(&config), host.architecture, "the host's by default");
    drop(first);

    let arm = service(dir.path(), Indexes::default(), &host, Some("linux/arm64")).await;
    let [_, config] = arm.manifest_and_config(&arm.build("", false).await.unwrap()).await;
    assert_eq!(platform_of(&config), "arm64");
    put(&arm, &index(&entries[..1]), INDEX, "1").await;
    let e = arm.build("", false).await.unwrap_err();
    let want = "the base image \"base/python:1\" cannot be used: it has no image for linux/arm64; the platforms of its \
                images are: linux/amd64";
    assert_eq!((e.code, e.message.as_str()), (Code::UnsupportedImage, want));
    push(&arm, Base { architecture: "amd64", ..ARM }, "1").await;
    let e = arm.build("", false).await.unwrap_err();
    assert!(e.message.ends_with("it is for linux/amd64, and the setting platform is linux/arm64"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_that_no_agent_can_be_on_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path(), Indexes::default(), &host().await, None).await;
    let e = service.build("", false).await.unwrap_err();
    assert_eq!(e.message, "the base image \"base/python:1\" is not in the registry: push it there first");
    for (base, want) in [
        (Base { python: "3.9.20", ..ARM }, "it has Python 3.9.20; agents need Python 3.10 or newer"),
        (
            Base { architecture: "riscv64", ..ARM },
            "it is for linux/riscv64; only linux/amd64 and linux/arm64 are supported",
        ),
        (Base { libc: ("etc/x", ""), ..ARM }, "neither glibc's libc.so.6 nor musl's loader was found in its layers"),
    ] {
        push(&service, base, "1").await;
        let e = service.build("", false).await.unwrap_err();
        assert_eq!(e.code, Code::UnsupportedImage);
        assert_eq!(e.message, format!("the base image \"base/python:1\" cannot be used: {want}"));
    }
}

/// Checks that every library in a package's layer is for a processor, and a tag in its WHEEL.
fn check_native(service: &Service, digest: &str, machine: u8, tags: [&str; 2]) {
    let files = service.files(digest);
    let libraries: Vec<_> = files.iter().filter(|(path, _)| path.ends_with(".so")).collect();
    assert!(!libraries.is_empty(), "{:?}", files.keys());
    for (path, bytes) in libraries {
        assert_eq!((&bytes[..4], bytes[18]), (&b"\x7fELF"[..], machine), "{path}");
    }
    let (_, wheel) = files.iter().find(|(path, _)| path.ends_with(".dist-info/WHEEL")).unwrap();
    let wheel = String::from_utf8_lossy(wheel);
    assert!(tags.iter().all(|tag| wheel.contains(tag)), "{tags:?}: {wheel}");
    assert!(!files.keys().any(|path| path.ends_with(".pyc")), "{:?}", files.keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_are_those_for_the_bases_python_and_platform() {
    const WANTED: &str = "markupsafe==3.0.2\npydantic-core==2.33.2\ncolorama==0.4.6 ; platform_machine == 'aarch64'\n\
                          idna==3.10 ; python_version < '3.12'\n";
    let dir = tempfile::tempdir().unwrap();
    let Some(host) = with_uv(dir.path()).await else { return };
    let service = service(dir.path(), Indexes::default(), &host, None).await;
    let other = other_minor(&host);
    let tag = if other.starts_with("3.13") { "cp313-cp313" } else { "cp312-cp312" };
    for (architecture, libc, machine, native) in
        [("arm64", (LIBC, GLIBC), 183, "manylinux_2_17_aarch64"), ("amd64", (MUSL, "musl libc"), 62, "musllinux_1_")]
    {
        push(&service, Base { python: other, architecture, libc }, "1").await;
        let packages = service.packages(&service.build(WANTED, false).await.unwrap()).await;
        let mut want = vec!["markupsafe 3.0.2", "pydantic-core 2.33.2", "typing-extensions"];
        if architecture == "arm64" {
            want.insert(0, "colorama 0.4.6");
        }
        let all: Vec<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(all.len(), want.len(), "markers are the target's: {all:?}");
        assert!(want.iter().all(|name| all.iter().any(|one| one.starts_with(name))), "{all:?}");
        let native_ones =
            packages.iter().filter(|(name, _)| ["markup", "pydantic"].iter().any(|one| name.starts_with(one)));
        for (_, digest) in native_ones {
            check_native(&service, digest, machine, [tag, native]);
        }
    }
    // There are wheels of it, but none for this processor; and of the other one there are only sources.
    push(&service, Base { python: "3.11.9", ..ARM }, "1").await;
    for (wanted, named) in [("triton==2.1.0", "triton 2.1.0"), ("uwsgi", "uwsgi")] {
        let e = service.build(wanted, false).await.unwrap_err();
        let want =
            format!("{named} has no wheel that fits Python 3.11 on linux/arm64 (glibc 2.36), and only wheels are");
        assert!(e.code == Code::RequirementFailed && e.message.contains(&want), "{e}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_target_has_a_lock_and_layers_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let Some(host) = with_uv(dir.path()).await else { return };
    let index = Index::serve().await;
    let indexes = Indexes { index: Some(index.url(SPELT)), ..Indexes::default() };
    index.publish("alpha", "1.0", &[("alpha/__init__.py", "A = 1\n")]);
    let service = service(dir.path(), indexes, &host, None).await;
    let (python, other) = (host.full_version.clone(), other_minor(&host));
    let own = Base { python: &python, architecture: &host.architecture, libc: (LIBC, GLIBC) };
    push(&service, own, "1").await;
    let first = service.packages(&service.build("alpha", false).await.unwrap()).await;
    index.publish("alpha", "2.0", &[("alpha/__init__.py", "A = 2\n")]);
    push(&service, Base { python: other, ..own }, "1").await;
    let foreign = service.packages(&service.build("alpha", false).await.unwrap()).await;
    assert_eq!((names(&foreign), names(&first)), (vec!["alpha 1.0"], vec!["alpha 1.0"]), "the version is kept");
    assert_ne!(foreign, first);
    let compiled = |digest: &str| service.files(digest).keys().any(|path| path.ends_with(".pyc"));
    assert!(compiled(&first[0].1) && !compiled(&foreign[0].1));
    let refreshed = service.packages(&service.build("alpha", true).await.unwrap()).await;
    assert_eq!(names(&refreshed), ["alpha 2.0"]);
    push(&service, own, "1").await;
    let again = service.packages(&service.build("alpha", false).await.unwrap()).await;
    assert_eq!(again, first, "its lock was left as it was");
    let logs = logs(&service).await;
    assert!(logs.contains("another Python or platform than before: versions are kept where they still fit"), "{logs}");
}
