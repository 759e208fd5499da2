//! The cost of one redeploy in calls between services, SQL statements and flushes to disk. Unlike times, counts are the
//! same on every machine.

use crate::{
    prerequisites,
    test_installation::{Stack, says},
};
use serde_json::json;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

#[derive(Debug, PartialEq)]
struct Cost {
    calls: Vec<String>,
    statements: usize,
    flushes: usize,
}

/// Counts flushes of a process and all its threads.
struct Flushes {
    strace: Child,
}

impl Flushes {
    fn of(pid: u32, out: &Path) -> Self {
        let mut strace = Command::new("strace")
            .args(["-f", "-p", &pid.to_string(), "-e", "trace=fsync,fdatasync", "-o"])
            .arg(out)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // strace reports on standard error that it is attached.
        let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("attached")), "strace did not attach");
        std::thread::spawn(move || lines.for_each(drop));
        Self { strace }
    }

    fn count(mut self, out: &Path) -> usize {
        crate::test_installation::signal(self.strace.id(), "INT");
        self.strace.wait().unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        text.lines().filter(|l| l.contains("fsync(") || l.contains("fdatasync(")).count()
    }
}

fn cost(stack: &Stack, source: &str) -> Cost {
    let log = stack.dir.join("log");
    let seen = std::fs::read_to_string(&log).unwrap().len();
    let trace = stack.dir.join("strace");
    let flushes = Flushes::of(stack.pid(), &trace);
    stack.deployed(json!({"agent_name": "counted", "source_files": says(source)}));
    let flushes = flushes.count(&trace);
    let log = std::fs::read_to_string(&log).unwrap().split_off(seen);
    let calls = log.lines().filter(|l| l.contains("hoistway::rpc"));
    let method = |l: &str| l.split("method=\"").nth(1).and_then(|m| m.split('"').next()).unwrap_or(l).to_owned();
    let mut calls: Vec<String> = calls.map(method).collect();
    calls.sort();
    Cost { calls, statements: log.lines().filter(|l| l.contains("sqlx::query")).count(), flushes }
}

#[test]
fn a_redeploy_stays_within_its_cost_limits() {
    // Its limits are those of SQLite.
    if hoistway_testing::uses_postgres() {
        return;
    }
    if !prerequisites::strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_LOG", "info,hoistway::rpc=debug,sqlx::query=debug");
    });
    stack.deployed(json!({"agent_name": "counted", "source_files": says("one")}));

    let unchanged = cost(&stack, "one");
    assert_eq!(unchanged.calls, ["GetAgent", "Resolve"]);
    assert_eq!(unchanged.flushes, 1, "one journal commit");
    assert!(unchanged.statements <= 4, "{unchanged:?}");

    let changed = cost(&stack, "two");
    let expected = ["AckRoutes", "Build", "GetAgent", "Resolve", "StartRevision", "SwitchRoute"];
    assert_eq!(changed.calls, expected);
    // Journal 4, build 1 commit, 3 at the same time for source layer, configuration and provenance, and 1 for their
    // directory, agent 2. The SBOM and the artifacts' empty configuration are there already.
    assert!(changed.flushes <= 11, "{changed:?}");
    assert!(changed.statements <= 50, "{changed:?}");
    assert_eq!(stack.answer("counted", "x"), "two");
}
