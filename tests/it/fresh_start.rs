//! First use: start, run the printed command, stop, start again.

use crate::test_installation::{HOISTWAY, Stack, log_of, says};
use serde_json::json;
use std::{os::unix::fs::PermissionsExt, process::Command};

#[test]
fn the_startup_banner_is_complete_and_its_command_works() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    for part in ["api-key", "registry", "each at most: ", "network: closed", "curl"] {
        assert!(stack.screen.contains(part), "{part} is not in\n{}", stack.screen);
    }
    let key = std::fs::metadata(dir.path().join("data/api-key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let script: String = stack.screen.split("another terminal:\n").nth(1).unwrap().to_owned();
    let script = script.split("\nCtrl-C").next().unwrap();
    let out = Command::new("bash").args(["-e", "-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("Hello, world"), "{text}\n{}\n{}", String::from_utf8_lossy(&out.stderr), log_of(dir.path()));
}

#[test]
fn localhost_works_over_both_families() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(HOISTWAY);
    command.args(["up", "--listen", &format!("localhost:{port}"), "--data-dir"]).arg(dir.path().join("data"));
    let stack = Stack::spawn(dir.path(), command);
    assert!(stack.at.ends_with(&format!(":{port}")), "{}", stack.at);
    let v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    for host in ["127.0.0.1", "[::1]"].into_iter().filter(|h| v6 || !h.starts_with('[')) {
        let answer = crate::http::send(&format!("{host}:{port}"), "GET", "/readyz", &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[test]
fn a_second_up_and_a_port_in_use_fail_with_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let up = |args: &[&str]| {
        let out = Command::new(HOISTWAY).arg("up").args(args).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let data = dir.path().join("data");
    let (status, said) = up(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    assert_eq!((status, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("another hoistway") && said.contains(&stack.pid().to_string()), "{said}");
    let other = tempfile::tempdir().unwrap();
    let (status, said) = up(&["--listen", &stack.at, "--data-dir", other.path().join("d").to_str().unwrap()]);
    assert_eq!((status, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("in use"), "{said}");
    let (status, said) = up(&["--data-dir", other.path().join("d").to_str().unwrap(), "--python", "/nothing/here"]);
    assert_eq!((status, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("Python"), "{said}");
}

#[test]
fn agents_come_back_after_ctrl_c_and_after_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::start(dir.path());
    for i in 0..3 {
        stack.deployed(json!({"agent_name": format!("keep-{i}"), "source_files": says(&format!("kept {i}"))}));
    }
    let registry = stack.registry.clone();
    for way in ["Ctrl-C", "kill -9"] {
        match way {
            "Ctrl-C" => assert!(stack.stop().success(), "{}", log_of(dir.path())),
            _ => stack.kill(),
        }
        stack = Stack::start(dir.path());
        assert_eq!(stack.registry, registry, "ports are kept");
        for i in 0..3 {
            stack.wait_for_phase(&format!("keep-{i}"), "Running");
            assert_eq!(stack.answer(&format!("keep-{i}"), "x"), format!("kept {i}"), "after {way}");
        }
    }
}
