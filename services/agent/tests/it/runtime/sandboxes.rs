//! Sandboxes: which one is taken, what is said of it, and that Python works in all of them.

use super::*;
use hoistway_agent::runtime::Endpoint;
use hoistway_agent::sandbox::{Network, Pretend};
use hoistway_kit::{
    egress_auth::{Flavour, Preface},
    tls::ServiceAddress,
};
use hoistway_model::Code;
use std::net::TcpListener;

/// Things that an agent may reasonably do.
const EVERYTHING: &str = r#"
import asyncio, concurrent.futures, json, multiprocessing, os, shutil, socket, sqlite3, ssl, subprocess, sys, tempfile
import threading, urllib.request

SPAWNING = '''
import multiprocessing
def double(n): return 2 * n
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool: print(pool.map(double, range(3)))
'''

def put(queue, lock, value):
    with lock: value.value += 1; queue.put(os.getpid())

def processes():
    context = multiprocessing.get_context("fork")
    queue, lock, value = context.Queue(), context.Lock(), context.Value("i", 0)
    children = [context.Process(target=put, args=(queue, lock, value)) for _ in range(3)]
    for child in children: child.start()
    pids = {queue.get(timeout=20) for _ in children}
    for child in children: child.join()
    with context.Pool(2) as pool: squares = pool.map(abs, [-1, -2])
    return len(pids) == 3 and value.value == 3 and squares == [1, 2]

def shared_memory():
    from multiprocessing import shared_memory
    memory = shared_memory.SharedMemory(create=True, size=64)
    memory.buf[:2] = b"ok"
    memory.close(); memory.unlink()
    return True

def spawned():
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(SPAWNING); script.flush()
        return subprocess.run([sys.executable, script.name], capture_output=True, text=True).stdout.strip() == "[0, 2, 4]"

def asynchronous():
    async def main():
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=-1)
        out, _ = await process.communicate()
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0) if OPEN else None
        return out == b"1\n" and await asyncio.to_thread(lambda: 7) == 7
    return asyncio.run(main())

def threads():
    with concurrent.futures.ThreadPoolExecutor(32) as pool: return sum(pool.map(len, ["x"] * 64)) == 64

def tls():
    context = ssl.create_default_context()
    # Certificates of the system, where it has any.
    return context.verify_mode == ssl.CERT_REQUIRED and (not CERTIFICATES or len(context.get_ca_certs()) > 0)

def files():
    for base in (os.environ["HOME"], os.environ["TMPDIR"], tempfile.gettempdir()):
        with tempfile.TemporaryDirectory(dir=base) as directory:
            with open(directory + "/a", "w") as file: file.write("x")
            shutil.move(directory + "/a", directory + "/b")
            os.replace(directory + "/b", directory + "/c")
            shutil.copy2(directory + "/c", directory + "/d")
    database = sqlite3.connect(os.environ["HOME"] + "/db")
    database.execute("create table t (x)"); database.commit(); database.close()
    return os.path.expanduser("~") == os.environ["HOME"]

def system():
    import pwd, time, uuid, secrets, random
    with open("/dev/null", "w") as null: null.write("x")
    pair = socket.socketpair()
    pair[0].send(b"x")
    name = pwd.getpwuid(os.getuid()).pw_name if NAMED else "x"
    return bool(name) and pair[1].recv(1) == b"x" and os.cpu_count() > 0 and len(os.urandom(8)) == 8 \
        and socket.getaddrinfo("localhost", 80) and subprocess.run("echo shell", shell=True, capture_output=True).stdout == b"shell\n"

def handle(line):
    global OPEN, NAMED, CERTIFICATES
    OPEN, NAMED, CERTIFICATES = (word == "1" for word in line.split())
    done = {}
    for check in (processes, shared_memory, spawned, asynchronous, threads, tls, files, system):
        try: done[check.__name__] = bool(check())
        except BaseException as error: done[check.__name__] = repr(error)
    return json.dumps({name: result for name, result in done.items() if result is not True})
"#;

fn pretending(change: impl FnOnce(&mut Pretend)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.pretend);
    settings
}

/// The settings of a sandbox with its name, or `None` for one that this machine does not have.
async fn stage(settings: Settings) -> Option<Stage> {
    match Stage::try_with(|config| config.sandbox = settings.clone()).await {
        Ok(stage) => Some(stage),
        Err(error) => {
            hoistway_testing::need("sandbox", false, &format!("{settings:?}: {error}"));
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_works_in_every_sandbox() {
    let certificates = i32::from(Path::new("/etc/ssl/certs/ca-certificates.crt").exists());
    let with = |mode, network| Settings { mode, network, egress_port: 1, ..Settings::default() };
    let old = Settings {
        pretend: Pretend { landlock_abi: Some(1), ..Pretend::default() },
        ..with(Mode::Landlock, Network::Open)
    };
    let rows = [
        with(Mode::Namespaces, Network::Open),
        with(Mode::Namespaces, Network::Closed),
        with(Mode::Landlock, Network::Open),
        with(Mode::Landlock, Network::Closed),
        old,
        with(Mode::None, Network::Open),
    ];
    for settings in rows {
        let Some(stage) = stage(settings.clone()).await else { continue };
        let (_, started) = stage.ready(EVERYTHING).await;
        // Landlock's closed network has no ports to listen on.
        let open = i32::from(settings.network == Network::Open || settings.mode == Mode::Namespaces);
        let named = i32::from(settings.mode == Mode::Namespaces);
        assert_eq!(ask(&started, &format!("{open} {named} {certificates}")).await, "{}", "{settings:?}");
        stage.runtime.shutdown(GRACE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strongest_that_is_there_is_taken_and_told() {
    let rows: [(Settings, &str, &str, usize); 5] = [
        (Settings::default(), "namespaces: ", "closed", 0),
        (pretending(|p| p.no_namespaces = true), "landlock (ABI ", "closed", 1),
        (
            pretending(|p| (p.no_namespaces, p.landlock_abi) = (true, Some(1))),
            "landlock (ABI 1: files only; TCP and signals not limited); seccomp",
            "open",
            2,
        ),
        (pretending(|p| (p.no_namespaces, p.landlock_abi) = (true, Some(0))), "not sandboxed", "open", 3),
        (Settings { network: Network::Open, ..Settings::default() }, "namespaces: ", "open", 0),
    ];
    let mut before = None;
    for (settings, text, network, notes) in rows {
        let stage = Stage::with(|config| config.sandbox = settings.clone()).await;
        let isolation = stage.runtime.isolation();
        if before.is_none() && !isolation.enforced.starts_with(text) {
            hoistway_testing::need("sandbox", false, &format!("no namespaces here: {:?}", isolation.notes));
        } else {
            assert!(isolation.enforced.starts_with(text), "{settings:?}: {isolation:?}");
            // One more where root finds that users of their own do not work.
            assert!((notes..=notes + 1).contains(&isolation.notes.len()), "{isolation:?}");
            assert_eq!(isolation.network, network);
        }
        before = Some(isolation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_sandbox_is_refused_with_the_reason() {
    let none = |mode, network| Settings {
        mode,
        network,
        pretend: Pretend { no_namespaces: true, landlock_abi: Some(0), ..Pretend::default() },
        ..Settings::default()
    };
    let old = Settings {
        pretend: Pretend { landlock_abi: Some(3), ..Pretend::default() },
        ..none(Mode::Landlock, Network::Closed)
    };
    let rows = [
        (none(Mode::Namespaces, Network::Open), "\"namespaces\" cannot be had on this machine: "),
        (
            none(Mode::Landlock, Network::Open),
            "\"landlock\" cannot be had on this machine: this kernel has no Landlock",
        ),
        (none(Mode::None, Network::Closed), "a closed network cannot be enforced without a sandbox"),
        (none(Mode::Auto, Network::Closed), "no Landlock for agents"),
        (old, "a closed network needs Landlock ABI 4, and this machine has 3"),
        (
            Settings { readable: vec!["/no/such/thing".into()], ..Settings::default() },
            "HOISTWAY_AGENT_READABLE: /no/such/thing: it cannot be found",
        ),
    ];
    for (settings, text) in rows {
        let refused = Stage::try_with(|config| config.sandbox = settings).await.err().unwrap();
        assert_eq!(refused.code, Code::InvalidArgument);
        assert!(refused.message.contains(text), "{}", refused.message);
    }
}

/// Stands for egress: answers each connection with the preface that it began with.
fn egress() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let preface = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let length = preface.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all((head + &preface).as_bytes());
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn in_its_own_network_an_agent_finds_egress_and_answers_its_callers() {
    let settings = Settings { mode: Mode::Namespaces, network: Network::Closed, ..Settings::default() };
    let start = async |egress: String| {
        let with = |config: &mut ProcessConfig| {
            (config.sandbox, config.egress) = (settings.clone(), ServiceAddress::local(&egress))
        };
        match Stage::try_with(with).await {
            Ok(stage) => Some(stage),
            Err(error) => {
                hoistway_testing::need("sandbox", false, &error.to_string());
                None
            }
        }
    };
    let Some(stage) = start(egress()).await else { return };
    let url = stage.runtime.egress_route().unwrap().url;
    let source = format!(
        "import urllib.error, urllib.request
def handle(line):
    if line == 'again': import os; os._exit(1)
    try: return urllib.request.urlopen('{url}/v1/models', timeout=10).read().decode()
    except urllib.error.HTTPError as error: return str(error.code) + error.read().decode().strip()"
    );
    let (instance, started) = stage.ready(&source).await;
    let token = instance.egress_token.clone();
    let preface = Preface { token, flavour: Flavour::Proxy, port: 3128 };
    assert_eq!(Preface::parse(ask(&started, "x").await.as_bytes()), Some(preface.clone()));
    // It is there for the next process as well.
    ask(&started, "again").await;
    until(&started, |state| *state != State::Ready).await;
    until(&started, |state| *state == State::Ready).await;
    assert_eq!(Preface::parse(ask(&started, "x").await.as_bytes()), Some(preface));

    // Without egress the agent is told so.
    let Some(stage) = start("127.0.0.1:1".to_owned()).await else { return };
    let (_, started) = stage.ready(&source).await;
    let answer = ask(&started, "x").await;
    assert!(answer.starts_with("503") && answer.contains("egress cannot be reached now"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_its_own_network_the_names_of_an_agents_tools_lead_to_egress_and_others_to_nothing() {
    let settings = Settings { mode: Mode::Namespaces, network: Network::Closed, ..Settings::default() };
    let egress = egress();
    let made =
        Stage::try_with(|config| (config.sandbox, config.egress) = (settings, ServiceAddress::local(&egress))).await;
    let Ok(stage) = made else {
        hoistway_testing::need("sandbox", false, &made.err().unwrap().to_string());
        return;
    };
    let source = r#"
import socket, time
def handle(line):
    host, port, first = line.split()
    began = time.monotonic()
    try:
        connection = socket.create_connection((host, int(port)), 10)
        connection.sendall({"tls": b"\x16", "http": b"G"}[first] + b"\n\n")
        return connection.makefile().read().split("\n")[-1]
    except OSError as error:
        return f"{type(error).__name__}, {'at once' if time.monotonic() - began < 1 else 'late'}"
"#;
    let mut instance = stage.instance(source);
    instance.endpoints =
        ["https://api.example", "http://plain.example:8080"].map(|u| Endpoint::of_url(u).unwrap()).into();
    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    let preface = |flavour, port| {
        Preface { token: instance.egress_token.clone(), flavour, port }.line().expose().trim().to_owned()
    };
    let machine = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    for (line, answer) in [
        ("api.example 443 tls", preface(Flavour::Tls, 443)),
        ("API.EXAMPLE 443 tls", preface(Flavour::Tls, 443)),
        ("plain.example 8080 http", preface(Flavour::Http, 8080)),
        ("plain.example 8080 tls", preface(Flavour::Tls, 8080)),
        ("plain.example 81 http", "ConnectionRefusedError, at once".to_owned()),
        ("localhost 443 tls", "ConnectionRefusedError, at once".to_owned()),
        (&format!("{machine} 443 tls"), "ConnectionRefusedError, at once".to_owned()),
        ("other.example 443 tls", "gaierror, at once".to_owned()),
    ] {
        assert_eq!(ask(&started, line).await, answer, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_either_stage_of_the_launcher_ends_the_namespace() {
    let Some(stage) = stage(Settings { mode: Mode::Namespaces, ..Settings::default() }).await else { return };
    let source = "import os, sys
def handle(line):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: os.execve(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', line], {})
        os._exit(0)
    os.wait()
    return 'started'";
    let (instance, started) = stage.ready(source).await;
    for level in [1, 2] {
        let marker = format!("{}-{level}", instance.revision.simple());
        until(&started, |state| *state == State::Ready).await;
        assert_eq!(ask(&started, &marker).await, "started");
        let daemon = daemon(&marker).await;
        let mut pid = host_pid_of(&instance);
        (0..level).for_each(|_| pid = parent_of(pid));
        let (launcher, daemon) = (Watched::new(pid), Watched::new(daemon));
        launcher.kill();
        daemon.ends();
        until(&started, |state| *state != State::Ready).await;
    }
}

/// The pid of the process that has `marker` on its command line, once it is there.
async fn daemon(marker: &str) -> i32 {
    let seen = async {
        loop {
            let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
            let has = |pid: &i32| {
                std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(marker))
            };
            if let Some(pid) = pids.into_iter().find(has) {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, seen).await.unwrap()
}

/// Says that a run of these tests is one of the following test's.
const RUN: &str = "HOISTWAY_TEST_SANDBOX_RUN";

/// Everything in here once more: in lesser sandboxes, and as an ordinary user in all of them.
#[test]
fn all_runtime_tests_pass_in_weaker_sandboxes() {
    if std::env::var_os(RUN).is_some() {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    let ordinary = root && hoistway_testing::runs("setpriv", &["/usr/bin/python3", "--version"]);
    for (mode, as_user) in
        [("landlock", false), ("none", false), ("namespaces", true), ("landlock", true), ("none", true)]
    {
        if as_user && !ordinary {
            continue;
        }
        let program = std::env::current_exe().unwrap();
        let mut command = if as_user {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=54321", "--regid=54321", "--clear-groups"]).arg(program);
            command.env("PATH", "/usr/bin:/bin").env("HOME", "/tmp").env_remove("TMPDIR").current_dir("/");
            // Tests that must not be skipped are root's here; the outer run has done it.
            command.env_remove("HOISTWAY_TEST_REQUIRE").env_remove("HOISTWAY_TEST_SKIPS");
            command
        } else {
            Command::new(program)
        };
        let output =
            command.args(["runtime::", "--skip", "sandboxes"]).env(RUN, "1").env(SANDBOX, mode).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("cannot be had on this machine"), "{mode}, {as_user}: {said}");
    }
}
