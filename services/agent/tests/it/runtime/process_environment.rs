//! The environment of an agent's process.

use super::*;
use std::collections::BTreeMap;

const LOOK: &str = "import json, os, sys
def fds():
    found = {}
    for fd in os.listdir('/proc/self/fd'):
        # The listing has one of its own.
        try: found[fd] = os.readlink('/proc/self/fd/' + fd)
        except FileNotFoundError: pass
    return found
def handle(line):
    status = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines() if ':' in l)
    limits = {l[:26].strip(): l[26:].split()[:2] for l in open('/proc/self/limits')}
    home, tmp = os.environ['HOME'], os.environ['TMPDIR']
    for d in (home, tmp): open(d + '/mine', 'w').close()
    return json.dumps({
        'env': dict(os.environ), 'cwd': os.getcwd(), 'uid': os.getuid(), 'groups': os.getgroups(),
        'options': OPTIONS, 'config': CONFIG, 'argv0': open('/proc/self/cmdline').read().split(chr(0))[0],
        'launcher': open('/proc/%d/cmdline' % os.getppid()).read().split(chr(0))[:2],
        'fds': fds(),
        'new_privs': status['NoNewPrivs'].strip(), 'ignored': int(status['SigIgn'], 16), 'blocked': int(status['SigBlk'], 16),
        'limits': limits, 'mode': oct(os.stat(home + '/mine').st_mode & 0o777), 'group': os.getpgid(0) == os.getpid(),
        'oom': open('/proc/self/oom_score_adj').read().strip(), 'session': os.getsid(0) == os.getppid(),
    })";

async fn look(stage: &Stage, instance: Instance) -> serde_json::Value {
    let started = stage.runtime.apply(instance).await.unwrap();
    started.ready().await.unwrap();
    let port = started.address.rsplit_once(':').unwrap().1.to_owned();
    let mut seen: serde_json::Value = serde_json::from_str(&ask(&started, "look").await).unwrap();
    seen["port"] = port.into();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_the_given_one_and_no_more() {
    let stage = Stage::with(|config| config.limits.open_files = Some(512)).await;
    let instance = stage.instance(LOOK);
    let mark = instance.revision.simple();
    let Program::Unpacked { interpreter, runner, .. } = instance.program.clone() else { unreachable!() };
    let seen = look(&stage, instance).await;

    let mut env: BTreeMap<String, String> = serde_json::from_value(seen["env"].clone()).unwrap();
    let (home, tmp) = (env.remove("HOME").unwrap(), env.remove("TMPDIR").unwrap());
    let expected = [
        ("LANG", "C"),
        ("LOGNAME", "agent"),
        ("PATH", &format!("{}:/usr/local/bin:/usr/bin:/bin", interpreter.parent().unwrap().display())),
        ("PORT", seen["port"].as_str().unwrap()),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONUNBUFFERED", "1"),
        ("STRIPE_KEY", "sk-very-secret"),
        ("TEST_MARK", &mark),
        ("USER", "agent"),
        ("USER_ENTRY_POINT", "agent.py"),
    ];
    // LC_CTYPE is Python's own doing in the C locale.
    env.remove("LC_CTYPE");
    assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    let stage_dir = stage.dir.path().to_str().unwrap();
    if own_root(&stage) {
        assert_eq!((home.as_str(), tmp.as_str()), ("/home/agent", "/tmp"));
        assert_eq!((&seen["cwd"], &seen["options"]["--app"][0]), (&"/app".into(), &"/app".into()));
        assert_eq!(seen["options"]["--site"][0], "/opt/hoistway/site-packages");
        assert_eq!(seen["launcher"], serde_json::json!(["hoistway-agent inside", "__agent-inside"]));
    } else {
        assert!(home.starts_with(stage_dir) && home != tmp);
        assert!(tmp.ends_with("/tmp") && tmp.len() < stage_dir.len() + 30, "{tmp}");
        let app = Path::new(&home).with_file_name("app");
        assert_eq!(seen["cwd"], app.to_str().unwrap());
        assert_eq!(seen["options"]["--app"][0], app.to_str().unwrap());
        assert_eq!(seen["options"]["--site"][0], stage.dir.path().join("site").to_str().unwrap());
        assert_eq!(seen["launcher"], serde_json::json!(["hoistway-agent test-agent", "__agent-init"]));
    }
    let closed = stage.runtime.isolation().network == "closed";
    let config = serde_json::json!({
        "token": "invoke-token-1",
        "mask": ["sk-very-secret"],
        "closed_network": closed,
        "start_seconds": 60.0,
        "stack_signal": 16,
        "framework": "langgraph",
    });
    assert_eq!(seen["config"], config);
    assert_eq!(seen["argv0"], interpreter.to_str().unwrap());
    assert!(runner.exists());
}

/// Whether agents of this stage have a root directory of their own.
fn own_root(stage: &Stage) -> bool {
    stage.runtime.isolation().enforced.starts_with("namespaces")
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_limits_apply_to_the_process() {
    let stage = Stage::with(|config| config.limits.open_files = Some(512)).await;
    let seen = look(&stage, stage.instance(LOOK)).await;
    assert_eq!(seen["new_privs"], "1");
    assert_eq!(seen["limits"]["Max open files"], serde_json::json!(["512", "512"]));
    assert_eq!(seen["limits"]["Max core file size"], serde_json::json!(["0", "0"]));
    assert_eq!(seen["limits"]["Max file size"], serde_json::json!(["4294967296", "4294967296"]));
    assert_eq!(seen["mode"], "0o600");
    assert_eq!((&seen["group"], &seen["session"]), (&true.into(), &true.into()));
    assert!(seen["oom"].as_str().unwrap().parse::<i32>().unwrap() >= 500);
    assert_eq!(seen["blocked"], 0);
    // Python itself ignores SIGPIPE and SIGXFSZ; from 32 on they are not ours to judge.
    assert_eq!(seen["ignored"].as_u64().unwrap() & 0x7fff_ffff & !(1 << 12 | 1 << 24), 0);
    // Nothing is inherited but the standard streams, the listener, and nothing else is open but the agent's connection.
    let fds: BTreeMap<String, String> = serde_json::from_value(seen["fds"].clone()).unwrap();
    let names: Vec<&str> = fds.values().map(|name| name.split(':').next().unwrap()).collect();
    assert_eq!(fds["0"], "/dev/null");
    assert_eq!(names.iter().filter(|n| **n == "pipe").count(), 2, "{fds:?}");
    assert_eq!(names.iter().filter(|n| **n == "socket").count(), 2, "{fds:?}");
    assert_eq!(names.len(), 5, "{fds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_init_of_its_namespace_is_out_of_its_reach() {
    if matches!(sandbox(), Mode::Landlock | Mode::None) {
        return;
    }
    // Landlock would refuse as well.
    let stage = Stage::with(|config| config.sandbox.pretend.landlock_abi = Some(0)).await;
    if !own_root(&stage) {
        return;
    }
    let source = "import os
def refused(what):
    try: what()
    except PermissionError: return True
def handle(line):
    status = dict(l.split(':', 1) for l in open('/proc/1/status').read().splitlines() if ':' in l)
    memory = refused(lambda: open('/proc/1/mem', 'rb').close())
    files = refused(lambda: os.listdir('/proc/1/fd'))
    held = int(status['CapPrm'], 16) | int(status['CapInh'], 16)
    return f'{memory} {files} {held}'";
    let (_, started) = stage.ready(source).await;
    // Root's agents are another user: to end them it needs CAP_KILL.
    let capabilities = if rustix::process::geteuid().is_root() { 1 << 5 } else { 0 };
    assert_eq!(ask(&started, "x").await, format!("True True {capabilities}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_runs_as_its_own_user() {
    let python = Path::new("/usr/bin/python3");
    let there = rustix::process::geteuid().is_root() && python.exists();
    if !hoistway_testing::need("root", there, &format!("only root with {} can change users", python.display())) {
        return;
    }
    let python = python.canonicalize().unwrap();
    let stage = Stage::with(|config| config.python = python.clone()).await;
    assert!(stage.runtime.isolation().enforced.ends_with("own uid"), "{:?}", stage.runtime.isolation());
    // A directory of its own, since the agent sees it.
    let runner = stage.dir.path().join("runner/runner.py");
    std::fs::create_dir(runner.parent().unwrap()).unwrap();
    let mut users = Vec::new();
    for agent in ["one", "two", "one"] {
        let mut instance = stage.instance(LOOK);
        instance.agent = Name::parse("name", agent).unwrap();
        let Program::Unpacked { interpreter, runner: path, .. } = &mut instance.program else { unreachable!() };
        std::fs::copy(&*path, &runner).unwrap();
        (*interpreter, *path) = (python.clone(), runner.clone());
        let seen = look(&stage, instance.clone()).await;
        assert_eq!(seen["groups"], serde_json::json!([]));
        users.push(seen["uid"].as_u64().unwrap());
        stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    }
    assert!(users[0] > 1000 && users[0] != users[1] && users[0] == users[2], "{users:?}");
    assert_eq!(std::fs::read_dir(stage.dir.path().join("data/run")).unwrap().count(), 0);
}
