//! Events and measurements of agents.

use crate::fake_runtime::{TestService, failure, spec};
use futures_util::StreamExt;
use hoistway_agent::runtime::State;
use hoistway_model::{
    Operation,
    agent::{AgentChange, AgentEvent, AgentEvents, EventPosition, Phase},
};
use std::time::Duration;

async fn next(events: &mut AgentEvents) -> AgentEvent {
    tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn events_of_an_agent_come_in_order() {
    let stack = TestService::start().await;
    let mut events = stack.agents.agent_events(None).await.unwrap();
    let (image, _) = stack.push("1");
    let spec = spec("a", &image);
    let revision = stack.deploy(&spec).await;
    let mut changes = Vec::new();
    while changes.last() != Some(&AgentChange::Phase(Phase::Running, String::new())) {
        changes.push(next(&mut events).await.change);
    }
    assert!(matches!(changes[0], AgentChange::Phase(Phase::Pending, _)), "{changes:?}");

    let crash =
        State::Crashed { failure: failure("exit status 7"), out_of_memory: false, restarts: 2, next_try_ms: i64::MAX };
    stack.runtime.set(&revision, crash);
    let crashed = next(&mut events).await;
    assert_eq!(crashed.change, AgentChange::Crashed { reason: "exit status 7".into(), restarts: 2 });
    assert_eq!((crashed.agent.as_str(), crashed.revision), ("a", Some(revision)));
    let AgentChange::Phase(Phase::Failed, why) = next(&mut events).await.change else { panic!() };
    assert!(why.contains("exit status 7"), "{why}");
    stack.runtime.set(&revision, State::Ready);
    let up = next(&mut events).await;
    assert_eq!(up.change, AgentChange::Phase(Phase::Running, String::new()));

    let metrics = stack.agents.agent_metrics().await.unwrap();
    let text = hoistway_kit::metrics::text(metrics.of_service);
    for line in [
        "hoistway_agent_crashes_total{agent=\"a\"} 1\n",
        "hoistway_agents{phase=\"Running\"} 1\n",
        "hoistway_agent_up{agent=\"a\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }

    stack.agents.delete_agent(Operation::new(), spec.agent.clone()).await.unwrap();
    assert_eq!(next(&mut events).await.change, AgentChange::Deleted);
    let text = hoistway_kit::metrics::text(stack.agents.agent_metrics().await.unwrap().of_service);
    assert!(!text.contains("agent=\"a\""), "{text}");

    // Who comes back gets what was missed; who was with an earlier process gets all that is kept.
    let mut back = stack.agents.agent_events(Some(crashed.place)).await.unwrap();
    assert!(matches!(next(&mut back).await.change, AgentChange::Phase(Phase::Failed, _)));
    let mut old = stack.agents.agent_events(Some(EventPosition { epoch: 1, sequence: 9 })).await.unwrap();
    assert_eq!(next(&mut old).await.place.sequence, 1);
    stack.service.close_routes();
    while events.next().await.is_some() {}
}
