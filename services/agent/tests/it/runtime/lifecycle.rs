//! Starting, failing, crashing and stopping.

use super::*;
use hoistway_agent::runtime::Failure;
use hoistway_model::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_and_is_removed() {
    let stage = Stage::new().await;
    let (instance, started) = stage.ready("import os\ndef handle(line): return f'{line} {os.getpid()}'").await;
    let answer = ask(&started, "hello").await;
    let pid = host_pid(&instance, answer.strip_prefix("hello ").unwrap().parse().unwrap());
    let (agent, launcher) = (Watched::new(pid), Watched::new(parent_of(pid)));

    // Once more is no second instance.
    let again = stage.runtime.apply(instance.clone()).await.unwrap();
    assert_eq!(again.address, started.address);
    assert_eq!(stage.runtime.status(&instance.revision).await.unwrap().unwrap().state(), State::Ready);

    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(started.state(), State::Gone);
    agent.ends();
    launcher.ends();
    assert!(!Path::new(&format!("/proc/{}", launcher.pid)).exists(), "the launcher is a zombie");
    assert!(TcpStream::connect(&started.address).is_err());
    assert!(stage.runtime.status(&instance.revision).await.unwrap().is_none());
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();

    // And it can come back.
    let back = stage.runtime.apply(instance).await.unwrap();
    back.ready().await.unwrap();
    assert!(ask(&back, "again").await.starts_with("again"));
    stage.runtime.shutdown(GRACE).await;
    assert_eq!(back.state(), State::Gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_tells_why_without_secrets() {
    let stage = Stage::new().await;
    let source = "import os\nprint('loading')\nraise ValueError('bad key ' + os.environ['STRIPE_KEY'])";
    let instance = stage.instance(source);
    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    let error = started.ready().await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::AgentStartFailed, "ValueError: bad key ********"));
    assert!(error.details.contains(&"loading".to_owned()), "{:?}", error.details);
    assert!(error.details.contains(&"ValueError: bad key ********".to_owned()), "{:?}", error.details);
    assert!(error.details[0].starts_with("loading") || error.details[0].starts_with("Traceback"));
    // It is not tried again, holds no port and no directory, and stays visible until it is removed.
    assert!(TcpStream::connect(&started.address).is_err());
    assert_eq!(std::fs::read_dir(stage.dir.path().join("data/run")).unwrap().count(), 0);
    assert!(matches!(started.state(), State::Failed(_)));
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(started.state(), State::Gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_may_end_in_any_way() {
    let stage = Stage::new().await;
    let failed = async |instance| {
        let started = stage.runtime.apply(instance).await.unwrap();
        match until(&started, |s| matches!(s, State::Failed(_))).await {
            State::Failed(Failure { message, details, .. }) => (message, details),
            other => panic!("{other}"),
        }
    };
    let (message, _) = failed(stage.instance("import os\nos._exit(3)")).await;
    assert_eq!(message, "exited with status 3 before it was ready");

    let lines = "import os, sys\nfor n in range(100): print('line', n, file=sys.stderr)\nos.abort()";
    let (message, log) = failed(stage.instance(lines)).await;
    assert_eq!(message, "killed by SIGABRT before it was ready: line 99");
    assert_eq!((log.len(), log[0].as_str()), (40, "line 60"));

    let mut instance = stage.instance("");
    let Program::Unpacked { interpreter, .. } = &mut instance.program else { unreachable!() };
    *interpreter = "/nowhere/python3".into();
    let (message, _) = failed(instance).await;
    assert!(
        message.starts_with("exited with status 127 before it was ready: hoistway: cannot run /nowhere/python3"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_ends_with_its_stack() {
    let stage = Stage::with(|config| config.starts.limit = Some(Duration::from_secs(2))).await;
    for line in [
        "time.sleep(600)",
        "while True: pass",
        "re.match('(a+)+$', 'a' * 60 + 'b')",
        "threading.Lock().acquire() and threading.Event().wait()",
        "subprocess.run(['sleep', '600'])",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ] {
        let instance = stage.instance(&format!("import os, re, signal, subprocess, threading, time\n\n{line}\n"));
        let started = stage.runtime.apply(instance.clone()).await.unwrap();
        let error = started.ready().await.unwrap_err();
        assert_eq!(error.code, Code::StartTimeout, "{line}");
        assert_eq!(error.message, "agent.py is still being imported after 2 s", "{line}");
        let at = error.details.iter().position(|line| line == "  File \"/app/agent.py\", line 3, in <module>");
        let at = at.unwrap_or_else(|| panic!("{:?}", error.details));
        assert_eq!(error.details[at + 1], format!("    {line}"));
        assert!(error.details.last().unwrap().ends_with("HOISTWAY_AGENT_START_SECONDS"), "{:?}", error.details);
        let log = stage.logs(&instance.agent, 50).await;
        assert!(log.iter().any(|shown| shown.text.contains(line)), "the log shows it too: {log:?}");
        stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    }

    // A child that holds the pipe, or a process that knows no such signal, has no stack.
    let deaf =
        "import os, signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [CONFIG['stack_signal']])\ntime.sleep(600)";
    let started = stage.runtime.apply(stage.instance(deaf)).await.unwrap();
    let error = started.ready().await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::StartTimeout, "the agent is not ready after 2 s"));

    // One that was ready before is tried again.
    let mut instance = stage.instance("import time\ntime.sleep(600)");
    instance.proven = true;
    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    let State::Crashed { failure, .. } = until(&started, |s| matches!(s, State::Crashed { .. })).await else {
        unreachable!()
    };
    assert_eq!(failure.code, Code::StartTimeout);
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_too_much_memory_ends_with_that_cause() {
    let stage = Stage::with(|config| config.limits.memory = Some(256 << 20)).await;
    if !stage.runtime.isolation().limits.contains("256 MiB memory,") {
        println!("SKIPPED: no control groups can be made here");
        return;
    }
    let source = "def handle(line):\n    keep = []\n    while True: keep.append(bytearray(20_000_000))";
    let (instance, started) = stage.ready(source).await;
    assert_eq!(ask(&started, "fill").await, "");
    let State::Crashed { failure, out_of_memory, .. } = until(&started, |s| matches!(s, State::Crashed { .. })).await
    else {
        unreachable!()
    };
    assert_eq!(failure.message, "killed: out of memory (256 MiB of memory, setting HOISTWAY_AGENT_LIMITS__MEMORY)");
    assert!(out_of_memory);
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_hang_keep_nobody_from_starting() {
    let stage = Stage::with(|config| config.starts.concurrent = 2).await;
    for proven in [true, true, false, false, false] {
        let mut hung = stage.instance("import time\ntime.sleep(600)");
        hung.proven = proven;
        stage.runtime.apply(hung).await.unwrap();
    }
    let started = stage.runtime.apply(stage.instance("def handle(line): return line")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(15), started.ready()).await.expect("not behind them").unwrap();
    stage.runtime.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_agent_starts_again_on_the_same_port() {
    let stage = Stage::with(|config| {
        let pause = Duration::from_millis(900);
        config.starts.restart_delays = RestartDelays { first: pause, longest: pause, ..RestartDelays::default() };
    })
    .await;
    let source = "import os, sys, signal
def handle(line):
    if line == 'segv': os.kill(os.getpid(), signal.SIGSEGV)
    if line == 'exit': print('giving up', file=sys.stderr); os._exit(7)
    return line";
    let (instance, started) = stage.ready(source).await;

    assert_eq!(ask(&started, "segv").await, "");
    let crashed = until(&started, |s| matches!(s, State::Crashed { .. })).await;
    let State::Crashed { failure, restarts, next_try_ms, .. } = crashed else { unreachable!() };
    assert_eq!((failure.message.as_str(), restarts), ("killed by SIGSEGV", 0));
    assert!(next_try_ms > 0);
    // Nobody listens now, and still the connection is not refused: it waits.
    assert_eq!(ask(&started, "patient").await, "patient");
    until(&started, |s| *s == State::Ready).await;

    ask(&started, "exit").await;
    let crashed = until(&started, |s| matches!(s, State::Crashed { .. })).await;
    let State::Crashed { failure, restarts, .. } = &crashed else { unreachable!() };
    assert_eq!((failure.message.as_str(), *restarts), ("exited with status 7: giving up", 1));
    assert_eq!(
        crashed.to_string(),
        "crashed: exited with status 7: giving up (starts again by itself; restarts so far: 1)"
    );
    // A crashed agent can be removed while it waits.
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(started.state(), State::Gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proven_revision_is_tried_again_when_its_start_fails() {
    let stage = Stage::new().await;
    let marker = shared(stage.dir.path()).join("third-time");
    let source = format!(
        "import os
tries = len(os.listdir({0:?})) if os.path.isdir({0:?}) else 0
os.makedirs({0:?} + '/' + str(tries))
if tries < 3: raise RuntimeError('not yet')
def handle(line): return str(tries)",
        marker.to_str().unwrap()
    );
    let instance = Instance { proven: true, ..stage.instance(&source) };
    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    started.ready().await.unwrap();
    assert_eq!(ask(&started, "x").await, "3");
    let log = stage.logs(&instance.agent, 100).await;
    let remarks: Vec<_> = log.iter().filter(|l| l.text.contains("started again in")).map(|l| &*l.text).collect();
    assert_eq!(
        remarks,
        ["0.02", "0.04", "0.08"].map(|s| format!("RuntimeError: not yet; the agent is started again in {s} s"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proven_revision_whose_directory_cannot_be_made_is_tried_again() {
    let stage = Stage::new().await;
    let (run, aside) = (stage.dir.path().join("data/run"), stage.dir.path().join("aside"));
    std::fs::rename(&run, &aside).unwrap();
    std::fs::write(&run, "").unwrap();
    let instance = stage.instance("def handle(line): return line");
    let first = stage.runtime.apply(instance.clone()).await.unwrap();
    let failed = until(&first, |s| matches!(s, State::Failed(_))).await;
    assert_eq!(failed.to_string(), "the agent's private directory cannot be made (not a directory)");
    let proven = Instance { proven: true, ..stage.instance("def handle(line): return line") };
    let started = stage.runtime.apply(proven).await.unwrap();
    until(&started, |s| matches!(s, State::Crashed { restarts: 1, .. })).await;
    std::fs::remove_file(&run).unwrap();
    std::fs::rename(&aside, &run).unwrap();
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    assert_eq!(ask(&started, "x").await, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_request_in_flight() {
    let stage = Stage::new().await;
    let place = shared(stage.dir.path());
    let source = format!(
        "import time, os
def handle(line):
    open({0:?} + '/' + line, 'w').close()
    while not os.path.exists({0:?} + '/go'): time.sleep(0.01)
    return 'finished ' + line",
        place.to_str().unwrap()
    );
    let (instance, started) = stage.ready(&source).await;
    let run = std::fs::read_dir(stage.dir.path().join("data/run")).unwrap().next().unwrap().unwrap().path();
    let (first, second) = (started.clone(), started.clone());
    let first = tokio::spawn(async move { ask(&first, "one").await });
    wait_for_file(&place.join("one")).await;
    let second = tokio::spawn(async move { ask(&second, "two").await });
    wait_for_callers(&started.address, 2).await;
    let removed = stage.runtime.remove(&instance.revision, GRACE);
    let release = async {
        // The stop is under way; the request ends only now.
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::fs::write(place.join("go"), "").unwrap();
    };
    let (removed, ()) = tokio::join!(removed, release);
    removed.unwrap();
    assert_eq!(first.await.unwrap(), "finished one");
    assert_eq!(second.await.unwrap(), "finished two");
    assert!(!run.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_will_not_end_is_killed_after_its_grace() {
    let stage = Stage::new().await;
    let source = "import signal, os
def handle(line):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return str(os.getpid())";
    let (instance, started) = stage.ready(source).await;
    let agent = Watched::new(host_pid(&instance, ask(&started, "ignore").await.parse().unwrap()));
    let before = std::time::Instant::now();
    stage.runtime.remove(&instance.revision, Duration::from_millis(300)).await.unwrap();
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&before.elapsed()));
    agent.ends();

    // A second, less patient request shortens the first.
    let (instance, started) = stage.ready(source).await;
    ask(&started, "ignore").await;
    let patient = stage.runtime.remove(&instance.revision, Duration::from_secs(600));
    let hasty = stage.runtime.remove(&instance.revision, Duration::ZERO);
    let (patient, hasty) = tokio::time::timeout(LIMIT, async { tokio::join!(patient, hasty) }).await.unwrap();
    patient.and(hasty).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_can_be_cancelled() {
    let stage = Stage::new().await;
    let instance = stage.instance("import time\nprint('slow')\ntime.sleep(600)");
    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), started.ready()).await.is_err());
    assert_eq!(started.state(), State::Starting);
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(started.ready().await.unwrap_err().code, Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_start_at_a_time_and_a_slow_one_does_not_hold_up_the_rest_for_ever() {
    let stage = Stage::with(|config| {
        config.starts.concurrent = 1;
        config.starts.turn = Duration::from_millis(700);
    })
    .await;
    let before = std::time::Instant::now();
    let marker = shared(stage.dir.path()).join("slow-one-is-starting");
    let source = format!("import time\nopen({:?}, 'w').close()\ntime.sleep(600)", marker.to_str().unwrap());
    let slow = stage.runtime.apply(stage.instance(&source)).await.unwrap();
    wait_for_file(&marker).await;
    let (_, quick) = stage.ready("def handle(line): return line").await;
    assert!(before.elapsed() >= Duration::from_millis(700));
    assert_eq!((slow.state(), quick.state()), (State::Starting, State::Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_runner_speaks_the_same_protocol() {
    let runner = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../build/runner/hoistway_runner.py"));
    let stage = Stage::new().await;
    let mut instance = stage.instance("def handler(request, context=None): return {'response': 'real'}");
    let Program::Unpacked { runner: path, .. } = &mut instance.program else { unreachable!() };
    *path = runner.into();
    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    started.ready().await.unwrap();
    let answer = ask(&started, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();

    let mut broken = stage.instance("import nothing_of_this_name\ndef handler(request): return 1");
    let Program::Unpacked { runner: path, .. } = &mut broken.program else { unreachable!() };
    *path = runner.into();
    let error = stage.runtime.apply(broken).await.unwrap().ready().await.unwrap_err();
    assert_eq!(error.message, "ModuleNotFoundError: No module named 'nothing_of_this_name'");
}

async fn wait_for_file(path: &Path) {
    let seen = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, seen).await.unwrap();
}

/// Waits until so many callers have connected, whether anybody has accepted their connections or not.
async fn wait_for_callers(address: &str, count: usize) {
    let port = address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let local = format!(": 0100007F:{port:04X} ");
    // The state 01 is ESTABLISHED.
    let is_callers = |line: &&str| line.contains(&local) && line.split_whitespace().nth(3) == Some("01");
    let connected = async {
        while std::fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(is_callers).count() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, connected).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn private_directories_are_private() {
    let stage = Stage::new().await;
    let (_, _started) = stage.ready("def handle(line): return line").await;
    let run = std::fs::read_dir(stage.dir.path().join("data/run")).unwrap().next().unwrap().unwrap().path();
    let dirs = ["", "home", "tmp", "root"].map(|dir| run.join(dir));
    let there: Vec<_> = dirs.iter().filter(|dir| dir.exists()).collect();
    assert!(there.len() >= 2);
    for dir in there {
        assert_eq!(std::fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
