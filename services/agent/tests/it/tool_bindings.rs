//! Tools that are registered after the agents that want them.

use crate::fake_runtime::{Done, TestService, name, spec, with_prompt};
use hoistway_model::{
    Operation,
    agent::{AgentSpec, Phase},
    tool::BoundTool,
};
use std::time::Duration;

fn wanting(mut spec: AgentSpec, tool: &str) -> AgentSpec {
    spec.tools.push(BoundTool { name: name(tool), url: None });
    spec
}

fn tool() -> BoundTool {
    BoundTool { name: name("crm"), url: Some("http://crm.example".into()) }
}

#[tokio::test]
async fn those_who_lack_the_url_get_it_as_by_a_redeploy() {
    let stack = TestService::start().await;
    let (image, _) = stack.push("1");
    let before = stack.deploy(&wanting(spec("wants", &image), "crm")).await;
    let other = stack.deploy(&wanting(spec("other", &image), "erp")).await;
    let operation = Operation::new();
    for _ in 0..2 {
        let names = stack.agents.bind_tool(operation.clone(), tool(), None).await.unwrap();
        assert_eq!(names, [name("wants")]);
    }
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == before)).await;
    let agent = stack.agent(&name("wants")).await;
    assert_eq!((agent.revision, agent.revision_number), (before, 1), "where a tool is is not part of a revision");
    assert_eq!(agent.spec.tools, [tool()]);
    assert_eq!(agent.spec.fingerprint, spec("wants", &image).fingerprint);
    assert!(agent.shown_env.contains(&("TOOL_URL_CRM".into(), "http://crm.example".into())));
    assert_eq!(stack.agent(&name("other")).await.revision, other);
    assert_eq!(stack.runtime.applied(), 3);
}

#[tokio::test]
async fn a_deploy_that_was_on_its_way_is_bound_when_it_arrives() {
    let stack = TestService::start().await;
    let spec = wanting(spec("late", &stack.push("1").0), "crm");
    let (_, revision) = stack.start_revision(&spec).await;
    assert!(stack.agents.bind_tool(Operation::new(), tool(), None).await.unwrap().is_empty());
    stack.switch(&spec.agent, revision).await;
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == revision)).await;
    assert_eq!(stack.agent(&spec.agent).await.spec.tools, [tool()]);
}

#[tokio::test]
async fn the_failure_of_one_stops_nobody() {
    let stack = TestService::start().await;
    let (image, _) = stack.push("1");
    let good = wanting(spec("good", &image), "crm");
    stack.deploy(&good).await;
    let before = stack.deploy(&wanting(spec("bad", &image), "crm")).await;
    stack.runtime.fail_from_now_on(&name("bad"));
    let names = stack.agents.bind_tool(Operation::new(), tool(), None).await.unwrap();
    assert_eq!(names, [name("good")]);
    let agent = stack.agent(&name("bad")).await;
    assert_eq!((agent.revision, agent.phase), (before, Phase::Running));
}

#[tokio::test]
async fn a_tool_that_moves_takes_along_who_has_its_old_url_and_nobody_else() {
    let stack = TestService::start().await;
    let (image, _) = stack.push("1");
    let at = |url: &str| BoundTool { name: name("crm"), url: Some(url.into()) };
    let with = |agent: &str, url: &str| {
        let mut spec = spec(agent, &image);
        spec.tools.push(at(url));
        spec
    };
    let old = stack.deploy(&with("old", "http://crm.example")).await;
    let newer = stack.deploy(&with("newer", "http://newest.example")).await;
    let (_, late) = stack.start_revision(&with("late", "http://crm.example")).await;
    let moved = stack.agents.bind_tool(Operation::new(), at("http://new.example"), tool().url).await.unwrap();
    assert_eq!(moved, [name("old")]);
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == old)).await;
    assert_eq!(stack.agent(&name("old")).await.spec.tools, [at("http://new.example")]);
    // One that does not come from the replaced URL is newer.
    assert_eq!(stack.agent(&name("newer")).await.revision, newer);
    stack.switch(&name("late"), late).await;
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == late)).await;
    assert_eq!(stack.agent(&name("late")).await.spec.tools, [at("http://new.example")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_arrives_while_a_tool_is_bound_is_not_taken_back() {
    let stack = TestService::start().await;
    let (image, _) = stack.push("1");
    for round in 0..60 {
        let spec = wanting(spec(&format!("agent-{round}"), &image), &format!("crm-{round}"));
        stack.deploy(&spec).await;
        let (_, newer) = stack.start_revision(&with_prompt(&spec, "Be brief.")).await;
        let tool = BoundTool { name: name(&format!("crm-{round}")), ..tool() };
        let binding = stack.agents.bind_tool(Operation::new(), tool, None);
        // Each round a little later, so that the deploy meets the binding at every point.
        let deploy = async {
            tokio::time::sleep(Duration::from_micros(250) * round).await;
            stack.switch(&spec.agent, newer).await
        };
        let (_, agent) = tokio::join!(binding, deploy);
        assert_eq!(agent.revision, newer);
        assert_eq!(stack.agent(&spec.agent).await.revision, newer, "round {round}");
    }
}
