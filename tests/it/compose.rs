//! The same API from containers.

use crate::{
    need,
    stack::{HOISTWAY, processes},
};
use std::{path::Path, process::Command};

#[test]
fn compose_serves_the_same_api() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The script copies the programs that are built already, and knows where the release profile puts them.
    let built = Path::new(HOISTWAY).parent().is_some_and(|dir| dir.ends_with("target/release"));
    let tools = need::runs("docker", &["info"])
        && (need::runs("docker-compose", &["version"]) || need::runs("docker", &["compose", "version"]))
        && need::runs("mmdebstrap", &["--version"]);
    let why = "needs root, Docker, docker-compose, mmdebstrap and a release build in target";
    let user = Command::new("id").arg("-u").output().unwrap().stdout;
    if !need::need("compose", built && tools && user == b"0\n", why) {
        return;
    }
    let out = Command::new(root.join("scripts/compose-test.sh")).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = said.lines().collect();
    assert!(out.status.success(), "{}", lines[lines.len().saturating_sub(60)..].join("\n"));
    assert!(processes(Path::new("compose-test.sh")).is_empty());
}
