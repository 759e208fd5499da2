//! Stopping and swapping.

use super::docker_image::docker;
use super::test_runtime::{Kind, TestRuntime, ask, invoke};
use crate::runtime::{GRACE, LIMIT, until};
use hoistway_agent::runtime::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub async fn a_stop_waits_for_the_request_in_flight(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let source = "import time
def handler(message):
    print('began', flush=True)
    time.sleep(2)
    return 'finished ' + message";
    let (instance, started) = test.ready(source).await;
    let calling = started.clone();
    let call = tokio::spawn(async move { ask(&calling, "it").await });
    let began = async {
        while !test.log(10).await.contains(&"began".to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, began).await.unwrap();
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(call.await.unwrap(), "finished it");
    assert_eq!(started.state(), State::Gone);
}

pub async fn an_agent_that_ignores_a_stop_is_killed_after_its_grace(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let source = "import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def handler(message): return message";
    let (instance, started) = test.ready(source).await;
    assert_eq!(ask(&started, "x").await, "x");
    let before = Instant::now();
    test.runtime.remove(&instance.revision, Duration::from_millis(500)).await.unwrap();
    assert!(
        (Duration::from_millis(500)..Duration::from_secs(10)).contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );

    // A second, less patient request shortens the first.
    let (instance, _) = test.ready(source).await;
    let patient = test.runtime.remove(&instance.revision, Duration::from_secs(600));
    let hasty = test.runtime.remove(&instance.revision, Duration::ZERO);
    let (patient, hasty) = tokio::time::timeout(LIMIT, async { tokio::join!(patient, hasty) }).await.unwrap();
    patient.and(hasty).unwrap();
}

/// Callers go on calling while one revision takes the place of another. One that is refused, as a caller who is late
/// is, goes to the new one; whoever was accepted is answered.
pub async fn no_request_is_lost_in_a_swap(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let source = |n: u32| format!("import time\ndef handler(message):\n    time.sleep(0.02)\n    return '{n}'");
    let (mut instance, mut started) = test.ready(&source(0)).await;
    let current = Arc::new(tokio::sync::watch::Sender::new(started.clone()));
    let (answered, stop) = (Arc::new(AtomicUsize::new(0)), tokio_util::sync::CancellationToken::new());
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (current, answered, stop) = (current.clone(), answered.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let to = current.borrow().clone();
                    match invoke(&to, "x").await {
                        Ok(answer) => {
                            assert!(answer.is_string(), "{answer}");
                            answered.fetch_add(1, SeqCst);
                        }
                        Err(e) => assert!(e.is_connect(), "a request was lost: {e:?}"),
                    }
                }
            })
        })
        .collect();
    for n in 1..=20 {
        let (next, next_started) = test.ready(&source(n)).await;
        current.send_replace(next_started.clone());
        test.runtime.remove(&instance.revision, GRACE).await.unwrap();
        (instance, started) = (next, next_started);
    }
    assert_eq!(ask(&started, "x").await, "20");
    stop.cancel();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(answered.load(SeqCst) > 20, "{}", answered.load(SeqCst));
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
}

pub async fn an_agent_that_is_killed_from_outside_starts_again(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let (instance, started) = test.ready("import os\ndef handler(message): return os.environ['HOME']").await;
    let ways: &[fn(&str)] = match kind {
        Kind::Process | Kind::Forked => &[],
        Kind::Docker => &[
            |revision| drop(docker(&["kill", &container(revision, "agent")])),
            |revision| drop(docker(&["rm", "-f", &container(revision, "agent")])),
            |revision| drop(docker(&["rm", "-f", &container(revision, "network")])),
        ],
    };
    for kill in ways {
        let revision = instance.revision.to_string();
        kill(&revision);
        until(&started, |s| matches!(s, State::Crashed { .. })).await;
        until(&started, |s| *s == State::Ready).await;
        assert!(!ask(&started, "x").await.is_empty());
    }
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
}

/// The container of a revision with this role.
pub fn container(revision: &str, role: &str) -> String {
    let label = format!("label=dev.hoistway.revision={revision}");
    let found = docker(&["ps", "-q", "--filter", &label, "--filter", &format!("name=-{role}$")]);
    assert_eq!(found.lines().count(), 1, "{found}");
    found
}
