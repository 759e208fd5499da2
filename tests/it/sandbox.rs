//! Sandboxes: their selection and their description to the user.

use crate::{
    prerequisites,
    test_installation::{HOISTWAY, Stack, says},
};
use serde_json::json;
use std::process::Command;

/// Returns the models that egress shows, whether a path exists, and the answer of a server of the agent's own.
const LOOK: &str = r#"
import http.server, json, os, threading, urllib.request

class Own(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"own")

def own():
    try:
        server = http.server.HTTPServer(("127.0.0.1", 0), Own)
    except PermissionError:
        return "may not listen"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hosts = "127.0.0.1", "localhost"
    return " ".join(urllib.request.urlopen(f"http://{host}:{server.server_port}/").read().decode() for host in hosts)

def handler(message):
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/models")
    with urllib.request.urlopen(request) as answer:
        return {"response": [json.load(answer)["data"], os.path.exists(message), own()]}
"#;

#[test]
fn every_sandbox_is_reported_and_runs_agents() {
    let rows = [
        (vec![], "", "closed"),
        (vec!["--sandbox", "none"], "not sandboxed", "open"),
        (vec!["--sandbox", "landlock"], "landlock (ABI ", "closed"),
        (vec!["--sandbox", "landlock", "--network", "open"], "landlock (ABI ", "open"),
        (vec!["--sandbox", "namespaces", "--network", "closed"], "namespaces: ", "closed"),
        (vec!["--sandbox", "namespaces", "--network", "open"], "namespaces: ", "open"),
    ];
    for (flags, enforced, network) in rows {
        let dir = tempfile::tempdir().unwrap();
        if !prerequisites::sandbox(&flags) {
            continue;
        }
        let stack = Stack::start_with(dir.path(), |command| {
            command.args(&flags);
        });
        let runtime = stack.get("/api/status")["runtime"].clone();
        let isolation = runtime["isolation"].as_str().unwrap();
        assert!(isolation.starts_with(enforced) && runtime["network"] == network, "{flags:?}: {runtime}");
        assert!(stack.screen.contains(&format!("agents     {isolation}; network: {network}")), "{}", stack.screen);

        stack.deployed(json!({"agent_name": "looker", "source_files": {"agent.py": LOOK}}));
        let seen = stack.answer("looker", dir.path().join("data/master.key").to_str().unwrap());
        assert_eq!(seen[0], json!([]), "{flags:?}: {seen}");
        assert_eq!(seen[1] == json!(false), isolation.starts_with("namespaces"), "{flags:?}: {seen}");
        let may_listen = network == "open" || isolation.starts_with("namespaces");
        assert_eq!(seen[2], if may_listen { "own own" } else { "may not listen" }, "{flags:?}: {seen}");
        let status = stack.get("/api/agents/looker")["status"].clone();
        for (of_agent, of_all) in [("isolation", "isolation"), ("network", "network"), ("limits", "limits")] {
            assert_eq!(status[of_agent], runtime[of_all], "{status}");
        }
        // A redeploy replaces the agent in this sandbox too.
        stack.deployed(json!({"agent_name": "looker", "source_files": says("again")}));
        assert_eq!(stack.answer("looker", "x"), "again");
    }
}

#[test]
fn an_unavailable_sandbox_fails_with_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(HOISTWAY)
        .args(["up", "--listen", "127.0.0.1:0", "--sandbox", "none", "--network", "closed", "--data-dir"])
        .arg(dir.path().join("data"))
        .env("HOISTWAY_LOG", "error")
        .output()
        .unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), said.lines().count()), (Some(64), 1), "{said}");
    assert!(said.contains("a closed network cannot be enforced without a sandbox"), "{said}");
    let out = Command::new(HOISTWAY).args(["up", "--sandbox", "jail"]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("\"jail\" is none of auto, namespaces, landlock, none"), "{said}");
}

/// Runs a script in mounts of its own, where copies of files in `/etc` replace the originals; its mounts are not
/// visible elsewhere.
fn with_own_etc(dir: &std::path::Path, script: &str) -> Command {
    for name in ["passwd", "group"] {
        std::fs::copy(format!("/etc/{name}"), dir.join(name)).unwrap();
    }
    let mounts = "for name in passwd group; do mount --bind \"$0/$name\" \"/etc/$name\" || exit 9; done";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &format!("{mounts}; {script}")]).arg(dir);
    command
}

#[test]
fn readable_paths_hide_no_part_of_the_agent_and_change_nothing_on_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    if !prerequisites::need(
        "root",
        with_own_etc(dir.path(), "true").status().is_ok_and(|s| s.success()),
        "no mounts here",
    ) {
        return;
    }
    let is_unchanged = || {
        ["passwd", "group"]
            .iter()
            .all(|name| std::fs::read(dir.path().join(name)).unwrap() == std::fs::read(format!("/etc/{name}")).unwrap())
    };
    let up = format!("exec {HOISTWAY} up --listen 127.0.0.1:0 --data-dir \"$0/data\"");
    let refused = ["/etc", "/", "/tmp", "/home", "/home/agent", "/proc", "/dev", "/app", "/usr/../etc"];
    for (setting, path) in refused.iter().flat_map(|path| [("READABLE", path), ("WRITABLE", path)]) {
        let setting = format!("HOISTWAY_AGENT_{setting}");
        let mut command = with_own_etc(dir.path(), &up);
        let out = command.env(&setting, json!([path]).to_string()).env("HOISTWAY_LOG", "error").output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), said.lines().count()), (Some(64), 1), "{path}: {said}");
        assert!(said.starts_with(&format!("hoistway: {setting}: {path}: ")), "{said}");
        assert!(is_unchanged(), "{setting} of {path}");
    }

    // Single files of a refused directory may be made readable, and replace the agent's own ones.
    let mut command = with_own_etc(dir.path(), &up);
    command.env("HOISTWAY_AGENT_READABLE", json!(["/etc/passwd", dir.path().join("group")]).to_string());
    let stack = Stack::spawn(dir.path(), command);
    let source = "def handler(message):\n    try:\n        with open(message, 'a') as file: file.write('x')\n    except OSError: pass\n    return open(message).read()\n";
    stack.deployed(json!({"agent_name": "reader", "source_files": {"agent.py": source}}));
    for path in [std::path::Path::new("/etc/passwd"), &dir.path().join("group")] {
        assert_eq!(stack.answer("reader", path.to_str().unwrap()), std::fs::read_to_string(path).unwrap());
    }
    assert!(is_unchanged());
    assert!(stack.stop().success());
    assert!(is_unchanged());
}

const CHILDREN: &str = r##"
import os, subprocess, sys
PROGRAM = """import json, sys, importlib.util
import words
print(json.dumps([words.TEA, [name for name in ("pip", "setuptools", "apt_pkg", "six") if importlib.util.find_spec(name)]]))
"""

def handler(message):
    with open("program", "w") as file:
        file.write(f"#!{message}\n{PROGRAM}")
    os.chmod("program", 0o755)
    child = subprocess.run([os.path.abspath("program")], cwd="/", env={}, capture_output=True, text=True)
    return child.stdout or child.stderr
"##;

/// Programs find the interpreter at its usual path, whatever the machine has at that path.
#[test]
fn children_started_by_an_absolute_path_find_the_agents_modules_and_no_packages_of_the_machine() {
    const PYTHON: &str = "/usr/bin/python3";
    if !prerequisites::sandbox(&["--sandbox", "namespaces"]) || !std::path::Path::new(PYTHON).exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(["--sandbox", "namespaces"]);
    });
    let files = json!({"agent.py": CHILDREN, "words.py": "TEA = 'tea'\n"});
    stack.deployed(json!({"agent_name": "children", "source_files": files}));
    assert_eq!(stack.answer("children", PYTHON), "[\"tea\", []]\n");
    assert!(stack.stop().success());
}
