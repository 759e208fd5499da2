//! Sandboxes as a user chooses them and is told of them.

use crate::{
    need,
    stack::{HOISTWAY, Stack, says},
};
use serde_json::json;
use std::process::Command;

const LOOK: &str = r#"
import json, os, urllib.request
def handler(message):
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/models")
    with urllib.request.urlopen(request) as answer:
        return {"response": [json.load(answer)["data"], os.path.exists(message)]}
"#;

#[test]
fn every_sandbox_is_told_and_runs_agents() {
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
        if !need::sandbox(&flags) {
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
        let status = stack.get("/api/agents/looker")["status"].clone();
        for (of_agent, of_all) in [("isolation", "isolation"), ("network", "network"), ("limits", "limits")] {
            assert_eq!(status[of_agent], runtime[of_all], "{status}");
        }
        // A redeploy replaces it there too.
        stack.deployed(json!({"agent_name": "looker", "source_files": says("again")}));
        assert_eq!(stack.answer("looker", "x"), "again");
    }
}

#[test]
fn a_sandbox_that_cannot_be_had_is_one_clear_line() {
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
