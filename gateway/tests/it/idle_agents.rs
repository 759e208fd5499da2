//! Invokes of idle agents, and reports of agents that nobody invokes.

use crate::{
    fake_runner::{Runner, answer, changed, route},
    fakes::name,
    test_gateway::{Answer, TestGateway},
};
use futures_util::future::join_all;
use hoistway_model::agent::Route;
use serde_json::json;
use std::time::Duration;

fn idle() -> Route {
    Route { idle: true, message: "it is idle".into(), ..route(None) }
}

async fn invoke(gateway: &TestGateway) -> Answer {
    gateway.post("/api/agents/a/invoke", json!({"message": "hi"})).await
}

/// Waits until so many invokes are in flight.
async fn in_flight(gateway: &TestGateway, count: usize) {
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while gateway.state.routes.in_flight() != [(name("a"), count)] {
        assert!(tokio::time::Instant::now() < until, "{:?}", gateway.state.routes.in_flight());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn invokes_of_an_idle_agent_are_held_until_it_is_started() {
    let gateway = TestGateway::start().await;
    let runner = Runner::start(answer("200 OK", r#"{"response": 1}"#)).await;
    changed(&gateway, idle()).await;
    let invokes = join_all((0..20).map(|_| invoke(&gateway)));
    let start = async {
        in_flight(&gateway, 20).await;
        gateway.agents.wakes.subscribe().wait_for(|wakes| *wakes == 1).await.unwrap();
        assert!(runner.requests.lock().unwrap().is_empty());
        gateway.agents.woken.send_replace(Some(Ok(())));
        // The route comes later than the answer.
        tokio::task::yield_now().await;
        changed(&gateway, runner.route()).await;
    };
    let (answers, ()) = tokio::join!(invokes, start);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(runner.requests.lock().unwrap().len(), 20);
    assert_eq!(gateway.state.routes.in_flight(), [(name("a"), 0)]);
    assert_eq!(*gateway.agents.wakes.borrow(), 1, "they share one call");
}

#[tokio::test]
async fn a_start_that_fails_answers_all_that_are_held_with_its_reason() {
    let gateway = TestGateway::start().await;
    changed(&gateway, idle()).await;
    let failed = "503 unavailable agent \"a\" is not ready: the agent crashed (boom) and is started again \
                  [\"the log's last line\"]";
    let fails = async {
        in_flight(&gateway, 3).await;
        gateway.agents.wakes.subscribe().wait_for(|wakes| *wakes == 1).await.unwrap();
        gateway.agents.woken.send_replace(Some(Err("the agent crashed (boom) and is started again".into())));
    };
    let (answers, ()) = tokio::join!(join_all((0..3).map(|_| invoke(&gateway))), fails);
    for answer in answers {
        assert_eq!(answer.error(), failed);
    }
    assert_eq!(*gateway.agents.wakes.borrow(), 1, "they share one call");
    // One that comes later asks again.
    assert_eq!(invoke(&gateway).await.error(), failed);
    assert_eq!(*gateway.agents.wakes.borrow(), 2);
}

#[tokio::test]
async fn a_client_that_goes_away_is_held_no_longer() {
    let gateway = TestGateway::start().await;
    changed(&gateway, idle()).await;
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        tokio::select! {
            _ = invoke(&gateway) => panic!("it was answered"),
            woken = async { gateway.agents.wakes.subscribe().wait_for(|w| *w == 1).await.map(drop) } => woken.unwrap(),
        }
    });
    gone.await.unwrap();
    // The gateway notices the closed connection.
    in_flight(&gateway, 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_start_to_the_others() {
    let gateway = TestGateway::start().await;
    let runner = Runner::start(answer("200 OK", r#"{"response": 1}"#)).await;
    changed(&gateway, idle()).await;
    // The first one calls the agent service.
    let first = async {
        tokio::select! {
            _ = invoke(&gateway) => panic!("it was answered"),
            () = in_flight(&gateway, 2) => {}
        }
        in_flight(&gateway, 1).await;
        gateway.agents.woken.send_replace(Some(Ok(())));
        changed(&gateway, runner.route()).await;
    };
    let second = async {
        gateway.agents.wakes.subscribe().wait_for(|wakes| *wakes == 1).await.unwrap();
        invoke(&gateway).await
    };
    let ((), answered) = tokio::join!(first, second);
    assert_eq!((answered.status, *gateway.agents.wakes.borrow()), (200, 1));
}

#[tokio::test]
async fn strangers_wake_nothing() {
    let gateway = TestGateway::start().await;
    let guarded = || Route { needs_caller_identity: true, identity_provider: Some(name("sso")), ..idle() };
    changed(&gateway, guarded()).await;
    assert_eq!(invoke(&gateway).await.status, 401);
    // One who was let in before the agent had an identity provider is looked at again.
    changed(&gateway, route(None)).await;
    let becomes_guarded = async {
        in_flight(&gateway, 1).await;
        changed(&gateway, guarded()).await;
    };
    let (answered, ()) = tokio::join!(invoke(&gateway), becomes_guarded);
    assert_eq!(answered.status, 401, "{}", answered.error());
    assert_eq!(*gateway.agents.wakes.borrow(), 0);
}

#[tokio::test]
async fn an_agent_that_nobody_invokes_is_reported_and_one_with_an_open_answer_is_not() {
    let time = Duration::from_millis(300);
    let gateway = TestGateway::start().await;
    let runner = Runner::start(answer("200 OK", r#"{"response": 1}"#)).await;
    let mut reported = gateway.agents.idle.subscribe();
    let slot = {
        changed(&gateway, route(None)).await;
        gateway.state.routes.slot(&name("a"), 1).unwrap()
    };
    let ready = Route { idle_after: Some(time), ..runner.route() };
    let instance = ready.target.clone().unwrap().revision;
    changed(&gateway, ready).await;
    tokio::time::sleep(2 * time).await;
    assert!(reported.borrow_and_update().is_empty(), "an answer is under way");
    let ended = tokio::time::Instant::now();
    drop(slot);
    // It is reported again until something comes of it.
    for reports in [1, 2] {
        let all = tokio::time::timeout(Duration::from_secs(20), reported.wait_for(|r| r.len() == reports)).await;
        assert_eq!(all.unwrap().unwrap().last(), Some(&(name("a"), instance, false)));
        assert!(ended.elapsed() >= time * u32::try_from(reports).unwrap() - Duration::from_millis(1));
    }
    // An invoke takes it back.
    assert_eq!(invoke(&gateway).await.status, 200);
    let used = (name("a"), instance, true);
    let taken_back = tokio::time::timeout(Duration::from_secs(20), reported.wait_for(|r| r.contains(&used))).await;
    assert_eq!(taken_back.unwrap().unwrap().iter().filter(|report| **report == used).count(), 1);
    changed(&gateway, idle()).await;
    let seen = reported.borrow_and_update().len();
    tokio::time::sleep(2 * time).await;
    assert_eq!(reported.borrow().len(), seen, "what is idle is not reported");
}
