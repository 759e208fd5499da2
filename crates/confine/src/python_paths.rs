//! The paths of this machine that Python needs, as reported by the interpreter.

use crate::python;
use crate::spec::{Access, Exposed};
use hoistway_model::{Code, Error, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Prints the locations of Python's own parts, the files mapped into a process that has loaded the usual users of
/// libraries, and OpenSSL's certificate paths.
const ASK: &str = r#"
import importlib, json, os, sys
for name in ("ssl", "hashlib", "sqlite3", "ctypes", "lzma", "bz2", "zlib", "readline", "uuid", "decimal", "curses",
             "_multiprocessing", "_posixshmem", "pyexpat", "dbm"):
    try: importlib.import_module(name)
    except Exception: pass
mapped = set()
with open("/proc/self/maps") as maps:
    for line in maps:
        path = line.split(None, 5)[5:]
        if path and path[0].startswith("/"): mapped.add(path[0].strip())
certificates = []
if "ssl" in sys.modules:
    paths = sys.modules["ssl"].get_default_verify_paths()
    certificates = [p for p in (paths.openssl_cafile, paths.openssl_capath) if p]
print(json.dumps({
    "prefixes": [sys.base_prefix, sys.base_exec_prefix],
    "path": [p for p in sys.path if p],
    "mapped": sorted(mapped),
    "certificates": certificates,
}))
"#;

#[derive(Deserialize)]
struct Answer {
    prefixes: Vec<PathBuf>,
    path: Vec<PathBuf>,
    mapped: Vec<PathBuf>,
    certificates: Vec<PathBuf>,
}

/// Programs, libraries and data of the system, where they exist. They are world-readable.
const SYSTEM: &[&str] = &[
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",
    "/usr/local/bin",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/mime.types",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/fonts",
    "/sys/devices/system/cpu",
];
/// Further paths that a sandbox without its own root exposes: other means protect what belongs to others there.
const SHARED: &[(&str, Access)] = &[
    ("/proc", Access::ReadIfThere),
    ("/etc/passwd", Access::ReadIfThere),
    ("/etc/group", Access::ReadIfThere),
    // The processors of a container: programs that count them read these where they exist.
    ("/sys/fs/cgroup/cpu.max", Access::ReadIfThere),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", Access::ReadIfThere),
    ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", Access::ReadIfThere),
    ("/dev/shm", Access::Write),
    ("/dev/null", Access::Device),
    ("/dev/zero", Access::Device),
    ("/dev/full", Access::Device),
    ("/dev/random", Access::Device),
    ("/dev/urandom", Access::Device),
];
/// Prefixes that contain far more than Python: of these only the following is exposed.
const WIDE: &[&str] = &["/", "/usr", "/usr/local", "/opt", "/home", "/root"];
const OF_A_WIDE_PREFIX: &[&str] = &["bin", "lib", "lib64"];
/// The operator's variables that name files for agents.
const CERTIFICATE_VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"];

/// The parts of this machine that are exposed to agents.
#[derive(Debug, Clone)]
pub struct PythonPaths {
    parts: Vec<Exposed>,
    /// The machine's name.
    pub name: String,
}

impl PythonPaths {
    /// Queries the interpreter.
    pub async fn of_interpreter(interpreter: &Path) -> Result<Self> {
        let failed = |why: String| {
            Error::new(Code::InvalidArgument, format!("{} does not say what it needs: {why}", interpreter.display()))
        };
        let answer: Answer = python::ask(interpreter, &["-I", "-S"], ASK).await.map_err(failed)?;
        let interpreter = interpreter.to_owned();
        let listing = tokio::task::spawn_blocking(move || parts(&answer, &interpreter));
        let parts = listing.await.map_err(|e| Error::internal("looking at the machine", e))?;
        Ok(Self { parts, name: rustix::system::uname().nodename().to_string_lossy().into_owned() })
    }

    /// Returns the parts exposed to an agent, for a root of its own or the machine's.
    pub fn exposed(&self, own_root: bool) -> Vec<Exposed> {
        if own_root {
            return self.parts.clone();
        }
        let machine = self.parts.iter().filter(|part| part.access != Access::Link);
        let machine = machine.map(|part| Exposed { inside: part.host.clone(), ..part.clone() });
        let shared = SHARED.iter().filter(|(path, _)| Path::new(path).exists());
        let shared = shared.map(|&(path, access)| Exposed { host: path.into(), inside: path.into(), access });
        machine.chain(shared).collect()
    }
}

fn parts(answer: &Answer, python: &Path) -> Vec<Exposed> {
    let mut list = List::default();
    for path in SYSTEM {
        list.add(Path::new(path));
    }
    for prefix in &answer.prefixes {
        if WIDE.iter().any(|wide| Path::new(wide) == prefix) {
            OF_A_WIDE_PREFIX.iter().for_each(|part| list.add(&prefix.join(part)));
        } else {
            list.add(prefix);
        }
    }
    // A store of interdependent packages (Nix, Guix) is exposed as a whole.
    for store in ["/nix/store", "/gnu/store"] {
        if python.starts_with(store) {
            list.add(Path::new(store));
        }
    }
    let variables = CERTIFICATE_VARIABLES.iter().filter_map(std::env::var_os).map(PathBuf::from);
    let variables: Vec<PathBuf> = variables.filter(|path| path.is_absolute()).collect();
    list.add(python);
    for path in answer.path.iter().chain(&answer.mapped).chain(&answer.certificates).chain(&variables) {
        list.add(path);
    }
    list.parts
}

#[derive(Default)]
struct List {
    parts: Vec<Exposed>,
    seen: BTreeSet<PathBuf>,
}

impl List {
    /// Adds a path that exists and is not below a listed one. A symbolic link to an exposed target stays a link; one to
    /// elsewhere is replaced by its target.
    fn add(&mut self, path: &Path) {
        let Ok(real) = path.canonicalize() else { return };
        if self.covers(path) && self.covers(&real) {
            return;
        }
        let linked = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        if linked
            && let Ok(target) = std::fs::read_link(path)
            && (real.is_dir() || self.covers(&real))
        {
            if !self.covers(&real) {
                self.push(&real, &real, Access::ReadIfThere);
            }
            self.push(&target, path, Access::Link);
            return;
        }
        // Such as `/etc/resolv.conf`: its target may differ at the next start, so the link is followed then and not
        // now.
        if !self.covers(path) {
            self.push(path, path, Access::ReadIfThere);
        }
        if real != path && !linked && !self.covers(&real) {
            // One of its parent directories is a link.
            self.push(&real, &real, Access::ReadIfThere);
        }
    }

    fn covers(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.seen.contains(above))
    }

    fn push(&mut self, host: &Path, inside: &Path, access: Access) {
        self.seen.insert(inside.to_owned());
        self.parts.push(Exposed { host: host.to_owned(), inside: inside.to_owned(), access });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn links_are_shown_as_links_and_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("usr/lib/deep")).unwrap();
        std::fs::create_dir(dir.join("run")).unwrap();
        std::fs::write(dir.join("run/resolv.conf"), "").unwrap();
        std::os::unix::fs::symlink("usr/lib", dir.join("lib")).unwrap();
        std::os::unix::fs::symlink("run/resolv.conf", dir.join("resolv.conf")).unwrap();
        let mut list = List::default();
        for path in ["lib", "usr/lib", "usr/lib/deep", "lib/deep", "resolv.conf", "missing"] {
            list.add(&dir.join(path));
        }
        let seen: Vec<_> = list.parts.iter().map(|p| (p.host.clone(), p.inside.clone(), p.access)).collect();
        let same = |path: &str| (dir.join(path), dir.join(path), Access::ReadIfThere);
        let link = ("usr/lib".into(), dir.join("lib"), Access::Link);
        assert_eq!(seen, [same("usr/lib"), link, same("resolv.conf")]);
    }
}
