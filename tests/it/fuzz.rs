//! Requests generated from the OpenAPI document; scripts/fuzz-api.sh sends as many as requested.

use crate::{prerequisites::need, test_installation::HOISTWAY};
use std::{path::Path, process::Command};

/// The script's exit status when it cannot install its packages.
const NO_PYPI: i32 = 69;

#[test]
fn generated_requests_are_answered_as_documented() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fuzz-api.sh");
    let out = Command::new(script).arg("500").env("HOISTWAY", HOISTWAY).output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if !need("pypi", out.status.code() != Some(NO_PYPI), "schemathesis cannot be installed") {
        return;
    }
    assert!(out.status.success(), "{said}\n{told}");
}
