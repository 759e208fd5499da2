//! What a test needs beyond the toolchain and PyPI. Where it is missing the test is skipped, loudly and counted; where
//! `HOISTWAY_TEST_REQUIRE` names it, it fails instead.

use std::{
    fs::OpenOptions,
    io::Write,
    process::{Command, Stdio},
};

/// Whether `what` is there; `why` says what was looked for.
pub fn need(what: &str, there: bool, why: &str) -> bool {
    if there {
        return true;
    }
    let required = std::env::var("HOISTWAY_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r.trim() == what), "{what} is required and missing: {why}");
    let line = format!("SKIPPED: {what}: {why}");
    eprintln!("{line}");
    if let Some(file) = std::env::var_os("HOISTWAY_TEST_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    false
}

/// Whether a program runs and succeeds.
pub fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

pub fn docker() -> bool {
    need("docker", runs("docker", &["info"]), "no Docker engine answers `docker info`")
}

pub fn skopeo() -> bool {
    need("skopeo", runs("skopeo", &["--version"]), "skopeo is not installed")
}

pub fn strace() -> bool {
    need("strace", runs("strace", &["-o", "/dev/null", "true"]), "strace is not installed or may not trace")
}
