#![allow(clippy::unwrap_used)]
use super::*;
use crate::python::installed::take_stock;
use std::sync::Mutex;

const LIMIT: Duration = Duration::from_secs(240);

fn driver(data: &Path, extra: &[(&str, &str)]) -> Uv {
    let extra = extra.iter().map(|(n, v)| (n.to_string(), v.to_string()));
    Uv::with(data, Settings::of(env::vars().chain(extra)), Sandbox::default())
}

fn requirements(text: &str) -> Requirements {
    Requirements::parse("requirements", text).unwrap()
}

async fn python() -> Target {
    Target::host(&Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap())
}

/// Whether the package index is out of reach, which is a loud skip, or a failure where the operator says that it
/// must be there.
fn unreachable<T: std::fmt::Debug>(outcome: &Result<T>) -> bool {
    let Err(e) = outcome else { return false };
    let signs = ["index did not answer", "error sending request", "uv 0.13.9 could not be installed"];
    if !signs.iter().any(|sign| e.message.contains(sign)) {
        return false;
    }
    !hoistway_testing::need("pypi", false, &format!("the package index cannot be reached: {e}"))
}

/// Makes a wheel, and prints a lock of it.
const WHEEL: &str = r#"
import base64, hashlib, json, sys, zipfile
name, path, files = sys.argv[1], f"{sys.argv[2]}/{sys.argv[1]}-1.0-py3-none-any.whl", json.loads(sys.argv[3])
files[f"{name}-1.0.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
files[f"{name}-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
record = [f"{file},sha256={digest(text)},{len(text)}\n" for file, text in files.items()]
files[f"{name}-1.0.dist-info/RECORD"] = "".join([*record, f"{name}-1.0.dist-info/RECORD,,\n"])
with zipfile.ZipFile(path, "w") as wheel:
    for file, text in files.items(): wheel.writestr(file, text)
with open(path, "rb") as wheel:
    print(f"{name}==1.0 --hash=sha256:{hashlib.sha256(wheel.read()).hexdigest()}")
"#;

/// Makes a wheel in `dir`, and returns a lock of it.
fn wheel(dir: &Path, name: &str, files: serde_json::Value) -> String {
    let mut made = std::process::Command::new("python3");
    let made = made.args(["-c", WHEEL, name]).arg(dir).arg(files.to_string()).output().unwrap();
    let line = String::from_utf8(made.stdout).unwrap();
    line.replace(" --hash", " \\\n    --hash")
}

#[tokio::test]
async fn wheels_that_cannot_be_taken_from_the_cache_are_left_out_and_can_be_installed() {
    let dir = tempfile::tempdir().unwrap();
    let plain = wheel(dir.path(), "plain", serde_json::json!({"plain.py": "x = 1\n"}));
    let tool = wheel(dir.path(), "tool", serde_json::json!({"tool-1.0.data/scripts/tool": "#!/bin/sh\n"}));
    let file = wheel(dir.path(), "file", serde_json::json!({"shared": "x"}));
    let package = wheel(dir.path(), "package", serde_json::json!({"shared/__init__.py": "x = 1\n"}));
    let python = python().await;
    // It may have to be installed first.
    if unreachable(&driver(dir.path(), &[]).program(python.interpreter(), &|_| ()).await.map(drop)) {
        return;
    }
    let uv = driver(dir.path(), &[("UV_FIND_LINKS", dir.path().to_str().unwrap()), ("UV_OFFLINE", "true")]);
    let lock =
        |entries: &[&String]| Lock::parse(&entries.iter().map(|entry| entry.as_str()).collect::<String>()).unwrap();

    let found = uv.fetch(&lock(&[&plain, &tool]), &dir.path().join("one"), &python, LIMIT).await.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["plain"], "{found:?}");
    // Not in one directory: what is missing is installed alone.
    let found = uv.fetch(&lock(&[&plain, &file, &package]), &dir.path().join("two"), &python, LIMIT).await.unwrap();
    assert!(!(found.contains_key("file") && found.contains_key("package")), "{found:?}");
    for (name, directory) in found {
        assert!(take_stock(&directory, &name).unwrap().is_some(), "{name}");
    }
    for (name, entry) in [("tool", &tool), ("file", &file), ("package", &package)] {
        let alone = dir.path().join(format!("alone-{name}"));
        uv.install(&lock(&[entry]), &alone, &python, LIMIT, &|_| ()).await.unwrap();
        assert!(take_stock(&alone, name).unwrap().is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_package_is_locked_and_installed() {
    let dir = tempfile::tempdir().unwrap();
    let (uv, python) = (driver(dir.path(), &[]), python().await);
    uv.available(python.interpreter()).unwrap();
    let lines = Mutex::new(Vec::new());
    let report = |line: &str| lines.lock().unwrap().push(line.to_owned());
    let lock = uv.resolve(&requirements("six==1.17.0"), None, &python, LIMIT, &report).await;
    if unreachable(&lock) {
        return;
    }
    let lock = lock.unwrap();
    assert_eq!(lock.packages(), [("six".to_owned(), "1.17.0".to_owned())]);
    assert!(lines.lock().unwrap().iter().any(|l| l.starts_with("Resolved 1 package")), "{lines:?}");

    let target = dir.path().join("site");
    uv.install(&lock, &target, &python, LIMIT, &report).await.unwrap();
    assert!(target.join("six.py").is_file());
    let wheels = uv.fetch(&lock, &dir.path().join("links"), &python, LIMIT).await.unwrap();
    let [installed, wheel] = [&target, &wheels["six"]].map(|root| take_stock(root, "six").unwrap().unwrap());
    assert_eq!((installed.files, installed.written), (wheel.files, wheel.written));

    let forged = Lock::parse(&format!("six==1.17.0 \\\n    --hash=sha256:{}\n", "0".repeat(64))).unwrap();
    let e = uv.install(&forged, &dir.path().join("forged"), &python, LIMIT, &report).await.unwrap_err();
    assert_eq!(e.code, Code::RequirementFailed);
    assert!(!dir.path().join("forged/six.py").exists());
    let e = uv.fetch(&forged, &dir.path().join("forged-links"), &python, LIMIT).await.unwrap_err();
    assert!(e.code == Code::RequirementFailed && e.message.contains("six"), "{e:?}");

    let e = uv.resolve(&requirements("no-such-package-zzz==1"), None, &python, LIMIT, &report).await.unwrap_err();
    assert_eq!(e.code, Code::RequirementFailed);
    assert!(e.message.contains("no-such-package-zzz") && !e.details.is_empty(), "{e:?}");
    assert!(!format!("{e:?}").contains(dir.path().to_str().unwrap()), "{e:?}");

    // Bounds hold and add nothing; of a package with hashes only those files may be installed.
    let (wheel, other) = ("8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254", "0".repeat(64));
    let bounded = format!("six --hash=sha256:{wheel}\n~ six==1.16.0\n~ idna<3\n");
    let lock = uv.resolve(&requirements(&bounded), None, &python, LIMIT, &report).await.unwrap();
    assert_eq!(lock.text(), format!("six==1.16.0 \\\n    --hash=sha256:{wheel}\n"));
    let wrong = requirements(&format!("six==1.16.0 --hash=sha256:{other}"));
    let e = uv.resolve(&wrong, None, &python, LIMIT, &report).await.unwrap_err();
    assert!(e.message.contains("no file of six 1.16.0 has a hash"), "{e:?}");

    // All versions of this age are source distributions.
    let e = uv.resolve(&requirements("requests<1"), None, &python, LIMIT, &report).await.unwrap_err();
    assert!(e.message.contains("requests has no wheel"), "{e:?}");
    assert!(e.message.contains("; requests 2.") && e.message.ends_with(" has one: leave the version out"), "{e:?}");
}

#[tokio::test]
async fn an_index_out_of_reach_is_said_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let index = [("UV_DEFAULT_INDEX", "http://user:hush-hush@127.0.0.1:1/simple"), ("UV_HTTP_RETRIES", "0")];
    let (uv, python) = (driver(dir.path(), &index), python().await);
    if tool::on_path().next().is_none()
        && unreachable(&driver(dir.path(), &[]).program(python.interpreter(), &|_| ()).await.map(|_| ()))
    {
        return;
    }
    let e = uv.resolve(&requirements("six"), None, &python, LIMIT, &|_| ()).await.unwrap_err();
    assert_eq!(e.code, Code::RequirementFailed);
    assert!(e.message.contains("the package index did not answer"), "{e:?}");
    assert!(!format!("{e:?}").contains("hush"), "{e:?}");
}

#[tokio::test]
async fn without_uv_and_pip_one_line_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = Interpreter { pip: None, ..python().await.interpreter().clone() };
    let e = tool::install(dir.path(), &nothing, &Settings::default()).await.unwrap_err();
    assert!(e.message.contains("neither uv nor pip") && !e.message.contains('\n'), "{e}");
}

/// Stands in for pip, without a configuration: notes that it installs, waits for a line in `go`, and installs a uv that knows its options.
const PIP: &str = r#"#!/bin/sh
case "$*" in *" config "*) exit;; esac
echo run >> DIR/runs
: > DIR/begun
read -r go < DIR/go
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/bin"
printf '#!/bin/sh\necho --generate-hashes --only-binary\n' > "$2/bin/uv"
chmod +x "$2/bin/uv"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_waits_for_the_uv_that_is_being_installed_and_says_so() {
    use std::io::Write;
    if tool::on_path().next().is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (pip, begun, go) = (dir.path().join("pip"), dir.path().join("begun"), dir.path().join("go"));
    // Written by another process: a file that a test has open for writing may be so in another test's child.
    let mut install = std::process::Command::new("install");
    let install = install.args(["-m", "755", "/dev/stdin"]).arg(&pip).stdin(std::process::Stdio::piped());
    let mut install = install.spawn().unwrap();
    let text = PIP.replace("DIR", dir.path().to_str().unwrap());
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
    for fifo in [&begun, &go] {
        assert!(std::process::Command::new("mkfifo").arg(fifo).status().unwrap().success());
    }
    let python = Interpreter { pip: Some(pip), ..python().await.interpreter().clone() };
    let uv = driver(dir.path(), &[]);
    let preinstalling = uv.preinstall(&python);
    let building = async {
        // Opening it waits for pip.
        tokio::task::spawn_blocking(move || std::fs::read(begun)).await.unwrap().unwrap();
        let told = Mutex::new(Vec::new());
        let report = |line: &str| {
            told.lock().unwrap().push(line.to_owned());
            std::fs::write(&go, "go\n").unwrap();
        };
        assert_eq!(uv.program(&python, &report).await.unwrap().path, tool::installed(dir.path()));
        told.into_inner().unwrap()
    };
    let ((), told) = tokio::join!(preinstalling, building);
    assert_eq!(told, ["waiting for uv 0.13.9, which is being installed"]);
    uv.preinstall(&python).await;
    assert_eq!(std::fs::read_to_string(dir.path().join("runs")).unwrap(), "run\n", "it is installed once");
}
