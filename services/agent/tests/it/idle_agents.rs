//! Agents that are stopped because nobody invokes them, and started by the next invoke.

use crate::fake_runtime::{Done, SLOW, TestService, Watch, name, spec, with_prompt};
use futures_util::{StreamExt, future::join_all};
use hoistway_agent::runtime::State;
use hoistway_model::{
    Code, Operation, RevisionId,
    agent::{AgentChange, AgentSpec, Phase},
    revision::{RevisionRef, RevisionState},
    tool::BoundTool,
};
use std::time::Duration;

const IDLE: &str = "the agent is idle; the next invoke starts it";

/// A service whose agents become idle, with one that is deployed, and a gateway.
async fn idling() -> (TestService, AgentSpec, RevisionId, Watch) {
    let mut stack = TestService::start().await;
    stack.idle_seconds = 60;
    let stack = stack.restart().await;
    let a = spec("a", &stack.push("1").0);
    let revision = stack.deploy(&a).await;
    let routes = stack.routes().await;
    (stack, a, revision, routes)
}

impl TestService {
    async fn report_idle(&self, watcher: &str, instance: RevisionId) {
        self.agents.report_idle(watcher.into(), name("a"), instance, false).await.unwrap();
    }

    /// Makes the agent idle.
    async fn rest(&self, routes: &mut Watch) {
        let (version, route) = routes.see(|r| r.ready).await;
        routes.ack(version).await;
        self.report_idle("gateway", route.target.unwrap().revision).await;
        let (version, route) = routes.see(|r| r.idle).await;
        assert_eq!((route.target, route.ready, route.message.as_str()), (None, false, IDLE));
        routes.ack(version).await;
    }

    async fn wake(&self) {
        self.agents.wake_agent(name("a")).await.unwrap();
    }

    /// The sum of the samples of a measurement with this name and label value.
    async fn measured(&self, family: &str, label: Option<&str>) -> f64 {
        let metrics = self.agents.agent_metrics().await.unwrap();
        let found = metrics.of_service.iter().find(|f| f.name == family).unwrap();
        let is = |s: &&hoistway_model::metric::Sample| {
            s.suffix != "_bucket" && s.suffix != "_sum" && label.is_none_or(|l| s.labels.iter().any(|(_, v)| v == l))
        };
        found.samples.iter().filter(is).map(|s| s.value).sum()
    }
}

#[tokio::test]
async fn an_idle_agent_keeps_its_status_and_is_started_once_for_all_invokes() {
    let (stack, a, revision, mut routes) = idling().await;
    let mut events = stack.agents.agent_events(None).await.unwrap();
    let mut phase = async || {
        let next = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
        match next.unwrap().unwrap().unwrap().change {
            AgentChange::Phase(phase, message) => (phase, message),
            other => panic!("{other:?}"),
        }
    };
    let (version, route) = routes.see(|r| r.ready).await;
    assert_eq!(route.idle_after, Some(Duration::from_secs(60)));
    let instance = route.target.unwrap().revision;
    stack.report_idle("gateway", instance).await;
    let (_, route) = routes.see(|r| r.idle).await;
    assert!(!route.ready && route.target.is_none());
    // Nothing is ended while a gateway may still connect to it.
    assert!(stack.runtime.instance(&instance).is_some());
    routes.ack(version + 10).await;
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == instance)).await;
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.phase, agent.message.as_str(), agent.idle), (Phase::Running, IDLE, true));
    assert_eq!((agent.revision, agent.revision_number, agent.needs_rebuild), (revision, 1, false));
    let shown = stack.agents.get_revision(a.agent.clone(), RevisionRef::Current).await.unwrap();
    assert_eq!((shown.id, shown.state), (revision, RevisionState::Serving));
    assert_eq!(stack.measured("hoistway_agents_idle", None).await, 1.0);
    let told = |d: &Done| matches!(d, Done::Remarked(r, text) if *r == instance && text.contains("no invoke for 60 s"));
    assert!(stack.runtime.done.borrow().iter().any(told));

    let before = stack.runtime.applied();
    for woken in join_all((0..64).map(|_| stack.agents.wake_agent(a.agent.clone()))).await {
        woken.unwrap();
    }
    assert_eq!(stack.runtime.applied(), before + 1);
    let (_, route) = routes.see(|r| r.ready).await;
    assert!(!route.idle && route.target.unwrap().revision != instance);
    let agent = stack.agent(&a.agent).await;
    assert_eq!(
        (agent.phase, agent.message.as_str(), agent.idle, agent.revision),
        (Phase::Running, "", false, revision)
    );
    stack.runtime.wait_for(|d| matches!(d, Done::Remarked(_, text) if text.starts_with("started for an invoke"))).await;
    assert_eq!(stack.measured("hoistway_agents_idle", None).await, 0.0);
    assert_eq!(stack.measured("hoistway_agent_wakes_total", Some("ok")).await, 1.0);
    assert_eq!(stack.measured("hoistway_agent_wake_seconds", None).await, 1.0);
    // One that runs is left as it is.
    stack.wake().await;
    assert_eq!(stack.runtime.applied(), before + 1);
    // Nothing is heard of the start itself.
    assert_eq!(phase().await, (Phase::Running, IDLE.to_owned()));
    assert_eq!(phase().await, (Phase::Running, String::new()));
}

#[tokio::test]
async fn only_what_every_gateway_leaves_alone_and_nothing_changes_becomes_idle() {
    let (stack, a, revision, mut routes) = idling().await;
    let _second = stack.agents.watch_routes("second".into()).await.unwrap();
    let (_, route) = routes.see(|r| r.ready).await;
    let instance = route.target.unwrap().revision;
    stack.report_idle("gateway", instance).await;
    stack.report_idle("stranger", instance).await;
    assert!(!stack.agent(&a.agent).await.idle, "the other gateway may invoke it");
    stack.report_idle("second", RevisionId::mint()).await;
    assert!(!stack.agent(&a.agent).await.idle, "it is another instance");
    // One that invokes it again counts no longer.
    stack.agents.report_idle("gateway".into(), a.agent.clone(), instance, true).await.unwrap();
    stack.report_idle("second", instance).await;
    assert!(!stack.agent(&a.agent).await.idle, "the gateway invokes it again");
    stack.report_idle("gateway", RevisionId::mint()).await;
    stack.report_idle("second", instance).await;
    assert!(!stack.agent(&a.agent).await.idle, "the gateway has left another instance alone");
    stack.agents.report_idle("second".into(), a.agent.clone(), instance, true).await.unwrap();
    stack.report_idle("gateway", instance).await;
    let slow = with_prompt(&spec("a", &stack.push("2").0), SLOW);
    let (operation, newer) = (Operation::new(), RevisionId::mint());
    let starting = stack.agents.start_revision(operation.clone(), newer, slow);
    let reported = async {
        stack.runtime.wait_for(|d| *d == Done::Applied(newer)).await;
        stack.report_idle("second", instance).await;
        assert!(!stack.agent(&a.agent).await.idle, "a newer revision is starting");
        stack.runtime.set(&newer, State::Ready);
    };
    tokio::join!(async { starting.await.unwrap() }, reported);
    stack.report_idle("second", instance).await;
    assert!(!stack.agent(&a.agent).await.idle, "a newer revision is ready and about to be switched to");
    stack.agents.undo_start(operation.id, a.agent.clone(), newer).await.unwrap();
    stack.report_idle("second", instance).await;
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.idle, agent.revision), (true, revision));
    stack.agents.report_idle("second".into(), name("none"), instance, false).await.unwrap();
}

#[tokio::test]
async fn it_stays_idle_over_a_restart_and_starts_at_once_when_the_setting_is_gone() {
    let (stack, a, revision, mut routes) = idling().await;
    stack.rest(&mut routes).await;
    let mut stack = stack.restart().await;
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.phase, agent.idle, agent.revision), (Phase::Running, true, revision));
    assert_eq!((stack.runtime.applied(), stack.measured("hoistway_agents_idle", None).await), (0, 1.0));
    let (_, route) = stack.routes().await.see(|r| r.idle).await;
    assert_eq!(route.message, IDLE);
    stack.wake().await;
    assert_eq!(stack.runtime.applied(), 1);
    let mut routes = stack.routes().await;
    stack.rest(&mut routes).await;
    stack.idle_seconds = 0;
    let stack = stack.restart().await;
    let (_, route) = stack.routes().await.see(|r| r.ready).await;
    assert_eq!(route.idle_after, None);
    stack.report_idle("gateway", route.target.unwrap().revision).await;
    assert!(!stack.agent(&a.agent).await.idle);
}

#[tokio::test]
async fn a_failed_start_for_an_invoke_says_why_and_is_not_repeated_by_invokes() {
    let (stack, a, _, mut routes) = idling().await;
    stack.rest(&mut routes).await;
    stack.runtime.fail_from_now_on(&a.agent);
    let e = stack.agents.wake_agent(a.agent.clone()).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::AgentStartFailed, "the agent could not be started: no more"));
    assert_eq!(e.details, ["Traceback (most recent call last):", "no more"]);
    assert_eq!(stack.measured("hoistway_agent_wakes_total", Some("failed")).await, 1.0);
    let applied = stack.runtime.applied();
    let again = stack.agents.wake_agent(a.agent.clone()).await.unwrap_err();
    assert_eq!((again.message, stack.runtime.applied()), (e.message, applied));
    let (_, route) = routes.see(|r| r.message.ends_with("no more")).await;
    assert!(!route.idle && !route.ready);
    assert_eq!(stack.status(&a.agent).await, (Phase::Failed, "no more".into()));
}

/// Deploys a revision that becomes ready only when it is told to, and switches to it once that has happened.
async fn deploy_slow(stack: &TestService, a: &AgentSpec) -> RevisionId {
    let newer = RevisionId::mint();
    let ready = async {
        stack.runtime.wait_for(|d| *d == Done::Applied(newer)).await;
        stack.runtime.set(&newer, State::Ready);
    };
    let start = stack.agents.start_revision(Operation::new(), newer, with_prompt(a, SLOW));
    tokio::join!(async { start.await.unwrap() }, ready);
    stack.switch(&a.agent, newer).await;
    newer
}

/// Waits until the runtime was given more instances than these, and returns the last one.
async fn applied_after(stack: &TestService, before: usize) -> RevisionId {
    let applied = |d: &Done| if let Done::Applied(r) = d { Some(*r) } else { None };
    let mut done = stack.runtime.done.subscribe();
    let done = done.wait_for(|done| done.iter().filter_map(applied).count() > before).await.unwrap();
    done.iter().rev().find_map(applied).unwrap()
}

#[tokio::test]
async fn a_crash_while_it_starts_says_why_and_the_next_start_is_on_its_way() {
    let (stack, a, _, mut routes) = idling().await;
    let newer = deploy_slow(&stack, &a).await;
    routes.see(|r| r.target.as_ref().is_some_and(|t| t.revision == newer)).await;
    stack.report_idle("gateway", newer).await;
    let before = stack.runtime.applied();
    let crash = async {
        let last = applied_after(&stack, before).await;
        let failure = crate::fake_runtime::failure("boom");
        stack.runtime.set(&last, State::Crashed { failure, out_of_memory: false, restarts: 1, next_try_ms: 0 });
    };
    let (woken, ()) = tokio::join!(stack.agents.wake_agent(a.agent.clone()), crash);
    let e = woken.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::AgentStartFailed, "the agent crashed (boom) and is started again"));
    assert_eq!(e.details.last().map(String::as_str), Some("boom"));
    assert_eq!(stack.status(&a.agent).await.0, Phase::Failed);
}

#[tokio::test]
async fn an_idle_agent_is_stopped_started_restarted_redeployed_and_deleted_like_others() {
    let (stack, a, revision, mut routes) = idling().await;
    stack.rest(&mut routes).await;
    let stopped = stack.agents.stop_agent(Operation::new(), a.agent.clone()).await.unwrap();
    assert_eq!((stopped.phase, stopped.idle), (Phase::Stopped, false));
    stack.wake().await;
    assert_eq!(stack.status(&a.agent).await.0, Phase::Stopped, "an invoke does not start what a user has stopped");
    let started = stack.agents.start_agent(Operation::new(), a.agent.clone()).await.unwrap();
    assert_eq!((started.phase, started.revision), (Phase::Running, revision));
    stack.rest(&mut routes).await;
    let started = stack.agents.start_agent(Operation::new(), a.agent.clone()).await.unwrap();
    assert_eq!((started.phase, started.idle), (Phase::Running, false));
    stack.rest(&mut routes).await;
    let restarted = stack.agents.restart_agent(Operation::new(), a.agent.clone()).await.unwrap();
    assert_eq!((restarted.phase, restarted.idle, restarted.revision), (Phase::Running, false, revision));
    stack.rest(&mut routes).await;
    let newer = stack.deploy(&spec("a", &stack.push("2").0)).await;
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.phase, agent.idle, agent.revision), (Phase::Running, false, newer));
    let kept = stack.agents.list_revisions(a.agent.clone(), None, 10).await.unwrap();
    assert_eq!((kept.len(), kept[1].id, kept[1].state), (2, revision, RevisionState::Superseded));
    stack.rest(&mut routes).await;
    stack.agents.delete_agent(Operation::new(), a.agent.clone()).await.unwrap();
    assert_eq!(stack.agents.wake_agent(a.agent.clone()).await.unwrap_err().code, Code::NotFound);
    assert_eq!(stack.measured("hoistway_agents_idle", None).await, 0.0);
}

#[tokio::test]
async fn a_tool_that_comes_while_an_agent_is_idle_does_not_start_it() {
    let (stack, a, _, mut routes) = idling().await;
    let mut with_tool = spec("a", &stack.push("2").0);
    with_tool.tools.push(BoundTool { name: name("crm"), url: None });
    let revision = stack.deploy(&with_tool).await;
    routes.see(|r| r.target.as_ref().is_some_and(|t| t.revision == revision)).await;
    stack.report_idle("gateway", revision).await;
    let before = stack.runtime.applied();
    let tool = BoundTool { name: name("crm"), url: Some("http://crm.example".into()) };
    let bound = stack.agents.bind_tool(Operation::new(), tool.clone(), None).await.unwrap();
    assert_eq!((bound, stack.runtime.applied()), (vec![name("a")], before));
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.idle, agent.revision, agent.spec.tools), (true, revision, vec![tool]));
    let stack = stack.restart().await;
    assert!(stack.agent(&a.agent).await.idle);
    stack.wake().await;
    assert_eq!(stack.status(&a.agent).await, (Phase::Running, String::new()));
}

#[tokio::test]
async fn callers_of_an_idle_agent_are_those_of_its_revision() {
    let (stack, _, _, mut routes) = idling().await;
    let mut guarded = spec("a", &stack.push("2").0);
    guarded.config.identity_provider = Some(name("sso"));
    let revision = stack.deploy(&guarded).await;
    routes.see(|r| r.target.as_ref().is_some_and(|t| t.revision == revision)).await;
    stack.report_idle("gateway", revision).await;
    let (_, route) = routes.see(|r| r.idle).await;
    assert_eq!((route.needs_caller_identity, route.identity_provider), (true, Some(name("sso"))));
    let stack = stack.restart().await;
    let (_, route) = stack.routes().await.see(|r| r.idle).await;
    assert_eq!(route.identity_provider, Some(name("sso")));
}

#[tokio::test]
async fn a_fault_of_the_machine_leaves_an_agent_idle_for_a_later_invoke() {
    let (stack, a, revision, mut routes) = idling().await;
    stack.rest(&mut routes).await;
    let before = stack.runtime.applied();
    *stack.runtime.refusal.lock().unwrap() = Some((Code::InsufficientStorage, "the disk is full"));
    for woken in join_all((0..8).map(|_| stack.agents.wake_agent(a.agent.clone()))).await {
        let e = woken.unwrap_err();
        assert_eq!(e.code, Code::InsufficientStorage);
        assert!(e.message.starts_with("the agent could not be started: the disk is full"), "{e}");
    }
    assert_eq!(stack.runtime.applied(), before + 1);
    let agent = stack.agent(&a.agent).await;
    let told = format!("{IDLE}; its last start failed: the disk is full");
    assert_eq!((agent.phase, agent.message, agent.idle, agent.revision), (Phase::Running, told, true, revision));
    let (_, route) = routes.see(|r| r.message.ends_with("the disk is full")).await;
    assert!(route.idle && !route.ready);
    // The next invokes do not try it at once.
    let e = stack.agents.wake_agent(a.agent.clone()).await.unwrap_err();
    let text = "the agent could not be started: the disk is full; an invoke tries it again in 1 s";
    assert_eq!((e.code, e.message.as_str()), (Code::InsufficientStorage, text));
    assert_eq!(stack.runtime.applied(), before + 1);
    assert_eq!(stack.measured("hoistway_agent_wakes_total", Some("failed")).await, 1.0);
    *stack.runtime.refusal.lock().unwrap() = None;
    let later = async {
        while stack.agents.wake_agent(a.agent.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), later).await.unwrap();
    assert_eq!(stack.runtime.applied(), before + 2);
    assert_eq!(stack.status(&a.agent).await, (Phase::Running, String::new()));
    // An operator does not wait for the next try.
    stack.rest(&mut routes).await;
    *stack.runtime.refusal.lock().unwrap() = Some((Code::Internal, "too many open files"));
    stack.agents.wake_agent(a.agent.clone()).await.unwrap_err();
    *stack.runtime.refusal.lock().unwrap() = None;
    let started = stack.agents.start_agent(Operation::new(), a.agent.clone()).await.unwrap();
    assert_eq!((started.phase, started.idle, started.revision), (Phase::Running, false, revision));
}

#[tokio::test]
async fn a_start_writes_nothing_before_the_agent_is_ready() {
    let (stack, a, revision, mut routes) = idling().await;
    let newer = deploy_slow(&stack, &a).await;
    assert_ne!(newer, revision);
    stack.rest(&mut routes).await;
    let wake = {
        let (agents, name) = (stack.agents.clone(), a.agent.clone());
        tokio::spawn(async move { agents.wake_agent(name).await })
    };
    let applied = stack.runtime.applied();
    applied_after(&stack, applied).await;
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.phase, agent.idle, agent.message.as_str()), (Phase::Running, false, "the agent is starting"));
    // Cut off here, it is as idle as before.
    let stack = stack.restart().await;
    assert_eq!(wake.await.unwrap().unwrap_err().code, Code::Aborted);
    assert_eq!((stack.agent(&a.agent).await.idle, stack.runtime.applied()), (true, 0));
}

#[tokio::test]
async fn one_that_was_marked_as_idle_without_an_answer_becomes_idle() {
    const TABLES: [&str; 2] = ["agents", "revisions"];
    let save = |name: &str| TABLES.map(|table| format!("CREATE TABLE {name}_{table} AS SELECT * FROM {table}"));
    let restore = |name: &str| {
        TABLES
            .map(|table| [format!("DELETE FROM {table}"), format!("INSERT INTO {table} SELECT * FROM {name}_{table}")])
    };
    let (stack, a, revision, mut routes) = idling().await;
    let (_, route) = routes.see(|r| r.ready).await;
    let instance = route.target.unwrap().revision;
    stack.sql(&save("running").each_ref().map(String::as_str)).await;
    stack.report_idle("gateway", instance).await;
    routes.see(|r| r.idle).await;
    stack.sql(&save("idle").each_ref().map(String::as_str)).await;
    stack.sql(&restore("running").as_flattened().iter().map(String::as_str).collect::<Vec<_>>()).await;
    let stack = stack.restart().await;
    let mut routes = stack.routes().await;
    let (version, route) = routes.see(|r| r.ready).await;
    assert_eq!(route.target.unwrap().revision, instance);
    routes.ack(version + 10).await;
    // As if the commit had been answered with an error.
    stack.sql(&restore("idle").as_flattened().iter().map(String::as_str).collect::<Vec<_>>()).await;
    stack.report_idle("gateway", instance).await;
    let (version, _) = routes.see(|r| r.idle).await;
    routes.ack(version).await;
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == instance)).await;
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.phase, agent.idle, agent.revision), (Phase::Running, true, revision));
    stack.wake().await;
    assert_eq!(stack.status(&a.agent).await, (Phase::Running, String::new()));
}

#[tokio::test]
async fn a_gateway_whose_subscription_has_ended_does_not_count() {
    let (stack, a, _, mut routes) = idling().await;
    let second = stack.agents.watch_routes("second".into()).await.unwrap();
    let (_, route) = routes.see(|r| r.ready).await;
    let instance = route.target.unwrap().revision;
    stack.report_idle("second", instance).await;
    drop(second);
    stack.report_idle("second", instance).await;
    assert!(!stack.agent(&a.agent).await.idle, "the one that is there has not reported it");
    let _second = stack.agents.watch_routes("second".into()).await.unwrap();
    stack.report_idle("gateway", instance).await;
    assert!(!stack.agent(&a.agent).await.idle, "what it reported before it came back counts no more");
    stack.report_idle("second", instance).await;
    assert!(stack.agent(&a.agent).await.idle);
}
