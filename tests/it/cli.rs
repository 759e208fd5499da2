//! The command line against a running stack.

use crate::test_installation::{HOISTWAY, PREINSTALL_UV, Stack};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};
use tempfile::tempdir;

/// A user at a terminal: a home directory, and the two variables that the SDK reads too.
pub struct User<'a> {
    pub stack: &'a Stack,
    pub home: &'a Path,
}

impl User<'_> {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(HOISTWAY);
        command
            .args(args)
            .current_dir(self.home)
            .env("HOME", self.home)
            .env_remove("XDG_DATA_HOME")
            .env("RUNAGENTS_ENDPOINT", format!("http://{}", self.stack.at))
            .env("RUNAGENTS_API_KEY", &self.stack.key)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed and returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", output_text(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs a command that must fail and returns its standard error.
    pub fn fails(&self, args: &[&str], status: i32) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {}", output_text(&out));
        output_text(&out)
    }
}

fn output_text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

pub fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_directory_is_deployed_invoked_rolled_back_and_deleted() {
    let dir = tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let project = dir.path().join("My Greeter");
    write(
        &project,
        "agent.py",
        "import os, words\ndef handler(message):\n    print('asked', message)\n    return words.GREETING + ', ' + message + os.environ['MARK']\n",
    );
    write(&project, "words.py", "GREETING = 'Hello'\n");
    write(&project, ".env", "MARK=never-sent\n");

    let out = user.run(&["deploy", "My Greeter", "--env", "MARK=!"]);
    assert!(out.status.success(), "{}", output_text(&out));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("my-greeter answers at http://"), "{}", output_text(&out));
    let told = String::from_utf8(out.stderr).unwrap();
    let place = |what: &str| told.find(what).unwrap_or_else(|| panic!("{what} is not in {told}"));
    assert!(place("build   | building my-greeter from 2 files") < place("build   | pushed my-greeter:"), "{told}");
    assert!(place("build   | pushed my-greeter:") < place("build   done in ") && told.contains("start   done in "));
    assert!(told.ends_with("ms\n") || told.ends_with("s\n"), "{told}");
    assert!(!told.contains('\x1b'), "colours are for terminals: {told}");
    let again = user.run(&["deploy", "My Greeter", "--env", "MARK=!"]);
    assert!(
        output_text(&again).contains("my-greeter is unchanged: revision 1 goes on serving"),
        "{}",
        output_text(&again)
    );
    assert_eq!(user.ok(&["invoke", "my-greeter", "world"]), "Hello, world!\n");
    let mut invoke =
        user.command(&["invoke", "my-greeter"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    invoke.stdin.take().unwrap().write_all(b"stdin").unwrap();
    let mut text = String::new();
    invoke.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(invoke.wait().unwrap().success());
    assert_eq!(text, "Hello, stdin!\n");

    assert!(user.ok(&["agents"]).lines().any(|line| line.starts_with("my-greeter  Running  ")));
    assert!(user.ok(&["logs", "my-greeter"]).lines().any(|line| line.ends_with("asked world")));
    let listed: Value = serde_json::from_str(&user.ok(&["agents", "--json"])).unwrap();
    assert_eq!(listed[0]["name"], "my-greeter");

    write(&project, "words.py", "GREETING = 'Goodbye'\n");
    let answer: Value = serde_json::from_str(&user.ok(&["deploy", "My Greeter", "-e", "MARK=!", "--json"])).unwrap();
    assert!(answer["build_id"].is_string() && answer["status"] == "SUCCEEDED", "{answer}");
    assert!(user.ok(&["logs", "--build", answer["build_id"].as_str().unwrap()]).contains("pushed my-greeter:"));
    assert_eq!(user.ok(&["invoke", "my-greeter", "world"]), "Goodbye, world!\n");
    user.ok(&["rollback", "my-greeter"]);
    assert_eq!(user.ok(&["invoke", "my-greeter", "world"]), "Hello, world!\n");
    assert!(user.ok(&["revisions", "my-greeter"]).lines().count() >= 4);

    user.ok(&["stop", "my-greeter"]);
    assert!(user.fails(&["invoke", "my-greeter", "x"], 1).contains("stopped"));
    user.ok(&["start", "my-greeter"]);
    assert_eq!(user.ok(&["invoke", "my-greeter", "world"]), "Hello, world!\n");
    assert_eq!(user.ok(&["delete", "my-greeter"]), "my-greeter is deleted\n");
    assert!(user.fails(&["invoke", "my-greeter", "x"], 1).contains("not found"));
    assert!(user.ok(&["status"]).contains("isolation"));
}

#[test]
fn failures_say_cause_and_remedy() {
    let dir = tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let project = dir.path().join("broken");
    write(&project, "agent.py", "raise RuntimeError('no configuration')\ndef handler(message):\n    return message\n");
    let said_of_deploy = user.fails(&["deploy", "broken"], 1);
    assert!(said_of_deploy.contains("error: failed to create agent: "), "{said_of_deploy}");
    assert!(said_of_deploy.contains("RuntimeError: no configuration"), "{said_of_deploy}");

    let out = user.run(&["deploy", "broken", "--json"]);
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), document["code"].as_str()), (Some(1), Some("agent_start_failed")), "{document}");
    assert!(document["deployment"].is_string() && document["details"].is_array(), "{document}");
    let id = document["deployment"].as_str().unwrap();
    assert!(user.fails(&["deployments", id, "--follow"], 1).contains("RuntimeError: no configuration"));
    assert!(user.ok(&["deployments", "--agent", "broken"]).contains("FAILED"));

    assert!(user.fails(&["deploy", "absent"], 64).contains("absent"));
    assert!(user.fails(&["deploy", "--no-such-flag"], 64).contains("--no-such-flag"));
    assert!(user.fails(&["agents", "--endpoint", "nonsense"], 64).contains("nonsense"));
    let nobody = user.fails(&["agents", "--endpoint", "http://127.0.0.1:9"], 1);
    assert!(nobody.contains("cannot be reached") && nobody.contains("hoistway up"), "{nobody}");
    let out = user.command(&["agents"]).env("RUNAGENTS_API_KEY", "hw_wrong").output().unwrap();
    assert!(output_text(&out).contains("RUNAGENTS_API_KEY"), "{}", output_text(&out));
    let out = user.command(&["agents"]).env_remove("RUNAGENTS_API_KEY").output().unwrap();
    assert!(!out.status.success(), "{}", output_text(&out));
    let config = format!("{{\"endpoint\": \"http://{}\", \"api_key\": \"{}\"}}", stack.at, stack.key);
    write(dir.path(), ".runagents/config.json", &config);
    let out =
        user.command(&["agents"]).env_remove("RUNAGENTS_API_KEY").env_remove("RUNAGENTS_ENDPOINT").output().unwrap();
    assert!(out.status.success(), "the SDK's configuration file counts: {}", output_text(&out));
}

#[test]
fn a_deploy_outlives_its_command_and_is_found_again() {
    let dir = tempdir().unwrap();
    let stack = Stack::start_open(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    // The agent becomes ready when the test lets it.
    write(
        dir.path(),
        "slow/agent.py",
        "import os, time, urllib.request\nwhile True:\n    try:\n        urllib.request.urlopen(os.environ['GO'])\n        break\n    except OSError:\n        time.sleep(0.1)\ndef handler(message):\n    return message\n",
    );
    let go = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let go_at = go.local_addr().unwrap();
    let variable = format!("GO=http://{go_at}/");
    let mut deploy = user.command(&["deploy", "slow", "-e", &variable]).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(deploy.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line == "start   waiting until the agent is ready"));
    crate::test_installation::signal(deploy.id(), "INT");
    let rest: String = told.collect();
    assert_eq!(deploy.wait().unwrap().code(), Some(130), "{rest}");
    let id = rest.split("hoistway deployments ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let timed = user.fails(&["deploy", "slow", "-e", &variable, "--timeout", "0"], 75);
    assert!(timed.contains(&id), "the same deploy joins the one that runs: {timed}");

    let answering = std::thread::spawn(move || {
        let (mut stream, _) = go.accept().unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    });
    assert!(user.ok(&["deployments", &id, "--follow"]).starts_with("slow answers at http://"));
    answering.join().unwrap();
}

#[test]
fn logs_are_followed_while_they_come() {
    let dir = tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    write(
        dir.path(),
        "echo/agent.py",
        "def handler(message):\n    print('said', message, flush=True)\n    return message\n",
    );
    user.ok(&["deploy", "echo"]);
    let mut follow = user.command(&["logs", "-f", "echo"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    for word in ["one", "two"] {
        user.ok(&["invoke", "echo", word]);
        assert!(lines.by_ref().any(|line| line.unwrap().ends_with(&format!("said {word}"))));
    }
    user.ok(&["delete", "echo"]);
    assert!(lines.all(|line| line.is_ok()));
    assert!(follow.wait().unwrap().success(), "it ends with the agent");
}

#[test]
fn logs_are_followed_over_restarts_with_each_line_once() {
    let dir = tempdir().unwrap();
    let mut stack = Stack::start(dir.path());
    let at = stack.at.clone();
    write(
        dir.path(),
        "echo/agent.py",
        "def handler(message):\n    print('said', message, flush=True)\n    return message\n",
    );
    let user = User { stack: &stack, home: dir.path() };
    user.ok(&["deploy", "echo"]);
    let follow = |more: &[&str]| {
        let mut command = user.command(&[&["logs", "-f", "echo"], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        (child, lines)
    };
    let mut follows = [follow(&[]), follow(&["--json"])];
    let mut shown = [Vec::new(), Vec::new()];
    let mut until = |text: &str| {
        for ((_, lines), shown) in follows.iter_mut().zip(&mut shown) {
            while !shown.iter().any(|line: &String| line.contains(text)) {
                shown.push(lines.next().unwrap());
            }
        }
    };
    assert_eq!(stack.answer("echo", "one"), "one");
    until("said one");
    // Once with a kill, as in a power cut, and once with an ordinary stop.
    for word in ["two", "three"] {
        match word {
            "two" => stack.kill(),
            _ => assert!(stack.stop().success()),
        }
        let mut up = Command::new(HOISTWAY);
        up.args(["up", "--listen", &at, "--data-dir"]).arg(dir.path().join("data"));
        stack = Stack::spawn(dir.path(), up);
        stack.wait_for_phase("echo", "Running");
        assert_eq!(stack.answer("echo", word), word);
        until(&format!("said {word}"));
    }
    assert_eq!(stack.call("DELETE", "/api/agents/echo", None).status, 200);
    for ((mut child, lines), mut shown) in follows.into_iter().zip(shown) {
        shown.extend(lines);
        assert!(child.wait().unwrap().success(), "it ends with the agent");
        for word in ["one", "two", "three"] {
            let count = shown.iter().filter(|line| line.contains(&format!("said {word}"))).count();
            assert_eq!(count, 1, "{word}: {shown:?}");
        }
    }
}

#[test]
fn the_demo_shows_the_main_job() {
    let dir = tempdir().unwrap();
    let mut child = Command::new(HOISTWAY)
        .args(["up", "--demo", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .env(PREINSTALL_UV, "false")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut shown = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        shown.push_str(&line.unwrap());
        shown.push('\n');
        if shown.contains("hoistway delete demo-agent") {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(shown.contains("You said: world"), "{shown}");
    assert!(shown.contains("\"image_uri\""), "{shown}");
    let next = &shown[shown.find("Next, in another terminal").unwrap()..];
    let api = shown.lines().find_map(|line| line.trim().strip_prefix("API ")).unwrap();
    let endpoint = &api[..api.find("/api").unwrap()];
    let key = dir.path().join("data/api-key");
    for export in [
        format!("export RUNAGENTS_ENDPOINT={}\n", endpoint.trim()),
        format!("export RUNAGENTS_API_KEY=$(cat '{}')\n", key.display()),
    ] {
        assert!(next.contains(&export), "{next}");
    }
}
