//! The interpreter of this host: the real executable behind shims and virtual environments, and what a build has to
//! know about it.

use super::{
    Libc,
    process::{self, Finished},
};
use hoistway_confine::python::{LIMIT, OLDEST, oci_architecture};
use hoistway_model::{Code, Error, Result};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Names that are looked for on PATH, best first.
const NAMES: [&str; 7] = ["python3", "python", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"];
/// Variables that a shim needs to find the interpreter behind it.
const SHIM_ENV: [&str; 7] =
    ["PATH", "HOME", "PYENV_ROOT", "PYENV_VERSION", "ASDF_DIR", "ASDF_DATA_DIR", "MISE_DATA_DIR"];

/// Names the executable behind a shim, and the one that a virtual environment was made from.
const RESOLVE: &str = "import sys; sys.stdout.write((sys.executable or '') + '\\n' + \
    ((getattr(sys, '_base_executable', '') or sys.executable) if sys.prefix != sys.base_prefix else ''))";
const INSPECT: &str = include_str!("interpreter.py");

/// An interpreter that was started once and described itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The executable itself: neither a shim nor a virtual environment's.
    pub executable: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
    /// The whole version, such as `3.11.7`.
    pub full_version: String,
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// The C library that it is linked with, where that is one of Linux.
    pub libc: Option<Libc>,
    /// `sys.base_prefix`.
    pub base_prefix: PathBuf,
    /// Where the standard library is.
    pub stdlib: PathBuf,
    /// The executable that can run `-m pip`, if any can.
    pub pip: Option<PathBuf>,
    /// Implementation, whole version and binary interface: part of the key of everything that is made for it.
    pub identity: String,
    /// Names of the standard library's top-level modules.
    pub stdlib_modules: Arc<BTreeSet<String>>,
}

/// The output of [`INSPECT`].
#[derive(Debug, Deserialize)]
struct Described {
    executable: PathBuf,
    implementation: String,
    version: (u32, u32),
    full_version: String,
    soabi: String,
    os: String,
    libc: Option<String>,
    machine: String,
    base_prefix: PathBuf,
    stdlib: PathBuf,
    pip: bool,
    modules: BTreeSet<String>,
}

impl Interpreter {
    /// Finds the interpreter: the configured one, or else the first on PATH that will do. `setting` is how the
    /// operator names another one; the error says so in one line.
    pub async fn probe(configured: Option<&Path>, setting: &str) -> Result<Self> {
        let needed = format!("Python {}.{} or newer", OLDEST.0, OLDEST.1);
        if let Some(path) = configured {
            return Self::inspect(path).await.map_err(|fault| {
                Error::new(
                    Code::Internal,
                    format!("{setting} is {}, which {fault}; {needed} is needed", path.display()),
                )
            });
        }
        let mut faults = Vec::new();
        for candidate in candidates(&env::var_os("PATH").unwrap_or_default()) {
            match Self::inspect(&candidate).await {
                Ok(found) => return Ok(found),
                Err(fault) => faults.push(format!("{} {fault}", candidate.display())),
            }
        }
        let seen = if faults.is_empty() { String::new() } else { format!(" ({})", faults.join("; ")) };
        Err(Error::new(Code::Internal, format!("{needed} was not found{seen}: install it or set {setting}")))
    }

    /// `major.minor`.
    pub fn python(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// `os/architecture`.
    pub fn platform(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }

    async fn inspect(candidate: &Path) -> Result<Self, String> {
        let shim_env = SHIM_ENV.iter().filter_map(|name| Some((OsString::from(name), env::var_os(name)?)));
        let resolved = ask(candidate, shim_env, RESOLVE).await?;
        let resolved = String::from_utf8(resolved.stdout).map_err(|_| "has a path that is not UTF-8".to_owned())?;
        let (own, base) = resolved.split_once('\n').unwrap_or((&resolved, ""));
        if own.is_empty() {
            return Err("does not know its own path".into());
        }
        // A virtual environment may have pip where the interpreter behind it has none.
        let mut described = describe(Path::new(own)).await?;
        let mut pip = described.pip.then(|| PathBuf::from(own));
        if !base.is_empty() && base != own {
            described = describe(Path::new(base)).await?;
            pip = if described.pip { Some(described.executable.clone()) } else { pip };
        }
        described.into_interpreter(pip)
    }
}

impl Described {
    fn into_interpreter(self, pip: Option<PathBuf>) -> Result<Interpreter, String> {
        if self.implementation != "cpython" {
            return Err(format!("is {}, not CPython", self.implementation));
        }
        if self.version < OLDEST {
            return Err(format!("is Python {}", self.full_version));
        }
        let Some(architecture) = oci_architecture(&self.machine) else {
            return Err(format!("is for {}; only x86_64 and arm64 are supported", self.machine));
        };
        Ok(Interpreter {
            identity: format!("{}-{}-{}-{}", self.implementation, self.full_version, self.soabi, self.os),
            executable: self.executable,
            version: self.version,
            full_version: self.full_version,
            os: self.os,
            architecture: architecture.into(),
            libc: self.libc.and_then(|text| text.parse().ok()),
            base_prefix: self.base_prefix,
            stdlib: self.stdlib,
            pip,
            stdlib_modules: Arc::new(self.modules),
        })
    }
}

async fn describe(executable: &Path) -> Result<Described, String> {
    let told = ask(executable, [], INSPECT).await?;
    serde_json::from_slice(&told.stdout).map_err(|_| "does not describe itself".to_owned())
}

async fn ask(
    program: &Path,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    script: &str,
) -> Result<Finished, String> {
    let mut command = process::command(program, env);
    command.args(["-I", "-c", script]);
    match process::run(command, None, LIMIT, &|_| ()).await {
        Ok(done) if done.status.success() => Ok(done),
        Ok(done) => match done.stderr.last() {
            Some(line) => Err(format!("does not work: {line}")),
            None => Err(format!("does not work: {}", done.status)),
        },
        Err(e) => Err(format!("does not work: {e}")),
    }
}

/// Executables of the names looked for in every directory of `path`, each real file once.
fn candidates(path: &OsString) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for name in NAMES {
        for directory in env::split_paths(path).filter(|d| d.is_absolute()) {
            let candidate = directory.join(name);
            // A shim is one file under several names, so directory and name count, not the target.
            let real = directory.canonicalize().map_or(candidate.clone(), |d| d.join(name));
            if candidate.is_file() && seen.insert(real) {
                found.push(candidate);
            }
        }
    }
    found
}

#[cfg(test)]
impl Interpreter {
    /// One that is not there, of a version, on linux/amd64 with glibc 2.36.
    pub fn example(version: (u32, u32)) -> Self {
        Self {
            executable: "/usr/bin/python3".into(),
            version,
            full_version: format!("{}.{}.2", version.0, version.1),
            os: "linux".into(),
            architecture: "amd64".into(),
            libc: Some(Libc::Glibc(2, 36)),
            base_prefix: "/usr".into(),
            stdlib: "/usr/lib".into(),
            pip: None,
            identity: format!("cpython-{}.{}.2-example", version.0, version.1),
            stdlib_modules: Arc::new(["os", "json"].map(str::to_owned).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_hosts_interpreter_is_found_and_is_real() {
        let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
        assert!(python.version >= OLDEST);
        assert!(python.executable.is_absolute() && !python.executable.to_string_lossy().contains("shims"));
        assert!(python.stdlib.join("os.py").is_file());
        assert!(python.stdlib_modules.contains("asyncio") && !python.stdlib_modules.contains("openai"));
        assert!(python.identity.starts_with(&format!("cpython-{}-", python.full_version)), "{}", python.identity);
        assert!(python.platform().starts_with("linux/"));
        let again = Interpreter::probe(Some(&python.executable), "HOISTWAY_PYTHON").await.unwrap();
        assert_eq!(again.executable, python.executable);
    }

    #[tokio::test]
    async fn a_missing_interpreter_is_reported_in_one_line() {
        let e = Interpreter::probe(Some(Path::new("/no/such/python")), "HOISTWAY_PYTHON").await.unwrap_err();
        assert!(e.message.starts_with("HOISTWAY_PYTHON is /no/such/python, which does not work"), "{e}");
        let e = Interpreter::probe(Some(Path::new("/bin/true")), "HOISTWAY_PYTHON").await.unwrap_err();
        assert!(!e.message.contains('\n') && e.message.contains("3.10"), "{e}");
    }

    #[test]
    fn old_or_other_interpreters_are_refused() {
        let described = |implementation: &str, version, machine: &str| Described {
            executable: "/usr/bin/python3".into(),
            implementation: implementation.into(),
            version,
            full_version: "3.9.1".into(),
            soabi: "x".into(),
            os: "linux".into(),
            libc: None,
            machine: machine.into(),
            base_prefix: "/usr".into(),
            stdlib: "/usr/lib".into(),
            pip: false,
            modules: BTreeSet::new(),
        };
        assert!(described("cpython", (3, 9), "x86_64").into_interpreter(None).unwrap_err().contains("3.9.1"));
        assert!(described("pypy", (3, 10), "x86_64").into_interpreter(None).unwrap_err().contains("pypy"));
        assert!(described("cpython", (3, 10), "riscv64").into_interpreter(None).unwrap_err().contains("riscv64"));
        assert_eq!(described("cpython", (3, 10), "aarch64").into_interpreter(None).unwrap().platform(), "linux/arm64");
    }
}
