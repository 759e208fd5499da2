//! Requirements of tests beyond the toolchain. If one is missing, the test is skipped with a message and counted; if
//! `HOISTWAY_TEST_REQUIRE` names it, the test fails instead.

mod certificates;
mod docker_registry;
mod openapi_schema;
mod postgres;

pub use certificates::{TestAuthority, outer_address};
pub use docker_registry::{ANN, Access, BOB, DockerRegistry, RegistryUser, write_docker_config};
pub use openapi_schema::DocumentSchemas;
pub use postgres::{PostgresServer, database_url, postgres, shared_databases, uses_postgres};

use std::{
    env,
    fs::OpenOptions,
    io::Write,
    process::{Command, Stdio},
};

/// Whether the test may go on: `there` is whether `what` is available, `why` describes the check.
///
/// # Panics
/// If `what` is missing and `HOISTWAY_TEST_REQUIRE` (comma-separated names) contains it.
pub fn need(what: &str, there: bool, why: &str) -> bool {
    if there {
        return true;
    }
    let required = env::var("HOISTWAY_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == what), "{what} is required and missing: {why}");
    let line = format!("SKIPPED: {what}: {why}\n");
    eprint!("{line}");
    // The test runner counts the lines of this file.
    if let Some(path) = env::var_os("HOISTWAY_TEST_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Err(e) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("the skip could not be counted: {e}");
        }
    }
    false
}

/// Whether a program runs and succeeds.
pub fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
