//! Routes of agents as the agent service changes them.

use crate::{
    fake_runner::{Runner, Script, answer, changed, route},
    fakes::name,
    test_gateway::{Answer, TestGateway},
};
use hoistway_gateway::routing_table::RouteLookup;
use hoistway_model::agent::{Route, RouteEvent};
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;

async fn with_runner(script: Script) -> (TestGateway, Runner) {
    let (gateway, runner) = (TestGateway::start().await, Runner::start(script).await);
    changed(&gateway, runner.route()).await;
    (gateway, runner)
}

async fn invoke(gateway: &TestGateway) -> Answer {
    gateway.post("/api/agents/a/invoke", json!({"message": "hi"})).await
}

#[tokio::test]
async fn a_route_is_acknowledged_when_no_invoke_connects_to_the_old_one() {
    let (gateway, _runner) = with_runner(vec![]).await;
    let routes = &gateway.state.routes;
    let mut acknowledged = gateway.agents.acknowledged.subscribe();
    let RouteLookup::Ready(picked) = routes.pick(&name("a")) else { panic!() };
    // The same target with another message retires nothing.
    let same = Route { message: "fine".into(), target: Some(picked.target.clone()), ..route(None) };
    let version = changed(&gateway, Route { ready: true, ..same }).await;
    acknowledged.wait_for(|v| *v == version).await.unwrap();

    let version = changed(&gateway, route(Some("127.0.0.1:1".into()))).await;
    let RouteLookup::Ready(newer) = routes.pick(&name("a")) else { panic!() };
    assert_eq!(newer.target.address, "127.0.0.1:1");
    assert!(tokio::time::timeout(Duration::from_millis(50), acknowledged.wait_for(|v| *v >= version)).await.is_err());
    drop(picked);
    acknowledged.wait_for(|v| *v >= version).await.unwrap();
    drop(newer);
}

#[tokio::test]
async fn a_lost_subscription_is_renewed() {
    let (gateway, runner) = with_runner(answer("200 OK", r#"{"response": 1}"#)).await;
    gateway.agents.hang_up();
    assert_eq!(invoke(&gateway).await.status, 200, "the old table serves on");
    let mut changes = gateway.state.routes.changes();
    changes.changed().await.unwrap();
    assert_eq!(invoke(&gateway).await.status, 200);
    drop(runner);
    changed(&gateway, route(None)).await;
    assert_eq!(invoke(&gateway).await.status, 503);
}

#[tokio::test]
async fn a_refused_connection_is_retried_on_the_new_route() {
    let gateway = TestGateway::start().await;
    let runner = Runner::start(answer("200 OK", r#"{"response": "new"}"#)).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    changed(&gateway, route(Some(free.to_string()))).await;
    let switch = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gateway.agents.route(RouteEvent::Changed(Box::new(runner.route())));
    };
    let (answer, ()) = tokio::join!(invoke(&gateway), switch);
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"response": "new"}"#));
}
