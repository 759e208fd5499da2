//! Whom egress lets out.

use crate::fake_runtime::{Done, TestService, name, spec};
use futures_util::StreamExt;
use hoistway_model::{
    Operation, RevisionId,
    agent::{AgentSpec, LlmConfig, LlmRole},
    egress::{AgentIdentity, RefusedCall},
    tool::BoundTool,
    watch::{Update, Updates},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;

/// The time limit that the platform promises for a change.
const ONE_SECOND: Duration = Duration::from_secs(1);

/// The identities as egress has them.
struct Identities {
    updates: Updates<RevisionId, AgentIdentity>,
    known: BTreeMap<RevisionId, AgentIdentity>,
}

impl Identities {
    async fn watch(stack: &TestService) -> Self {
        let updates = stack.service.identities().watch_identities().await.unwrap();
        let mut identities = Self { updates, known: BTreeMap::new() };
        while identities.step().await != Update::Complete {}
        identities
    }

    async fn step(&mut self) -> Update<RevisionId, AgentIdentity> {
        let update = timeout(ONE_SECOND, self.updates.next()).await.unwrap().unwrap().unwrap();
        match update.clone() {
            Update::Set(revision, identity) => drop(self.known.insert(revision, identity)),
            Update::Removed(revision) => drop(self.known.remove(&revision)),
            Update::Complete => {}
        }
        update
    }

    /// Follows until exactly these revisions have an identity.
    async fn become_those_of(&mut self, wanted: &[RevisionId]) {
        let mut wanted = wanted.to_vec();
        wanted.sort();
        while !self.known.keys().eq(&wanted) {
            self.step().await;
        }
    }
}

fn requiring(mut spec: AgentSpec, tools: &[&str]) -> AgentSpec {
    spec.tools = tools.iter().map(|tool| BoundTool { name: name(tool), url: None }).collect();
    spec
}

#[tokio::test]
async fn a_revision_may_call_its_own_tools_from_its_start_until_it_has_ended() {
    let stack = TestService::start().await;
    let mut identities = Identities::watch(&stack).await;
    assert!(identities.known.is_empty());
    let image = stack.push("1").0;
    let llm = vec![LlmConfig { role: LlmRole::Chat, provider: "openai".into(), model: "gpt-4o-mini".into() }];
    let mut with_model = requiring(spec("a", &image), &["x", "y"]);
    with_model.config.llm = llm.clone();
    let first = stack.deploy(&with_model).await;
    identities.become_those_of(&[first]).await;
    let required_tools = vec![name("x"), name("y")];
    let (open_network, own_key_origins) = (true, Vec::new());
    let expected =
        AgentIdentity { revision: first, agent: name("a"), required_tools, open_network, llm, own_key_origins };
    assert_eq!(identities.known[&first], expected);

    let (operation, second) = stack.start_revision(&requiring(spec("a", &image), &["y"])).await;
    identities.become_those_of(&[first, second]).await;
    assert_eq!(identities.known[&second].required_tools, [name("y")]);
    stack.agents.undo_start(operation.id, name("a"), second).await.unwrap();
    identities.become_those_of(&[first]).await;

    let third = stack.deploy(&spec("a", &image)).await;
    identities.become_those_of(&[third]).await;
    assert!(identities.known[&third].required_tools.is_empty());
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == first)).await;
}

#[tokio::test]
async fn a_revision_keeps_its_identity_when_it_is_started_anew() {
    let stack = TestService::start().await;
    let a = requiring(spec("a", &stack.push("1").0), &["x"]);
    let revision = stack.deploy(&a).await;
    let mut identities = Identities::watch(&stack).await;
    stack.agents.restart_agent(Operation::new(), name("a")).await.unwrap();
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == revision)).await;
    identities.become_those_of(&[revision]).await;
    stack.agents.stop_agent(Operation::new(), name("a")).await.unwrap();
    identities.become_those_of(&[]).await;
    stack.agents.start_agent(Operation::new(), name("a")).await.unwrap();
    identities.become_those_of(&[revision]).await;
    let stack = stack.restart().await;
    assert!(identities.updates.next().await.is_none(), "a watch ends with the service");
    let identities = Identities::watch(&stack).await;
    assert_eq!(identities.known.keys().collect::<Vec<_>>(), [&revision]);
}

#[tokio::test]
async fn a_deleted_agent_loses_its_identity_before_its_processes_end() {
    let stack = TestService::start().await;
    let image = stack.push("1").0;
    let (gone, kept) = (stack.deploy(&spec("gone", &image)).await, stack.deploy(&spec("kept", &image)).await);
    let mut identities = Identities::watch(&stack).await;
    identities.become_those_of(&[gone, kept]).await;
    // A gateway that does not follow holds the deletion up, and nothing else.
    let slow = stack.routes().await;
    let agents = stack.agents.clone();
    let deleting = tokio::spawn(async move { agents.delete_agent(Operation::new(), name("gone")).await });
    identities.become_those_of(&[kept]).await;
    assert!(!deleting.is_finished(), "the deletion waits for the gateway");
    drop(slow);
    deleting.await.unwrap().unwrap();
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == gone)).await;
}

#[tokio::test]
async fn a_refused_call_is_logged_for_the_instance_that_made_it_and_for_no_other() {
    let stack = TestService::start().await;
    let image = stack.push("1").0;
    stack.deploy(&spec("a", &image)).await;
    let second = stack.deploy(&spec("b", &image)).await;
    let text = "egress answered 403 to GET https://x: no";
    let call = |revision| RefusedCall { revision, text: text.to_owned() };
    let gone = RevisionId::mint();
    stack.service.identities().log_refused_calls(vec![call(gone), call(second)]).await.unwrap();
    let done = stack.runtime.done.borrow().clone();
    let remarks: Vec<&Done> = done.iter().filter(|done| matches!(done, Done::Remarked(..))).collect();
    assert_eq!(remarks, [&Done::Remarked(second, text.to_owned())]);
}
