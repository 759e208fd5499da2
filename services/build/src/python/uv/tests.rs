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
