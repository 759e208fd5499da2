//! Starting, failing and starting again.

use super::test_runtime::{Kind, TestRuntime, ask, invoke};
use crate::runtime::{GRACE, LIMIT, until};
use hoistway_agent::runtime::{Failure, Instance, RestartDelays, State};
use hoistway_model::Code;
use std::net::TcpStream;
use std::time::Duration;

pub async fn an_agent_answers_and_is_removed(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let (instance, started) = test.ready("def handler(message): return 'Hello, ' + message").await;
    assert_eq!(ask(&started, "world").await, "Hello, world");
    let again = test.runtime.apply(instance.clone()).await.unwrap();
    assert_eq!(again.address, started.address, "once more is no second instance");
    assert_eq!(test.runtime.status(&instance.revision).await.unwrap().unwrap().state(), State::Ready);

    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(started.state(), State::Gone);
    assert!(TcpStream::connect(&started.address).is_err());
    assert!(test.runtime.status(&instance.revision).await.unwrap().is_none());
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();

    let back = test.runtime.apply(instance).await.unwrap();
    back.ready().await.unwrap();
    assert_eq!(ask(&back, "again").await, "Hello, again");
    test.runtime.shutdown(GRACE).await;
    assert_eq!(back.state(), State::Gone);
}

pub async fn a_failed_start_tells_why_without_secrets(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let source = "import os\nprint('loading')\nraise ValueError('bad key ' + os.environ['STRIPE_KEY'])\ndef handler(message): pass";
    let instance = test.instance(source).await;
    let started = test.runtime.apply(instance.clone()).await.unwrap();
    let error = started.ready().await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::AgentStartFailed, "ValueError: bad key ********"));
    assert!(error.details.contains(&"loading".to_owned()), "{:?}", error.details);
    assert!(error.details.contains(&"ValueError: bad key ********".to_owned()), "{:?}", error.details);
    assert!(TcpStream::connect(&started.address).is_err(), "it holds no port");
    assert!(matches!(started.state(), State::Failed(_)), "it is not tried again");
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(started.state(), State::Gone);
}

pub async fn a_start_may_end_in_any_way(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let failed = async |source: &str| {
        let started = test.runtime.apply(test.instance(source).await).await.unwrap();
        match until(&started, |s| matches!(s, State::Failed(_))).await {
            State::Failed(Failure { message, details, .. }) => (message, details),
            other => panic!("{other}"),
        }
    };
    assert_eq!(
        failed("import os\nos._exit(3)\ndef handler(message): pass").await.0,
        "exited with status 3 before it was ready"
    );
    let lines = "import os, signal, sys
for n in range(100): print('line', n, file=sys.stderr)
sys.stderr.flush()
os.kill(os.getpid(), signal.SIGKILL)
def handler(message): pass";
    let (message, log) = failed(lines).await;
    assert_eq!(message, "killed by SIGKILL (out of memory?) before it was ready: line 99");
    assert_eq!((log.len(), log[0].as_str()), (40, "line 60"));
    test.runtime.shutdown(GRACE).await;
}

pub async fn a_start_that_hangs_ends_with_its_stack(kind: Kind) {
    let test = TestRuntime::with(kind, |settings| settings.starts.limit = Some(Duration::from_secs(3))).await;
    for line in ["while True: pass", "os.kill(os.getpid(), signal.SIGSTOP)"] {
        let instance = test.instance(&format!("import os, signal\n\n{line}\ndef handler(message): pass")).await;
        let started = test.runtime.apply(instance.clone()).await.unwrap();
        let error = started.ready().await.unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::StartTimeout, "agent.py is still being imported after 3 s")
        );
        let frame = ["  File \"/app/agent.py\", line 3, in <module>".to_owned(), format!("    {line}")];
        assert!(error.details.windows(2).any(|lines| lines == frame), "{:?}", error.details);
        assert!(error.details.last().unwrap().ends_with("HOISTWAY_AGENT_START_SECONDS"), "{:?}", error.details);
        test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    }
}

pub async fn a_slow_start_becomes_ready(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let source = "import time\ntime.sleep(2.5)\ndef handler(message): return 'at last'";
    let instance = test.instance(source).await;
    let started = test.runtime.apply(instance).await.unwrap();
    assert_eq!(started.state(), State::Starting);
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    assert_eq!(ask(&started, "x").await, "at last");
    test.runtime.shutdown(GRACE).await;
}

pub async fn a_crashed_agent_starts_again_at_the_same_address(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let source = "import os, signal, sys, time
def handler(message):
    if message == 'segv': os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)
    if message == 'exit': print('giving up', file=sys.stderr, flush=True); os._exit(7)
    return message";
    let (instance, started) = test.ready(source).await;
    let answer = invoke(&started, "segv").await;
    assert!(answer.is_err(), "{answer:?}");
    let crashed = until(&started, |s| matches!(s, State::Crashed { .. })).await;
    let State::Crashed { failure, restarts, next_try_ms, .. } = crashed else { unreachable!() };
    assert!(failure.message.starts_with("killed by SIGSEGV"), "{}", failure.message);
    assert!(restarts == 0 && next_try_ms > 0);
    assert_eq!(ask(&started, "patient").await, "patient", "a caller waits for the next run");
    until(&started, |s| *s == State::Ready).await;

    assert!(invoke(&started, "exit").await.is_err());
    let crashed = until(&started, |s| matches!(s, State::Crashed { .. })).await;
    assert_eq!(
        crashed.to_string(),
        "crashed: exited with status 7: giving up (starts again by itself; restarts so far: 1)"
    );
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(started.state(), State::Gone, "it can be removed while it waits");
}

pub async fn a_proven_agent_is_tried_again(kind: Kind) {
    let delays = RestartDelays {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(80),
        ..RestartDelays::default()
    };
    let test = TestRuntime::with(kind, |settings| settings.starts.restart_delays = delays).await;
    let instance =
        Instance { proven: true, ..test.instance("raise RuntimeError('not yet')\ndef handler(message): pass").await };
    let started = test.runtime.apply(instance.clone()).await.unwrap();
    let tried = until(&started, |s| matches!(s, State::Crashed { restarts: 2.., .. })).await;
    let State::Crashed { failure, .. } = tried else { unreachable!() };
    assert_eq!(failure.message, "RuntimeError: not yet");
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let log = test.log(100).await;
    let remarks: Vec<&String> = log.iter().filter(|line| line.contains("started again in")).take(3).collect();
    let expected = ["0.02", "0.04", "0.08"];
    let expected = expected.map(|s| format!("RuntimeError: not yet; the agent is started again in {s} s"));
    assert_eq!(remarks, expected.iter().collect::<Vec<_>>());
}

pub async fn an_agent_without_memory_ends_with_that_cause(kind: Kind) {
    let test = TestRuntime::with(kind, |settings| settings.limits.memory = Some(256 << 20)).await;
    if !test.runtime.isolation().limits.contains("256 MiB memory,") {
        println!("SKIPPED: memory cannot be limited here");
        return;
    }
    let source = "def handler(message):\n    keep = []\n    while True: keep.append(bytearray(20_000_000))";
    let (instance, started) = test.ready(source).await;
    assert!(invoke(&started, "fill").await.is_err());
    let State::Crashed { failure, out_of_memory, .. } = until(&started, |s| matches!(s, State::Crashed { .. })).await
    else {
        unreachable!()
    };
    assert_eq!(failure.message, "killed: out of memory (256 MiB of memory, setting HOISTWAY_AGENT_LIMITS__MEMORY)");
    assert!(out_of_memory);
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
}

pub async fn a_start_can_be_cancelled(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let instance = test.instance("import time\ntime.sleep(600)\ndef handler(message): pass").await;
    let started = test.runtime.apply(instance.clone()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(1500), started.ready()).await.is_err());
    test.runtime.remove(&instance.revision, Duration::ZERO).await.unwrap();
    assert_eq!(started.ready().await.unwrap_err().code, Code::Cancelled);
}
