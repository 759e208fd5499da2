//! The processes of agents are started by the small program beside `hoistway`, if it is of the same build.

use crate::test_installation::{HOISTWAY, Stack, says};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_hoistway-launcher");

/// A stack of a copy of the program in `dir`, beside what is there.
fn start(dir: &Path) -> Stack {
    let program = dir.join("hoistway");
    // A copy shares no blocks with the original on every file system, and takes as long as it is large.
    fs::hard_link(HOISTWAY, &program).or_else(|_| fs::copy(HOISTWAY, &program).map(drop)).unwrap();
    let mut command = Command::new(program);
    command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.join("data"));
    Stack::spawn(dir, command)
}

/// The programs of the processes that `stack` has started itself.
fn programs(stack: &Stack) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{}/task", stack.pid())).unwrap();
    let children = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    let children: String = children.collect();
    children.split_whitespace().filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok()).collect()
}

fn deploy(stack: &Stack, text: &str) {
    stack.deployed(json!({"agent_name": "agent", "source_files": says(text)}));
    assert_eq!(stack.answer("agent", "hello"), text);
}

#[test]
fn agents_are_started_by_the_small_program_even_after_an_upgrade_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let launcher = dir.path().join("hoistway-launcher");
    fs::copy(LAUNCHER, &launcher).unwrap();
    let stack = start(dir.path());
    deploy(&stack, "one");
    let found = programs(&stack);
    assert!(found.contains(&launcher), "{found:?}");
    // As a package manager does it: another file takes its name.
    fs::write(dir.path().join("newer"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::rename(dir.path().join("newer"), &launcher).unwrap();
    deploy(&stack, "two");
}

#[test]
fn a_program_of_another_build_or_that_others_may_write_starts_no_agent() {
    // It prints its arguments.
    let other_build = |path: &Path| fs::copy("/bin/echo", path).map(drop);
    let writable = |path: &Path| fs::copy(LAUNCHER, path).map(drop);
    for (make, mode) in [(&other_build as &dyn Fn(&Path) -> std::io::Result<()>, 0o755), (&writable, 0o757)] {
        let dir = tempfile::tempdir().unwrap();
        let launcher = dir.path().join("hoistway-launcher");
        make(&launcher).unwrap();
        fs::set_permissions(&launcher, fs::Permissions::from_mode(mode)).unwrap();
        let stack = start(dir.path());
        deploy(&stack, "one");
        let found = programs(&stack);
        assert!(!found.contains(&launcher) && found.contains(&dir.path().join("hoistway")), "{found:?}");
    }
}
