//! Nothing that an agent starts outlives it, whichever way it ends.

use super::*;
use std::process::Stdio;

/// An agent with a child, a child in a session of its own, and a daemon that was forked twice. They hold no pipe and
/// no terminal, and ignore SIGTERM and SIGHUP.
const FAMILY: &str = "import os, signal, time
def linger(tell):
    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.write(tell, b'%d ' % os.getpid())
    os.closerange(0, 256)
    time.sleep(600)
    os._exit(0)
def family():
    read, write = os.pipe()
    if os.fork() == 0: linger(write)
    if os.fork() == 0: os.setsid(); linger(write)
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0: os.environ.clear(); linger(write)
        os._exit(0)
    os.waitpid(middle, 0)
    text = b''
    while len(text.split()) < 3 or not text.endswith(b' '): text += os.read(read, 100)
    return text.decode() + str(os.getpid())
def handle(line):
    return family() if line == 'family' else os._exit(1)";

/// The agent's three descendants, itself and its launcher.
async fn family(instance: &Instance, started: &Started) -> Vec<Watched> {
    let answer = ask(started, "family").await;
    let mut all: Vec<Watched> =
        answer.split(' ').map(|pid| Watched::new(host_pid(instance, pid.parse().unwrap()))).collect();
    assert_eq!(all.len(), 4, "{answer}");
    all.push(Watched::new(parent_of(all[3].pid)));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_ends_the_whole_family() {
    let stage = Stage::new().await;
    let (instance, started) = stage.ready(FAMILY).await;
    let family = family(&instance, &started).await;
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    family.iter().for_each(Watched::ends);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_ends_the_rest_of_the_family() {
    let stage = Stage::new().await;
    let (instance, started) = stage.ready(FAMILY).await;
    let family = family(&instance, &started).await;
    family[3].kill();
    family.iter().for_each(Watched::ends);
    until(&started, |state| *state == State::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_runtime_ends_everything() {
    let stage = Stage::new().await;
    let (instance, started) = stage.ready(FAMILY).await;
    let family = family(&instance, &started).await;
    drop(stage.runtime);
    family.iter().for_each(Watched::ends);
    until(&started, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_that_is_killed_takes_its_agent_along() {
    let stage = Stage::new().await;
    let (instance, started) = stage.ready(FAMILY).await;
    let family = family(&instance, &started).await;
    family[4].kill();
    family.iter().for_each(Watched::ends);
    until(&started, |state| *state == State::Ready).await;
    assert_eq!(ask(&started, "family").await.split(' ').count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_forks_is_ended() {
    let stage = Stage::new().await;
    let source = "import os, time
def handle(line):
    for _ in range(4):
        if os.fork() == 0:
            end = time.time() + 60
            while time.time() < end:
                if os.fork() != 0: os._exit(0)
            os._exit(0)
    return str(os.getpid())";
    let (instance, started) = stage.ready(source).await;
    let agent = Watched::new(host_pid(&instance, ask(&started, "go").await.parse().unwrap()));
    let removed = stage.runtime.remove(&instance.revision, Duration::from_millis(100));
    tokio::time::timeout(LIMIT, removed).await.unwrap().unwrap();
    agent.ends();
    assert_eq!(marked(&instance), [], "a process of the storm is left");
}

const SUPERVISE: &str = "HOISTWAY_TEST_SUPERVISE";

/// Not a test by itself: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn supervisor_to_be_killed() {
    let Some(dir) = std::env::var_os(SUPERVISE).map(PathBuf::from) else { return };
    let runtime = ProcessRuntime::new(config(&dir)).await.unwrap();
    let instance = instance(&dir, FAMILY);
    let started = runtime.apply(instance.clone()).await.unwrap();
    started.ready().await.unwrap();
    println!("\naddress={} {}", started.address, instance.revision);
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_supervisor_ends_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runtime::process_tree::supervisor_to_be_killed", "--nocapture"])
        .env(SUPERVISE, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| line.unwrap().strip_prefix("address=").map(str::to_owned)).unwrap();
    let (address, revision) = line.split_once(' ').unwrap();
    let instance = Instance { revision: revision.parse().unwrap(), ..instance(dir.path(), FAMILY) };
    let (_, states) = tokio::sync::watch::channel(State::Ready);
    let family = family(&instance, &Started { address: address.to_owned(), states }).await;
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    family.iter().for_each(Watched::ends);
    assert!(TcpStream::connect(address).is_err());

    // The next one finds the directory and cleans it.
    assert_eq!(std::fs::read_dir(dir.path().join("data/run")).unwrap().count(), 1);
    ProcessRuntime::new(config(dir.path())).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("data/run")).unwrap().count(), 0);
}
