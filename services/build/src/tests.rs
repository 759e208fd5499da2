//! Builds with packages, against a package index of our own that wants a password.
#![allow(clippy::unwrap_used)]

use crate::{
    base_image::BaseImage,
    dependencies::Dependencies,
    image_retention::ImageRetention,
    metrics::BuildMetrics,
    pipeline::Pipeline,
    python::{Indexes, Interpreter, Sandbox, Target, Uv},
    registry::{BlobStore, Reference, RegistryConfig, RepoName, Space, store::find_manifest},
    service::{Builder, Limits},
    store::Store,
};
use base64::Engine;
use futures_util::StreamExt;
use hoistway_kit::db::{DatabaseConfig, Location};
use hoistway_model::{
    BuildAttemptId, BuildService, Code, Digest, Name, Operation, Secret,
    build::{BuildQuery, BuildRequest, BuildSource, BuiltImage, RebuildRequest},
    log::LogQuery,
    source::Requirements,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

pub const PASSWORD: &str = "hush-hush@9";
pub const SPELT: &str = "hush-hush%409";

/// The most bytes that packages may take unpacked.
const MOST: u64 = 1 << 20;

/// Wheels by the name of their file.
type Wheels = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The projects whose pages were asked for.
type Asked = Arc<Mutex<BTreeSet<String>>>;

/// A package index on loopback that answers nobody without the password.
pub struct Index {
    wheels: Wheels,
    asked: Asked,
    host: String,
    dir: tempfile::TempDir,
}

impl Index {
    pub async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, wheels) = (listener.local_addr().unwrap().to_string(), Wheels::default());
        let asked = Asked::default();
        let served = (wheels.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                tokio::spawn(answer(peer, served.clone()));
            }
        });
        Self { wheels, asked, host, dir: tempfile::tempdir().unwrap() }
    }

    pub fn url(&self, password: &str) -> Secret {
        Secret::new(format!("http://reader:{password}@{}/simple/", self.host))
    }

    /// The projects whose pages were asked for since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap()).into_iter().collect()
    }

    /// The newest wheel of a project.
    pub fn wheel(&self, project: &str) -> Vec<u8> {
        let wheels = self.wheels.lock().unwrap();
        let found = wheels.iter().rfind(|(file, _)| file.split('-').next() == Some(project));
        found.unwrap().1.clone()
    }

    /// Publishes a wheel with these files, and with the METADATA and RECORD among them if there are any.
    pub fn publish(&self, name: &str, version: &str, files: &[(&str, &str)]) {
        let script = "import sys, zipfile, hashlib, base64\n\
            target, name, version, *rest = sys.argv[1:]\n\
            info = f'{name}-{version}.dist-info'\n\
            files = dict(zip(rest[::2], rest[1::2]))\n\
            files.setdefault(info + '/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')\n\
            files[info + '/WHEEL'] = 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'\n\
            digest = lambda t: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b'=').decode()\n\
            record = ''.join(f'{p},sha256={digest(t)},{len(t)}\\n' for p, t in files.items())\n\
            files.setdefault(info + '/RECORD', record + info + '/RECORD,,\\n')\n\
            with zipfile.ZipFile(target, 'w') as wheel:\n\
            \x20   for path, text in files.items(): wheel.writestr(path, text)\n";
        let file = format!("{name}-{version}-py3-none-any.whl");
        let target = self.dir.path().join(&file);
        let parts = files.iter().flat_map(|(path, text)| [*path, *text]);
        let made = Command::new("python3").args(["-c", script]).arg(&target).args([name, version]).args(parts).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.wheels.lock().unwrap().insert(file, std::fs::read(target).unwrap());
    }
}

async fn answer(peer: TcpStream, (wheels, asked): (Wheels, Asked)) {
    let mut peer = BufReader::new(peer);
    let (mut lines, mut line) = (Vec::new(), String::new());
    while peer.read_line(&mut line).await.is_ok_and(|n| n > 2) {
        lines.push(std::mem::take(&mut line).trim().to_owned());
    }
    let wanted = base64::engine::general_purpose::STANDARD.encode(format!("reader:{PASSWORD}"));
    let known = lines.iter().any(|l| l.to_ascii_lowercase().starts_with("authorization:") && l.ends_with(&wanted));
    let Some((method, path)) = lines.first().and_then(|l| l.split_once(' ')) else { return };
    let path = path.split(' ').next().unwrap_or_default().to_owned();
    let body = {
        let wheels = wheels.lock().unwrap();
        let project = |file: &str| file.split('-').next().unwrap_or_default().replace('_', "-");
        match path.strip_prefix("/simple/").map(|rest| rest.trim_end_matches('/')) {
            Some(name) => {
                asked.lock().unwrap().insert(name.to_owned());
                let listed = wheels.iter().filter(|(file, _)| project(file) == name);
                let link = |(file, bytes): (&String, &Vec<u8>)| {
                    format!("<a href=\"/files/{file}#sha256={}\">{file}</a>", Digest::of(bytes).hex())
                };
                Some(listed.map(link).collect::<String>().into_bytes()).filter(|page| !page.is_empty())
            }
            None => path.strip_prefix("/files/").and_then(|file| wheels.get(file).cloned()),
        }
    };
    let (status, body) = match body {
        _ if !known => ("401 Unauthorized\r\nWWW-Authenticate: Basic", Vec::new()),
        None => ("404 Not Found", Vec::new()),
        Some(body) => ("200 OK\r\nContent-Type: text/html", body),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = peer.write_all(head.as_bytes()).await;
    if method != "HEAD" {
        let _ = peer.write_all(&body).await;
    }
    let _ = peer.shutdown().await;
}

/// A small agent that requires these packages.
pub fn request(requirements: &str, refresh: bool) -> BuildRequest {
    let files = [("agent.py", &b"def run(): return 1\n"[..]), ("model.bin", &[0, 255])];
    let files = files.map(|(name, content)| (name.to_owned(), content)).into();
    BuildRequest {
        attempt: BuildAttemptId::mint(),
        agent: agent(),
        source: BuildSource::parse(files, None, Some(requirements)).unwrap(),
        refresh,
        mask: Vec::new(),
    }
}

/// The service's database in a directory, of the engine that tests use.
pub async fn database(dir: &Path) -> Location {
    DatabaseConfig::from(hoistway_testing::database_url(dir)).location("build", dir).await.unwrap()
}

/// A build service on a directory.
pub struct Service {
    pub builder: Builder,
    pub store: Store,
    pub blobs: BlobStore,
}

impl Service {
    pub async fn open(dir: &Path, indexes: Indexes, python: Interpreter) -> Self {
        Self::with(dir, indexes, python, &RegistryConfig::default()).await
    }

    /// The same with settings of the registry.
    pub async fn with(dir: &Path, indexes: Indexes, python: Interpreter, registry: &RegistryConfig) -> Self {
        Self::open_with(dir, indexes, python, None, MOST, registry).await
    }

    /// On a base image, with a limit for unpacked packages in bytes.
    pub async fn open_with(
        dir: &Path,
        indexes: Indexes,
        python: Interpreter,
        base: Option<BaseImage>,
        most: u64,
        registry: &RegistryConfig,
    ) -> Self {
        let blobs = BlobStore::open(&dir.join("registry"), Space::keep_free(0)).unwrap();
        let store = Store::open(&database(dir).await).await.unwrap();
        let uv = Arc::new(Uv::new(dir, &indexes, Sandbox::default()).unwrap());
        let dependencies = Dependencies::open(dir, uv, python.clone(), blobs.clone(), most, 2).unwrap();
        let pipeline = Pipeline::open(python, dependencies, base, None, store.clone(), blobs.clone()).await.unwrap();
        let limits = Limits { concurrency: 2, queue: 8, timeout: Duration::from_secs(240) };
        let images = ImageRetention::new(store.clone(), blobs.clone(), registry, &None);
        let builder = Builder::new(
            pipeline,
            images,
            store.clone(),
            limits,
            BuildMetrics::new(dir.to_owned()),
            CancellationToken::new(),
        );
        Self { builder, store, blobs }
    }

    pub async fn build(&self, requirements: &str, refresh: bool) -> hoistway_model::Result<BuiltImage> {
        self.build_for(Operation::new(), requirements, refresh).await
    }

    async fn build_for(
        &self,
        operation: Operation,
        requirements: &str,
        refresh: bool,
    ) -> hoistway_model::Result<BuiltImage> {
        self.builder.build(operation, request(requirements, refresh)).await
    }

    /// The digest of the layer that has the source.
    async fn source_layer(&self, image: &BuiltImage) -> String {
        let repository: RepoName = image.repository.parse().unwrap();
        let found = find_manifest(self.store.db().read(), &repository, &Reference::Digest(image.digest)).await.unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&found.unwrap().bytes).unwrap();
        manifest["layers"].as_array().unwrap().last().unwrap()["digest"].to_string()
    }

    /// The manifest and the configuration of an image.
    pub async fn manifest_and_config(&self, image: &BuiltImage) -> [serde_json::Value; 2] {
        let repository: RepoName = image.repository.parse().unwrap();
        let found = find_manifest(self.store.db().read(), &repository, &Reference::Digest(image.digest)).await.unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&found.unwrap().bytes).unwrap();
        let digest: Digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.blobs.path(&digest)).unwrap()).unwrap();
        [manifest, config]
    }

    /// The line in the history for each layer of packages, with its digest.
    pub async fn packages(&self, image: &BuiltImage) -> Vec<(String, String)> {
        let [manifest, config] = self.manifest_and_config(image).await;
        let layers = manifest["layers"].as_array().unwrap().iter().map(|l| l["digest"].as_str().unwrap().to_owned());
        let lines = config["history"].as_array().unwrap().iter().map(|l| l["created_by"].as_str().unwrap());
        let named = lines.zip(layers).filter_map(|(l, d)| Some((l.strip_prefix("hoistway: packages ")?.to_owned(), d)));
        named.collect()
    }

    /// The files of a layer of packages.
    pub fn files(&self, digest: &str) -> BTreeMap<String, Vec<u8>> {
        let blob = std::fs::File::open(self.blobs.path(&digest.parse().unwrap())).unwrap();
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(blob));
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            files.insert(path.trim_start_matches("opt/hoistway/site-packages/").to_owned(), bytes);
        }
        files
    }
}

fn agent() -> Name {
    Name::parse("agent", "tested").unwrap()
}

/// Every file below a directory, and every one that is inside of a gzip.
fn everything(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            everything(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let mut inside = Vec::new();
            let _ = std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut inside);
            found.extend([(path.clone(), bytes), (path, inside)]);
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

pub fn names(packages: &[(String, String)]) -> Vec<&str> {
    packages.iter().map(|(name, _)| name.as_str()).collect()
}

/// Installs uv into a directory, since the test's own index has none. Nothing where that is not possible.
pub async fn with_uv(dir: &Path) -> Option<Interpreter> {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let plain = Uv::new(dir, &Indexes::default(), Sandbox::default()).unwrap();
    let nothing = Requirements::parse("requirements", "").unwrap();
    if let Err(e) = plain.resolve(&nothing, None, &Target::host(&python), Duration::from_secs(240), &|_| ()).await {
        hoistway_testing::need("pypi", false, &format!("uv cannot be installed: {e}"));
        return None;
    }
    Some(python)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_of_a_private_index_become_layers_and_leave_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let index = Index::serve().await;
    index.publish("alpha", "1.0", &[("alpha/__init__.py", "A = 1\n"), ("tests/__init__.py", "WHOSE = 'alpha'\n")]);
    index.publish("beta", "1.0", &[("beta.py", "B = 1\n"), ("tests/__init__.py", "WHOSE = 'beta'\n")]);
    index.publish("gamma_x", "1.0", &[("gamma.py", "G = 1\n"), ("alpha/plugin.py", "P = 1\n")]);
    let configured = Indexes { index: Some(index.url(SPELT)), ..Indexes::default() };
    let service = Service::open(dir.path(), configured.clone(), python.clone()).await;

    // A layer for each, and one package more is one layer more.
    let first = service.packages(&service.build("alpha\nbeta", false).await.unwrap()).await;
    assert_eq!(names(&first), ["alpha 1.0", "beta 1.0"]);
    let second = service.packages(&service.build("alpha\nbeta\ngamma-x", false).await.unwrap()).await;
    assert_eq!(names(&second), ["alpha 1.0", "beta 1.0", "gamma-x 1.0"]);
    assert_eq!(first, second[..2]);
    // The same file in two packages is in each layer as its own package has it.
    for (package, digest) in &first {
        let name = package.split(' ').next().unwrap();
        let files = service.files(digest);
        assert_eq!(files["tests/__init__.py"], format!("WHOSE = '{name}'\n").as_bytes());
        assert!(files.keys().any(|file| file.starts_with("tests/__pycache__/")), "{:?}", files.keys());
    }

    // Resolved versions stay until somebody asks for newer versions; and then stays again.
    index.publish("alpha", "2.0", &[("alpha/__init__.py", "A = 2\n")]);
    let again = service.packages(&service.build("alpha\nbeta", false).await.unwrap()).await;
    assert_eq!(again, first);
    let refreshed = service.packages(&service.build("alpha\nbeta", true).await.unwrap()).await;
    assert_eq!(names(&refreshed), ["alpha 2.0", "beta 1.0"]);
    assert_eq!(refreshed[1], first[1]);
    let image = service.build("alpha\nbeta", false).await.unwrap();
    assert_eq!(service.packages(&image).await, refreshed);

    // Another interpreter: built again out of the image alone, with the versions that it had.
    index.publish("alpha", "3.0", &[("alpha/__init__.py", "A = 3\n")]);
    let (major, minor) = python.version;
    let upgraded = Interpreter { identity: "cpython-other".into(), version: (major, minor + 1), ..python.clone() };
    drop(service);
    let service = Service::open(dir.path(), configured, upgraded).await;
    let rebuild = |digest| {
        let request = RebuildRequest { attempt: BuildAttemptId::mint(), agent: agent(), digest, mask: Vec::new() };
        service.builder.rebuild(Operation::new(), request)
    };
    let rebuilt = rebuild(image.digest).await.unwrap();
    assert_ne!(rebuilt.digest, image.digest);
    assert_eq!(rebuilt.entry_point, image.entry_point);
    assert_eq!(service.source_layer(&rebuilt).await, service.source_layer(&image).await, "binary files are in both");
    assert_eq!(names(&service.packages(&rebuilt).await), ["alpha 2.0", "beta 1.0"]);
    assert_eq!(rebuild(Digest::of(b"none")).await.unwrap_err().code, Code::ImageNotFound);

    // Nothing that was written or said has the password; nor has an error when it is wrong.
    let mut logs = String::new();
    for build in service.builder.list_builds(BuildQuery { limit: 100, ..BuildQuery::default() }).await.unwrap() {
        let pieces: Vec<_> = service.builder.build_logs(build.id, LogQuery::default()).await.unwrap().collect().await;
        logs.push_str(&format!("{pieces:?}"));
    }
    assert!(logs.contains("alpha 2.0"), "{logs}");
    drop(service);
    let wrong = Indexes { index: Some(index.url("wrong-but-secret")), ..Indexes::default() };
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("tools")).unwrap();
    for entry in std::fs::read_dir(dir.path().join("tools")).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), other.path().join("tools").join(entry.file_name())).unwrap();
    }
    let refused = Service::open(other.path(), wrong, python).await;
    let e = refused.build("alpha", false).await.unwrap_err();
    let said = format!("{e:?} {} {logs}", e.chain());
    let mut written = Vec::new();
    everything(dir.path(), &mut written);
    everything(&other.path().join("cache"), &mut written);
    assert!(written.len() > 20);
    written.push((PathBuf::from("said"), said.into_bytes()));
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("reader:{PASSWORD}"));
    for secret in [PASSWORD, SPELT, &encoded, "wrong-but-secret"] {
        for (path, bytes) in &written {
            assert!(!contains(bytes, secret), "{secret} is in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_cannot_change_what_another_brings() {
    const OWN: &str = "WHOSE = 'victim'\n";
    const EVIL: &str = "WHOSE = 'evil'\n";
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let index = Index::serve().await;
    index.publish("victim", "1.0", &[("victim.py", OWN)]);
    // It says openly that it has the file, too: the agent that wants both gets both, and is told.
    index.publish("open_evil", "1.0", &[("victim.py", EVIL)]);
    // It has the file, and says that it is the other's.
    let checksum = |text: &str| {
        let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash)
    };
    let record = format!("victim.py,sha256={},{}\n", checksum(OWN), OWN.len());
    index.publish("sly_evil", "1.0", &[("victim.py", EVIL), ("sly_evil-1.0.dist-info/RECORD", &record)]);
    // It has the other's list of files, with its own checksum in it.
    let record = format!("victim.py,sha256={},{}\n", checksum(EVIL), EVIL.len());
    index.publish("bold_evil", "1.0", &[("victim.py", EVIL), ("victim-1.0.dist-info/RECORD", &record)]);
    let configured = Indexes { index: Some(index.url(SPELT)), ..Indexes::default() };
    let service = Service::open(dir.path(), configured, python).await;

    for evil in ["sly-evil", "bold-evil"] {
        let e = service.build(&format!("{evil}\nvictim"), false).await.expect_err(evil);
        assert_eq!(e.code, Code::RequirementFailed, "{evil}: {e}");
        assert!(format!("{e} {:?}", e.details).contains(&evil.replace('-', "_")) || e.message.contains(evil), "{e:?}");
    }
    // Each is installed by a build of its own, so that no build has both before it.
    service.build("open-evil", false).await.unwrap();
    service.build("victim", false).await.unwrap();
    let both = service.packages(&service.build("open-evil\nvictim", false).await.unwrap()).await;
    service.build("open-evil\nvictim", true).await.unwrap();
    let alone = service.packages(&service.build("victim", false).await.unwrap()).await;
    assert_eq!(names(&both), ["open-evil 1.0", "victim 1.0"]);
    assert_eq!(both[1..], alone);
    assert_eq!(service.files(&alone[0].1)["victim.py"], OWN.as_bytes());
    let mut logs = String::new();
    for build in service.builder.list_builds(BuildQuery { limit: 100, ..BuildQuery::default() }).await.unwrap() {
        let pieces: Vec<_> = service.builder.build_logs(build.id, LogQuery::default()).await.unwrap().collect().await;
        logs.push_str(&format!("{pieces:?}"));
    }
    let told = logs.matches("open-evil and victim both have victim.py: victim's is used").count();
    assert_eq!(told, 2, "{logs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_that_unpack_to_more_than_is_allowed_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let index = Index::serve().await;
    // Small as a wheel, and hundreds of times as large unpacked.
    let zeros = "0".repeat(64 << 10);
    let names: Vec<String> = (0..20).map(|n| format!("bomb/{n}.txt")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), zeros.as_str())).collect();
    index.publish("bomb", "1.0", &files);
    let configured = Indexes { index: Some(index.url(SPELT)), ..Indexes::default() };
    let service = Service::open(dir.path(), configured, python).await;
    let e = service.build("bomb", false).await.unwrap_err();
    assert_eq!(e.code, Code::RequirementFailed, "{e}");
    assert!(e.message.contains("max_unpacked_bytes"), "{e}");
    // Nobody waits for the removal.
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let left = std::fs::read_dir(dir.path().join("work")).unwrap().flatten();
        let left: Vec<_> = left.flat_map(|work| std::fs::read_dir(work.path()).unwrap().flatten()).collect();
        if left.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{left:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
