//! The requirements of these tests on the machine.

pub use hoistway_testing::{need, runs};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub fn docker() -> bool {
    need("docker", runs("docker", &["info"]), "no Docker engine answers `docker info`")
}

/// Whether a Docker daemon can be started.
pub fn dockerd() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    need("root", is_root, "only root may start a Docker daemon")
        && need("docker", runs("dockerd", &["--version"]), "dockerd is not installed")
}

pub fn skopeo() -> bool {
    need("skopeo", runs("skopeo", &["--version"]), "skopeo is not installed")
}

pub fn pip() -> bool {
    need("pip", runs("python3", &["-m", "pip", "--version"]), "python3 has no pip")
}

pub fn strace() -> bool {
    need("strace", runs("strace", &["-o", "/dev/null", "true"]), "strace is not installed or may not trace")
}

/// Returns the path of a program of Prometheus: the installed one, or that of scripts/setup-tests.sh.
pub fn prometheus(program: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/prometheus/usr/bin").join(program);
    let paths = [PathBuf::from(program), unpacked];
    let found = paths.into_iter().find(|path| runs(path.to_str().unwrap(), &["--version"]));
    need("prometheus", found.is_some(), "prometheus and promtool are not there").then_some(found).flatten()
}

/// Mounts a file system in memory on `at`; returns whether that is possible.
pub fn tmpfs(at: &std::path::Path, size: &str) -> bool {
    let mounted =
        runs("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs", at.to_str().unwrap()]);
    need("tmpfs", mounted, "this user may not mount a tmpfs")
}

/// Whether this machine has the sandbox; a missing one is reported.
pub fn sandbox(flags: &[&str]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    sandbox_in(dir.path(), Command::new(crate::test_installation::HOISTWAY), flags)
}

/// Like [`sandbox`], for a command that runs `hoistway` with more arguments, in a directory that it may write to.
pub fn sandbox_in(dir: &std::path::Path, mut command: Command, flags: &[&str]) -> bool {
    command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.join("data")).args(flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut first).unwrap();
    let _ = child.kill();
    let said = child.wait_with_output().unwrap().stderr;
    let there = first.starts_with("Hoistway is ready");
    there || need("sandbox", false, &format!("{flags:?}: {}", String::from_utf8_lossy(&said)))
}
