//! The cost of one redeploy in calls between services, SQL statements, flushes to disk, processes, and bytes hashed and
//! written. Unlike times, counts are the same on every machine.

mod system_calls;

use crate::prerequisites;
use crate::test_installation::{Stack, says};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use system_calls::Trace;

const LOG: &str = "info,hoistway::rpc=debug,sqlx::query=debug,hoistway_agent::runtime::process::warm_parents=debug";

#[derive(Debug)]
struct Cost {
    /// Between services.
    calls: Vec<String>,
    statements: usize,
    flushes: usize,
    /// Processes that were started, those of the agent included.
    processes: usize,
    /// Bytes of which digests were computed.
    hashed: u64,
    /// Bytes written to files in the data directory.
    written: u64,
    /// Modules that the agent has imported by itself, if it was forked from a process that had imported others.
    imported: Option<usize>,
}

/// The cost of a deploy.
fn cost(stack: &Stack, deploy: &Value) -> Cost {
    let log = stack.dir.join("log");
    let hashed = || {
        let metrics = stack.call("GET", "/metrics", None).text();
        let lines = metrics.lines().filter(|line| line.starts_with("hoistway_hashed_bytes_total"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum::<u64>()
    };
    let hashed_before = hashed();
    let before = std::fs::read_to_string(&log).unwrap().len();
    let trace = Trace::of_all_below(stack.pid(), &stack.dir.join("strace"));
    stack.deployed(deploy.clone());
    let trace = trace.end(&stack.dir.join("data"));
    let log = std::fs::read_to_string(&log).unwrap().split_off(before);
    let calls = log.lines().filter(|l| l.contains("hoistway::rpc"));
    let method = |l: &str| l.split("method=\"").nth(1).and_then(|m| m.split('"').next()).unwrap_or(l).to_owned();
    let mut calls: Vec<String> = calls.map(method).collect();
    calls.sort();
    let imported = log.lines().find_map(|line| line.split("imported after the fork count=").nth(1));
    Cost {
        calls,
        statements: log.lines().filter(|l| l.contains("sqlx::query")).count(),
        flushes: trace.flushes,
        processes: trace.processes,
        hashed: hashed() - hashed_before,
        written: trace.written,
        imported: imported.map(|count| count.trim().parse().unwrap()),
    }
}

/// Waits until a warm parent is ready and has forked the process that becomes the next revision. Another one may be forked
/// while that is deployed. A machine without namespaces has none.
fn await_forked_process(stack: &Stack) {
    let log = || std::fs::read_to_string(stack.dir.join("log")).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !log().contains("a process waits for the next agent") && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
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
        command.env("HOISTWAY_AGENT_WARM_PARENTS", "true");
        command.env("HOISTWAY_LOG", LOG);
    });
    let deploy = |text: &str| json!({"agent_name": "counted", "source_files": says(text)});
    stack.deployed(deploy("one"));
    await_forked_process(&stack);

    let unchanged = cost(&stack, &deploy("one"));
    assert_eq!(unchanged.calls, ["GetAgent", "Resolve"]);
    assert_eq!(unchanged.flushes, 1, "one journal commit");
    assert!(unchanged.statements <= 4, "{unchanged:?}");
    assert_eq!((unchanged.processes, unchanged.imported), (0, None), "{unchanged:?}");
    assert!(unchanged.hashed <= 4 << 10 && unchanged.written <= 64 << 10, "{unchanged:?}");

    let changed = cost(&stack, &deploy("two"));
    let expected = ["AckRoutes", "Build", "GetAgent", "Resolve", "StartRevision", "SwitchRoute"];
    assert_eq!(changed.calls, expected);
    // Journal 4, build 1 commit, 3 at the same time for source layer, configuration and provenance, and 1 for their
    // directory, agent 2. The SBOM and the artifacts' empty configuration are there already.
    assert!(changed.flushes <= 11, "{changed:?}");
    assert!(changed.statements <= 50, "{changed:?}");
    // The launcher, the builder of the root directory and the agent; for the next one a process that forks the first one
    // of its namespace.
    assert!(changed.processes <= 5, "{changed:?}");
    assert_eq!(changed.imported, Some(0));
    assert!(changed.hashed <= 64 << 10 && changed.written <= 512 << 10, "{changed:?}");
    assert_eq!(stack.answer("counted", "x"), "two");
}

/// Only the new package is downloaded, hashed and unpacked; the agent is forked from the parent that has the others.
#[test]
fn an_added_requirement_stays_within_its_cost_limits() {
    if hoistway_testing::uses_postgres() || !prerequisites::strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_LOG", LOG);
    });
    let deploy = |requirements: &str| json!({"agent_name": "counted", "source_files": says("one"), "requirements": requirements});
    stack.deployed(deploy("requests==2.32.5"));
    await_forked_process(&stack);
    let added = cost(&stack, &deploy("requests==2.32.5\nsix==1.17.0"));
    assert!(added.hashed <= 1 << 20 && added.written <= 4 << 20, "{added:?}");
    // Those of the build, three of the agent, and those of the parent with all packages, which is started at once.
    assert!(added.flushes <= 20 && added.statements <= 70 && added.processes <= 12, "{added:?}");
    assert_eq!(added.imported, Some(0));
}
