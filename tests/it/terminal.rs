//! The output on a terminal: log lines, a deployment that is followed, the demo.

use crate::{
    cli::{User, write},
    http,
    test_installation::{HOISTWAY, OPEN, Stack},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::tempdir;

/// An agent that becomes ready once a server answers at `GO`.
const WAITS: &str = "
import os, time, urllib.request
while True:
    try:
        urllib.request.urlopen(os.environ['GO'])
        break
    except OSError:
        time.sleep(0.1)
def handler(message):
    return message
";

/// Returns the access lines of a log, without the time: (level, the rest).
fn access_lines(dir: &Path) -> Vec<(String, String)> {
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    let lines = log.lines().filter_map(|line| {
        let (level, line) = line.split_once(' ')?.1.trim_start().split_once(' ')?;
        let line = line.trim_start_matches("hoistway::access: ");
        let is_access = ["GET /api", "POST /api"].iter().any(|begin| line.starts_with(begin));
        is_access.then(|| (level.to_owned(), line.to_owned()))
    });
    lines.collect()
}

/// Answers each request.
fn answer(go: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in go.incoming().flatten() {
            // The client may have been killed since.
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

#[test]
fn a_request_is_one_line_with_its_id_and_reads_of_the_command_line_are_debug() {
    let dir = tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_LOG", "info,hoistway::access=debug");
    });
    let user = User { stack: &stack, home: dir.path() };
    write(dir.path(), "plain/agent.py", "def handler(message):\n    return message\n");
    user.ok(&["deploy", "plain"]);
    user.fails(&["agents", "absent"], 1);
    assert_eq!(stack.call("GET", "/api/agents", None).status, 200);

    let lines = access_lines(dir.path());
    let (level, deploy) = lines.iter().find(|(_, line)| line.starts_with("POST")).unwrap();
    let words: Vec<&str> = deploy.split(' ').collect();
    let [_, _, "202", took, id] = words[..] else { panic!("{deploy}") };
    assert_eq!((level.as_str(), words[..2].join(" ").as_str()), ("INFO", "POST /api/deploy"));
    assert!(took.ends_with("ms") && id.starts_with("request_id="), "{deploy}");

    let at_info: Vec<&str> = lines.iter().filter(|(level, _)| level == "INFO").map(|(_, line)| line.as_str()).collect();
    let begins = ["POST /api/deploy 202 ", "GET /api/agents/absent 404 ", "GET /api/agents 200 "];
    assert_eq!(at_info.len(), begins.len(), "{at_info:?}");
    assert!(at_info.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{at_info:?}");
    assert!(lines.iter().any(|(level, line)| level == "DEBUG" && line.starts_with("GET /api/deployments/")));
}

#[test]
fn a_deploy_follows_events_and_asks_twice_for_its_record_however_long_it_takes() {
    let dir = tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(OPEN).env("HOISTWAY_LOG", "info,hoistway::access=debug");
    });
    let user = User { stack: &stack, home: dir.path() };
    write(dir.path(), "slow/agent.py", WAITS);
    let (go, at) = listener();
    let mut deploy = user.command(&["deploy", "slow", "-e", &format!("GO=http://{at}/")]);
    let mut deploy = deploy.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(deploy.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line == "start   waiting until the agent is ready"));
    answer(go);
    let rest: Vec<String> = told.collect();
    assert!(deploy.wait().unwrap().success(), "{rest:?}");
    assert!(rest[0].starts_with("start   done in ") && rest[1].starts_with("switch  "), "{rest:?}");

    let count = |begin: &str| {
        let lines = access_lines(dir.path());
        lines.iter().filter(|(_, line)| line.starts_with(begin)).count()
    };
    assert_eq!(count("GET /api/events "), 1);
    assert_eq!(count("GET /api/deployments/"), 2, "when the events begin, and at the end");
    assert!(count("GET ") <= 7, "{:#?}", access_lines(dir.path()));
}

#[test]
fn a_deploy_is_followed_over_a_restart_of_the_server() {
    let dir = tempdir().unwrap();
    let stack = Stack::start_open(dir.path());
    let api = stack.at.clone();
    let user = User { stack: &stack, home: dir.path() };
    write(dir.path(), "slow/agent.py", WAITS);
    let (go, at) = listener();
    let mut deploy = user.command(&["deploy", "slow", "-e", &format!("GO=http://{at}/")]);
    let mut deploy = deploy.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(deploy.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line == "start   waiting until the agent is ready"));
    stack.kill();
    let mut command = Command::new(HOISTWAY);
    command.args(["up", "--listen", &api, "--data-dir"]).arg(dir.path().join("data")).args(OPEN);
    let _stack = Stack::spawn(dir.path(), command);
    answer(go);
    let rest: Vec<String> = told.collect();
    assert!(deploy.wait().unwrap().success(), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("slow is deployed as revision 1 in ")), "{rest:?}");
    assert_eq!(rest.iter().filter(|line| line.starts_with("start   done in ")).count(), 1, "{rest:?}");
}

#[test]
fn a_deploy_is_followed_without_events() {
    let dir = tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let key = format!("Bearer {}", stack.key);
    let open = || http::open(&stack.at, "GET", "/api/events", &[("Authorization", &key)], b"").ok();
    let _followers: Vec<_> = std::iter::from_fn(open).take(1000).collect();
    assert_eq!(stack.call("GET", "/api/events", None).status, 429);
    write(dir.path(), "plain/agent.py", "def handler(message):\n    return message\n");
    assert!(user.ok(&["deploy", "plain"]).starts_with("plain answers at "));
}

/// An agent that tries to control the reader's terminal: its title, its screen, its clipboard.
const CONTROLS: &str = r"
CONTROLS = '\x1b]0;pwn\x07\x1b[2J\x1b]52;c;QUFB\x07\r\x7f\u009b2J'
def handler(message):
    print('said' + CONTROLS, flush=True)
    if message == 'fail':
        raise ValueError('failed' + CONTROLS)
    return 'answer' + CONTROLS
";

/// Returns a command's output on a terminal, with its line ends unchanged.
fn shown(mut command: Command) -> String {
    let program = [command.get_program()].into_iter().chain(command.get_args()).map(Into::into);
    let program: Vec<std::ffi::OsString> = program.collect();
    let mut terminal = Command::new("python3");
    terminal.args(["-c", "import pty, sys; pty.spawn(sys.argv[1:])"]).args(program).env("TERM", "dumb");
    for (name, value) in command.get_envs() {
        value.map(|value| terminal.env(name, value));
    }
    let output = terminal.current_dir(command.stdin(Stdio::null()).get_current_dir().unwrap()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

#[test]
fn agent_output_cannot_control_a_terminal_and_is_unchanged_for_programs() {
    let dir = tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    write(dir.path(), "hostile/agent.py", CONTROLS);
    user.ok(&["deploy", "hostile"]);
    for (args, begin) in [
        (&["invoke", "hostile", "x"][..], "answer"),
        (&["invoke", "hostile", "x", "--json"], "answer"),
        (&["invoke", "hostile", "x", "--stream"], "answer"),
        (&["invoke", "hostile", "fail"], "failed"),
        (&["logs", "hostile"], "said"),
        (&["logs", "hostile", "--json"], "said"),
        (&["calls", "absent\u{1b}[2J"], "error: "),
    ] {
        let text = shown(user.command(args));
        assert!(text.contains(begin), "{args:?}: {text:?}");
        assert!(!text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')), "{args:?}: {text:?}");
    }
    assert!(user.ok(&["invoke", "hostile", "x"]).contains("answer\u{1b}]0;pwn\u{7}"));
}

/// A terminal; its program is ended when it is dropped.
struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_log_line_comes_between_the_lines_of_the_demo_on_a_terminal() {
    let dir = tempdir().unwrap();
    let terminal = Command::new("python3")
        .args(["-c", "import pty, sys; pty.spawn(sys.argv[1:])", HOISTWAY])
        .args(["up", "--demo", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut terminal = Terminal(terminal);
    let mut lines = BufReader::new(terminal.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_log = |line: &String| line.contains(" INFO\x1b[0m ");
    assert!(lines.any(|line| line.trim_end() == "Demo"));
    let demo: Vec<String> = lines.by_ref().take_while(|line| !line.contains("hoistway delete demo-agent")).collect();
    assert!(demo.iter().any(|line| line.contains("You said: world")), "{demo:#?}");
    assert!(!demo.iter().any(is_log), "{demo:#?}");
    // The lines that were held back follow in their order. The build does not wait for the answer.
    let held: Vec<String> = lines.by_ref().take(5).collect();
    let place = |text: &str| held.iter().position(|line| is_log(line) && line.contains(text));
    let places = |texts: [&str; 4]| texts.map(place);
    for second in ["POST /api/deploy 202 ", "built in "] {
        let places = places([
            "POST /api/starter-kit 200 ",
            second,
            "revision 1 is ready after ",
            "POST /api/agents/demo-agent/invoke 200 ",
        ]);
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{second}: {held:#?}");
    }
    terminal.0.stdin.take().unwrap().write_all(b"\x03").unwrap();
    let rest: Vec<String> = lines.collect();
    assert!(terminal.0.wait().unwrap().success(), "{rest:#?}");
}
