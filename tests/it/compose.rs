//! The same API from containers.

use crate::{
    prerequisites,
    test_installation::{HOISTWAY, processes},
};
use std::{path::Path, process::Command};

#[test]
fn compose_serves_the_same_api() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = Path::new(HOISTWAY).parent().unwrap();
    let tools = prerequisites::runs("docker", &["info"])
        && (prerequisites::runs("docker-compose", &["version"])
            || prerequisites::runs("docker", &["compose", "version"]))
        && prerequisites::runs("mmdebstrap", &["--version"]);
    let why = "needs root, Docker, docker-compose and mmdebstrap";
    let user = Command::new("id").arg("-u").output().unwrap().stdout;
    if !prerequisites::need("compose", tools && user == b"0\n", why) {
        return;
    }
    let mut script = Command::new(root.join("scripts/compose-test.sh"));
    let out = script.env("HOISTWAY_PROGRAMS", programs).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = said.lines().collect();
    assert!(out.status.success(), "{}", lines[lines.len().saturating_sub(60)..].join("\n"));
    assert!(processes(Path::new("compose-test.sh")).is_empty());
}
