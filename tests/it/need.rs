//! What these tests need of the machine.

pub use hoistway_testing::{need, runs};

pub fn docker() -> bool {
    need("docker", runs("docker", &["info"]), "no Docker engine answers `docker info`")
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

/// A file system in memory can be mounted on `at`.
pub fn tmpfs(at: &std::path::Path, size: &str) -> bool {
    let mounted =
        runs("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs", at.to_str().unwrap()]);
    need("tmpfs", mounted, "this user may not mount a tmpfs")
}
