//! Stop, start and restart.

use crate::fake_runtime::{Done, TestService, name, spec};
use hoistway_model::{
    Code, Operation, RevisionId,
    agent::{AgentSpec, Phase},
    revision::{RevisionRef, RevisionState},
    tool::BoundTool,
};

impl TestService {
    async fn stop(&self, agent: &str) -> Phase {
        self.agents.stop_agent(Operation::new(), name(agent)).await.unwrap().phase
    }

    async fn start_again(&self, agent: &str) -> Phase {
        self.agents.start_agent(Operation::new(), name(agent)).await.unwrap().phase
    }

    /// The instance that the agent's route leads to.
    async fn serving(&self, agent: &str) -> RevisionId {
        let mut routes = self.routes().await;
        let (_, route) = routes.see(|r| r.ready && r.agent == name(agent)).await;
        route.target.unwrap().revision
    }
}

#[tokio::test]
async fn a_stopped_agent_stays_down_until_it_is_started() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    let revision = stack.deploy(&a).await;
    let operation = Operation::new();
    for _ in 0..2 {
        let stopped = stack.agents.stop_agent(operation.clone(), a.agent.clone()).await.unwrap();
        assert_eq!(stopped.phase, Phase::Stopped);
    }
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == revision)).await;
    assert_eq!(stack.stop("a").await, Phase::Stopped);
    let told = "the agent is stopped; POST /api/agents/a/start starts it";
    let (_, route) = stack.routes().await.see(|r| !r.ready).await;
    assert_eq!((route.target, route.message.as_str()), (None, told));
    let stack = stack.restart().await;
    assert_eq!(stack.status(&a.agent).await, (Phase::Stopped, told.into()));
    let seen = stack.agents.get_revision(a.agent.clone(), RevisionRef::Current).await.unwrap();
    assert_eq!((seen.id, seen.number, seen.state), (revision, 1, RevisionState::Stopped));
    assert_eq!(stack.runtime.applied(), 0);

    let operation = Operation::new();
    for _ in 0..2 {
        let started = stack.agents.start_agent(operation.clone(), a.agent.clone()).await.unwrap();
        assert_eq!((started.phase, started.revision, started.revision_number), (Phase::Running, revision, 1));
    }
    assert_eq!((stack.start_again("a").await, stack.runtime.applied()), (Phase::Running, 1));
    let seen = stack.agents.list_revisions(a.agent.clone(), None, 10).await.unwrap();
    assert_eq!((seen.len(), seen[0].id, seen[0].state), (1, revision, RevisionState::Serving));
    assert_ne!(stack.serving("a").await, revision, "it is another instance");
    let stack = stack.restart().await;
    stack.serving("a").await;
    assert_eq!(stack.agent(&a.agent).await.revision, revision);
}

#[tokio::test]
async fn a_stop_that_is_repeated_late_stops_nothing() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    stack.deploy(&a).await;
    let operation = Operation::new();
    stack.agents.stop_agent(operation.clone(), a.agent.clone()).await.unwrap();
    assert_eq!(stack.start_again("a").await, Phase::Running);
    let late = stack.agents.stop_agent(operation, a.agent).await.unwrap();
    assert_eq!(late.phase, Phase::Running);
}

#[tokio::test]
async fn a_deploy_starts_a_stopped_agent() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    stack.deploy(&a).await;
    stack.stop("a").await;
    let (operation, revision) = stack.start_revision(&a).await;
    assert_eq!(stack.status(&a.agent).await.0, Phase::Stopped);
    stack.agents.undo_start(operation.id, a.agent.clone(), revision).await.unwrap();
    assert_eq!(stack.status(&a.agent).await.0, Phase::Stopped);
    stack.deploy(&spec("a", &stack.push("2").0)).await;
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.phase, agent.revision_number), (Phase::Running, 3));
}

#[tokio::test]
async fn a_restart_swaps_the_instance_and_keeps_the_revision() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    let revision = stack.deploy(&a).await;
    let operation = Operation::new();
    for _ in 0..2 {
        let agent = stack.agents.restart_agent(operation.clone(), a.agent.clone()).await.unwrap();
        assert_eq!((agent.phase, agent.revision, agent.revision_number), (Phase::Running, revision, 1));
    }
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == revision)).await;
    assert_eq!(stack.runtime.applied(), 2);
    let instance = stack.serving("a").await;
    assert_ne!(instance, revision);
    let seen = stack.agents.list_revisions(a.agent.clone(), None, 10).await.unwrap();
    assert_eq!((seen.len(), seen[0].id), (1, revision));
    let by_id = stack.agents.get_revision(a.agent.clone(), RevisionRef::Id(revision)).await.unwrap();
    assert_eq!(by_id.state, RevisionState::Serving);
    // It becomes a superseded revision under its own id, and is started when it was stopped.
    stack.deploy(&spec("a", &stack.push("2").0)).await;
    let seen = stack.agents.list_revisions(a.agent.clone(), None, 10).await.unwrap();
    assert_eq!((seen[1].id, seen[1].number, seen[1].state), (revision, 1, RevisionState::Superseded));
    stack.stop("a").await;
    let agent = stack.agents.restart_agent(Operation::new(), a.agent).await.unwrap();
    assert_eq!(agent.phase, Phase::Running);
}

#[tokio::test]
async fn a_restart_that_fails_leaves_what_runs() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    let revision = stack.deploy(&a).await;
    stack.runtime.fail_from_now_on(&a.agent);
    let e = stack.agents.restart_agent(Operation::new(), a.agent.clone()).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::AgentStartFailed, "the agent was not restarted: no more"));
    assert_eq!((stack.serving("a").await, stack.status(&a.agent).await.0), (revision, Phase::Running));
    assert_eq!(stack.agents.list_revisions(a.agent, None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_start_that_fails_is_told_by_the_phase() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    stack.deploy(&a).await;
    stack.stop("a").await;
    stack.runtime.fail_from_now_on(&a.agent);
    assert_eq!(stack.start_again("a").await, Phase::Failed);
    assert_eq!(stack.stop("a").await, Phase::Stopped);
}

#[tokio::test]
async fn a_tool_that_comes_while_an_agent_is_stopped_is_there_when_it_starts() {
    let stack = TestService::start().await;
    let mut a = spec("a", &stack.push("1").0);
    a.tools.push(BoundTool { name: name("crm"), url: None });
    stack.deploy(&a).await;
    stack.stop("a").await;
    let tool = BoundTool { name: name("crm"), url: Some("http://crm.example".into()) };
    let bound = stack.agents.bind_tool(Operation::new(), tool.clone(), None).await.unwrap();
    assert_eq!((bound, stack.status(&a.agent).await.0), (vec![name("a")], Phase::Stopped));
    let started = stack.agents.start_agent(Operation::new(), a.agent.clone()).await.unwrap();
    assert_eq!((started.phase, started.spec.tools), (Phase::Running, vec![tool]));
}

#[tokio::test]
async fn an_absent_or_undeployed_agent_cannot_be_stopped() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    for code in [
        stack.agents.stop_agent(Operation::new(), a.agent.clone()).await.unwrap_err().code,
        stack.agents.start_agent(Operation::new(), a.agent.clone()).await.unwrap_err().code,
        stack.agents.restart_agent(Operation::new(), a.agent.clone()).await.unwrap_err().code,
    ] {
        assert_eq!(code, Code::NotFound);
    }
    stack.start_revision(&AgentSpec { ..a.clone() }).await;
    let e = stack.agents.stop_agent(Operation::new(), a.agent).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::Conflict, "the first deploy of agent \"a\" is not finished yet"));
}
