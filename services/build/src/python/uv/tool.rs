//! The `uv` program itself: the operator's on PATH, or else a pinned one installed by name, version and hash.

use super::{failure::masked, settings::Settings};
use crate::python::{
    Interpreter, Libc, Sandbox, process,
    sandbox::{FileAccess, Role},
    target::Wheels,
};
use hoistway_model::{Code, Error, Result};
use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{fs, process::Command};

/// The version that is installed where there is none.
pub(super) const VERSION: &str = "0.13.9";
/// Digests of that version's wheels for glibc and musl, x86_64 and aarch64.
const HASHES: [&str; 4] = [
    "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
];
/// The time that the installation may take.
const LIMIT: Duration = Duration::from_secs(300);
/// The time that a candidate may take to show its help.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// The beginning of names of directories in which it is being installed.
const INSTALLING: &str = ".uv-";

/// A `uv` that runs, and the environment to run it with.
#[derive(Debug)]
pub(super) struct Program {
    pub path: PathBuf,
    pub env: Vec<(OsString, OsString)>,
    /// The platforms of Linux that it can install for, by its names.
    platforms: Vec<String>,
}

impl Program {
    /// Whether `path` runs and knows what is needed of it; a shim without a version behind it does not.
    pub(super) async fn probe(
        path: PathBuf,
        env: &[(OsString, OsString)],
        sandbox: &Sandbox,
        data: &Path,
    ) -> Option<Self> {
        let mut found = Self { path, env: env.to_vec(), platforms: Vec::new() };
        let mut command = found.command(sandbox, data, None).ok()?;
        command.args(["pip", "compile", "--help", "--color", "never"]);
        let done = process::run(command, None, PROBE_LIMIT, &|_| ()).await.ok()?;
        let help = String::from_utf8_lossy(&done.stdout);
        if !done.status.success() || !help.contains("--generate-hashes") || !help.contains("--only-binary") {
            return None;
        }
        // Certificates that the operator installed on the machine count; the switch was renamed.
        let switch = if help.contains("--system-certs") { "UV_SYSTEM_CERTS" } else { "UV_NATIVE_TLS" };
        found.env.push((switch.into(), "true".into()));
        let words = help.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']'));
        let listed = words.filter(|word| word.contains("-manylinux_") || word.ends_with("-linux-musl"));
        found.platforms = listed.map(str::to_owned).collect();
        Some(found)
    }

    /// Its name for a platform; of glibc the newest version that is no newer than the platform's.
    pub(super) fn platform(&self, wheels: &Wheels<'_>) -> Option<&str> {
        let Wheels { machine, libc, .. } = wheels;
        let names = self.platforms.iter().map(String::as_str);
        match libc {
            Libc::Musl => {
                let name = format!("{machine}-unknown-linux-musl");
                names.into_iter().find(|own| *own == name)
            }
            Libc::Glibc(major, minor) => {
                let prefix = format!("{machine}-manylinux_{major}_");
                let versions = names.filter_map(|name| Some((name.strip_prefix(&prefix)?.parse::<u32>().ok()?, name)));
                versions.filter(|(own, _)| own <= minor).max().map(|(_, name)| name)
            }
        }
    }

    /// A command that may read what the environment names, and write the cache and `writes`.
    pub(super) fn command(&self, sandbox: &Sandbox, data: &Path, writes: Option<&Path>) -> io::Result<Command> {
        let (home, cache) = (home(data), cache(data));
        let named = named_files(&self.env);
        let read = named.iter().map(PathBuf::as_path).chain([self.path.as_path()]).collect();
        let write = [home.as_path(), &cache].into_iter().chain(writes).collect();
        let env = self.env.iter().map(|(name, value)| (name, value));
        sandbox.command(&self.path, env, Role::Installer, &FileAccess { read, write, lasting: false })
    }
}

/// The files and directories of this machine that variables name: certificates, passwords, and indexes on disk.
fn named_files(env: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let files = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NETRC"];
    let mut found = Vec::new();
    for (name, value) in env {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if files.contains(&name) {
            found.push(PathBuf::from(value));
        } else if name.contains("INDEX") || name == "UV_FIND_LINKS" {
            let each = value.split([' ', ',']).map(|text| text.strip_prefix("file://").unwrap_or(text));
            found.extend(each.map(PathBuf::from));
        }
    }
    found.retain(|path| path.is_absolute() && path.exists());
    found
}

/// uv's `HOME`.
pub(super) fn home(data: &Path) -> PathBuf {
    data.join("tools/home")
}

/// uv's cache.
pub(super) fn cache(data: &Path) -> PathBuf {
    data.join("cache/uv")
}

/// Files named `uv` on PATH.
pub(super) fn on_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path).filter(|d| d.is_absolute()).collect();
    directories.into_iter().map(|d| d.join("uv")).filter(|file| file.is_file())
}

/// Where our own is, once it is installed.
pub(super) fn installed(data: &Path) -> PathBuf {
    directory(data).join("bin/uv")
}

fn directory(data: &Path) -> PathBuf {
    tools(data).join(format!("uv-{VERSION}"))
}

fn tools(data: &Path) -> PathBuf {
    data.join("tools")
}

/// Removes what an installation left that was killed.
pub(super) fn remove_leftovers(data: &Path) {
    for entry in std::fs::read_dir(tools(data)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(INSTALLING)
            && let Err(e) = std::fs::remove_dir_all(entry.path())
        {
            tracing::debug!("{} is not removed: {e}", entry.path().display());
        }
    }
}

/// Installs the pinned version with pip; it is there whole or not at all.
pub(super) async fn install(data: &Path, interpreter: &Interpreter, settings: &Settings) -> Result<PathBuf> {
    let missing = || {
        let python = interpreter.executable.display();
        Error::new(
            Code::RequirementFailed,
            format!("packages cannot be installed: neither uv nor pip (of {python}) was found; install either"),
        )
    };
    let python = interpreter.pip.as_ref().ok_or_else(missing)?;
    let failed = |e: io::Error| Error::internal("installing uv", e);
    let parent = tools(data);
    fs::create_dir_all(&parent).await.map_err(failed)?;
    let work = tempfile::Builder::new().prefix(INSTALLING).tempdir_in(&parent).map_err(failed)?;
    let (list, target) = (work.path().join("requirements.txt"), work.path().join("target"));
    let hashes: String = HASHES.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    fs::write(&list, format!("uv=={VERSION}{hashes}\n")).await.map_err(failed)?;

    let mut command = process::command(python, settings.for_pip());
    command.args(["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    command.args(["--no-cache-dir", "--no-compile", "--require-hashes", "--no-deps", "--only-binary", ":all:"]);
    command.arg("--target").arg(&target).arg("-r").arg(&list);
    let refused = |why: String, lines: &[String]| {
        let details = lines.iter().rev().take(60).rev().map(|line| masked(line, data));
        Error::new(Code::RequirementFailed, format!("uv {VERSION} could not be installed with pip: {why}"))
            .with_details(details)
    };
    let done = process::run(command, None, LIMIT, &|_| ()).await.map_err(|e| refused(e.to_string(), &[]))?;
    if !done.status.success() {
        let why = done.stderr.iter().rev().find(|line| line.starts_with("ERROR:")).or(done.stderr.last());
        let why = why.map_or_else(|| done.status.to_string(), |line| masked(line, data));
        return Err(refused(why, &done.stderr));
    }
    // Another process may have been first; its copy is as good.
    match fs::rename(&target, directory(data)).await {
        Err(e) if !installed(data).is_file() => Err(failed(e)),
        _ => Ok(installed(data)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_killed_installation_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        remove_leftovers(dir.path());
        for name in [".uv-x1", "uv-0.1", "home"] {
            std::fs::create_dir_all(tools(dir.path()).join(name).join("target/bin")).unwrap();
        }
        remove_leftovers(dir.path());
        let left = std::fs::read_dir(tools(dir.path())).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["home", "uv-0.1"]);
    }

    #[test]
    fn a_platform_is_the_newest_that_is_no_newer_than_the_images() {
        let names = ["aarch64-manylinux_2_17", "aarch64-manylinux_2_28", "aarch64-manylinux_2_40"];
        let platforms = names.into_iter().chain(["aarch64-unknown-linux-musl"]).map(str::to_owned).collect();
        let program = Program { path: PathBuf::new(), env: Vec::new(), platforms };
        let name = |machine, libc| program.platform(&Wheels { python: "3.13", machine, libc });
        for (libc, want) in [
            (Libc::Glibc(2, 12), None),
            (Libc::Glibc(2, 17), Some("aarch64-manylinux_2_17")),
            (Libc::Glibc(2, 36), Some("aarch64-manylinux_2_28")),
            (Libc::Glibc(2, 41), Some("aarch64-manylinux_2_40")),
            (Libc::Musl, Some("aarch64-unknown-linux-musl")),
        ] {
            assert_eq!(name("aarch64", libc), want, "{libc}");
        }
        assert_eq!(name("x86_64", Libc::Musl), None);
    }
}
