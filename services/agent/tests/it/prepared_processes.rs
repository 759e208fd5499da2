//! Processes that are forked and confined before there is a revision for them to become.

use crate::conformance::test_runtime::{Kind, TestRuntime, ask, counted, open_to_all, until_prepared};
use crate::runtime::LIMIT;
use hoistway_agent::runtime::{Instance, Started};
use hoistway_model::{Name, Secret};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::time::Duration;

const SOURCE: &str = "def handler(message): return message";
/// Says how often it was invoked.
const COUNTS: &str = "count = 0\ndef handler(message):\n    global count\n    count += 1\n    return str(count)";

fn name(agent: &str) -> Name {
    Name::parse("name", agent).unwrap()
}

fn started(test: &TestRuntime, way: &str) -> f64 {
    counted(&*test.runtime, "hoistway_agent_starts_total", way)
}

async fn ready(test: &TestRuntime, instance: Instance) -> Started {
    let started = test.runtime.apply(instance).await.unwrap();
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    started
}

/// The launchers of this test's agents, by the title of their agent.
fn launchers(test: &TestRuntime, agent: &str) -> Vec<i32> {
    let (title, dir) = (format!("hoistway-agent {agent}\0"), test.dir.path().to_str().unwrap().to_owned());
    let numbers =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_one = |pid: &i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(&title) && line.contains(&dir)
    };
    numbers.filter(is_one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_revision_becomes_the_process_that_is_prepared_for_it() {
    let test = TestRuntime::new(Kind::Forked).await;
    for revision in 1..=3 {
        let before = started(&test, "prepared");
        let (instance, agent) = test.ready(&format!("def handler(message): return '{revision}'")).await;
        assert_eq!(started(&test, "prepared"), before + 1.0);
        assert_eq!(ask(&agent, "x").await, revision.to_string());
        until_prepared(&*test.runtime, 1.0).await;
        test.runtime.remove(&instance.revision, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_agent_becomes_it() {
    let test = TestRuntime::new(Kind::Forked).await;
    let (forked, prepared) = (started(&test, "forked"), started(&test, "prepared"));
    let other = Instance { agent: name("another"), ..test.instance(SOURCE).await };
    ready(&test, other).await;
    assert_eq!((started(&test, "forked"), started(&test, "prepared")), (forked + 1.0, prepared));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_its_agent_is_deleted() {
    let test = TestRuntime::new(Kind::Forked).await;
    assert_eq!(launchers(&test, "test-agent").len(), 1);
    test.runtime.forget(&name("test-agent")).await.unwrap();
    until_prepared(&*test.runtime, 0.0).await;
    assert!(launchers(&test, "test-agent").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_its_agent_is_not_to_be_forked_any_more() {
    let test = TestRuntime::new(Kind::Forked).await;
    let mut instance = test.instance(SOURCE).await;
    instance.env.push(("WARM_PARENTS".into(), Secret::new("false")));
    ready(&test, instance).await;
    until_prepared(&*test.runtime, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_only_when_it_is_forked_is_started_by_itself() {
    let test = TestRuntime::new(Kind::Forked).await;
    let failures = ["os.kill(os.getpid(), 9)", "os._exit(3)", "raise RuntimeError('forked')"];
    for failure in failures {
        let executed = started(&test, "executed");
        let source = format!("import os, sys\nif '_hoistway_runner.warm_parent' in sys.modules: {failure}\n{SOURCE}");
        let (instance, agent) = test.ready(&source).await;
        assert_eq!(ask(&agent, "x").await, "x", "{failure}");
        assert_eq!(started(&test, "executed"), executed + 1.0, "{failure}");
        assert!(
            test.log(20).await.iter().any(|line| line.contains("was forked, and is started by itself")),
            "{failure}"
        );
        test.runtime.remove(&instance.revision, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_on_its_parent_go_on_when_one_that_was_killed_is_discarded() {
    let test = TestRuntime::new(Kind::Forked).await;
    let other = Instance { agent: name("another"), ..test.instance(COUNTS).await };
    let other = ready(&test, other).await;
    assert_eq!(ask(&other, "x").await, "1");
    for launcher in launchers(&test, "test-agent") {
        kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
    }
    test.runtime.forget(&name("test-agent")).await.unwrap();
    assert_eq!(ask(&other, "x").await, "2");
}

/// The first child of the first process of a warm parent's namespace.
fn warm_parent(test: &TestRuntime) -> i32 {
    let launcher = launchers(test, "warm parent")[0];
    let child = |of: i32| {
        let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()).min().unwrap()
    };
    child(child(launcher))
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_outlive_the_process_that_they_were_forked_from() {
    let test = TestRuntime::new(Kind::Forked).await;
    let (_, agent) = test.ready(COUNTS).await;
    assert_eq!(started(&test, "executed"), 1.0);
    assert_eq!(ask(&agent, "x").await, "1");
    let parent = Pid::from_raw(warm_parent(&test)).unwrap();
    let ended = pidfd_open(parent, PidfdFlags::empty()).unwrap();
    kill_process(parent, Signal::KILL).unwrap();
    poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).unwrap();
    // The next one is started by itself, once the end is noticed.
    let executed = async {
        while started(&test, "executed") == 1.0 {
            let (instance, _) = test.ready(SOURCE).await;
            test.runtime.remove(&instance.revision, Duration::ZERO).await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, executed).await.unwrap();
    assert_eq!(ask(&agent, "x").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_without_one_that_was_killed() {
    let test = TestRuntime::new(Kind::Forked).await;
    for launcher in launchers(&test, "test-agent") {
        kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
    }
    until_prepared(&*test.runtime, 0.0).await;
    let forked = started(&test, "forked");
    let (_, agent) = test.ready(SOURCE).await;
    assert_eq!(started(&test, "forked"), forked + 1.0);
    assert_eq!(ask(&agent, "still").await, "still");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_sees_the_directory_that_is_there_when_it_is_deployed() {
    let shared = tempfile::tempdir().unwrap();
    let data = shared.path().join("data");
    let write = |text: &str| {
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("text"), text).unwrap();
        open_to_all(shared.path());
        open_to_all(&data);
    };
    write("old");
    let test = TestRuntime::with(Kind::Forked, |settings| settings.readable = vec![data.clone()]).await;
    std::fs::rename(&data, shared.path().join("before")).unwrap();
    write("new");
    let source = format!("def handler(message): return open('{}/text').read()", data.display());
    let (_, agent) = test.ready(&source).await;
    assert_eq!(ask(&agent, "x").await, "new");
}
