//! A hostile agent in a closed network, beside another one, with egress running: exactly the documented attempts are
//! stopped, and egress records every refusal.

mod table;
mod victims;

use crate::{
    containers::{self, Installation},
    egress::{calls, port, token},
    prerequisites,
    python_server::AUTHORITY,
    test_installation::{HOISTWAY, Stack, log_of},
    tool_calls::stand_in,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use table::{ATTEMPTS, COLUMNS, CONTAINERS, Column};
use victims::{Tool, Victims, greet};

/// The prefix of an attempt's name in content that must not arrive at a tool.
const MARK: &str = "hostile-mark-";
const KEY: &str = "sk-of-the-keyed-tool";
/// An address on which only the test listens, on egress' port.
const TEST_ONLY_ADDRESS: &str = "127.8.9.11";
/// The user id of an ordinary user.
const USER: u32 = 54321;

/// Returns its port, or calls its tool.
const OTHER: &str = r#"
import os, urllib.request
def handler(message):
    if message == "port": return {"response": int(os.environ["PORT"])}
    return {"response": urllib.request.urlopen("http://other.example/", timeout=10).read().decode()}
"#;

#[test]
fn the_documentation_has_the_same_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sandbox.md");
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.contains(&table::markdown()), "docs/sandbox.md must contain this table:\n{}", table::markdown());
    assert!(ATTEMPTS.len() >= 40 && ATTEMPTS.iter().all(|(.., verdicts)| verdicts.len() == COLUMNS.len()));
}

#[test]
fn exactly_the_documented_attempts_are_stopped_in_a_closed_network() {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let tools = prerequisites::runs("setpriv", &["true"]) && prerequisites::runs("unshare", &["--mount", "true"]);
    if root && !prerequisites::need("root", tools, "setpriv and unshare are needed to be an ordinary user") {
        return;
    }
    let mut wrong = Vec::new();
    for (index, column) in COLUMNS.iter().enumerate().filter(|(_, column)| root || !column.root) {
        let Some(said) = try_all(index, column, root) else { continue };
        wrong.extend(said);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Lists the differences from the documentation; `None` where this machine does not have the sandbox.
fn try_all(index: usize, column: &Column, root: bool) -> Option<Vec<String>> {
    let in_containers = column.name == CONTAINERS;
    if in_containers && !containers::is_possible() {
        return None;
    }
    let dir = Installation::new();
    let flags = [column.flags, &["--network", "closed", "--python", "/usr/bin/python3"]].concat();
    let hosts = "127.0.0.1 localhost rebound4.example\n::1 rebound6.example\n169.254.169.254 rebound-metadata.example\n\
                 ::ffff:127.0.0.1 rebound-mapped.example\n0.0.0.0 rebound-any.example\n";
    std::fs::write(dir.path().join("hosts"), hosts).unwrap();
    let trial = tempfile::tempdir().unwrap();
    if root && !column.root {
        for dir in [dir.path(), trial.path()] {
            std::os::unix::fs::chown(dir, Some(USER), Some(USER)).unwrap();
        }
    }
    if !prerequisites::sandbox_in(trial.path(), program(dir.path(), column, root), &flags) {
        return None;
    }
    let (tool, tls) = (Tool::start(), stand_in(dir.path()));
    let victims = Victims::start(dir.path());
    let mut command = program(dir.path(), column, root);
    let resolve = [
        format!("api.stripe.com:443={tls}"),
        format!("plain.example:80={}", tool.address),
        format!("scoped.example:80={}", tool.address),
        format!("keyed.example:80={}", tool.address),
        format!("other.example:80=127.0.0.1:{}", victims.port),
    ];
    command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path().join("data")).args(&flags);
    command.env("HOISTWAY_EGRESS_RESOLVE", json!(resolve).to_string());
    command.env("HOISTWAY_EGRESS_EXTRA_CA_FILE", dir.path().join(AUTHORITY));
    command.env("HOISTWAY_EGRESS_USE_PROXY", "false");
    let stack = Stack::spawn(dir.path(), command);
    if in_containers {
        dir.push_base(&stack);
    }
    let mut facts = deploy(&stack, &victims, root);
    greet(TcpListener::bind((TEST_ONLY_ADDRESS, port(&stack, "egress"))).unwrap());

    let names: Vec<&str> =
        ATTEMPTS.iter().filter(|(.., of)| of.as_bytes()[index] != b'-').map(|(name, ..)| *name).collect();
    facts["attempts"] = [vec!["control"], names.clone()].concat().into();
    let mut said = stack.answer("hostile", &facts.to_string());
    // The hostile agent holds as many connections as it could open.
    if stack.answer("other", "call") != "victim" {
        said["hold_connections"]["reached"] = true.into();
    }
    let received = tool.received();
    assert!(said["control"]["reached"] == true && received.contains(&format!("{MARK}control")), "{}", said["control"]);
    assert!(received.contains(KEY) && !received.contains("hwe_"), "the key and no token goes to a tool");
    let mut wrong = Vec::new();
    for (name, _, verdicts) in ATTEMPTS.iter().filter(|(name, ..)| names.contains(name)) {
        let verdict = &said[name];
        let reached = verdict["reached"] == true || received.contains(&format!("{MARK}{name}"));
        if reached != (verdicts.as_bytes()[index] == b'r') {
            wrong.push(format!("{}: {name} should be \"{}\": {verdict}", column.name, &verdicts[index..=index]));
        }
    }
    wrong.extend(
        unrecorded(&stack, &said).into_iter().map(|refusal| format!("{}: not recorded: {refusal}", column.name)),
    );
    Some(wrong)
}

/// Returns a `hoistway` command for the user of a column. If the test runs as root, some public names resolve to
/// loopback or metadata addresses.
fn program(dir: &Path, column: &Column, root: bool) -> Command {
    if !root {
        return Command::new(HOISTWAY);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(dir.join("hosts"));
    if !column.root {
        command.args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.env("HOME", "/tmp").env("PATH", "/usr/bin:/bin").current_dir("/");
    }
    command.arg(HOISTWAY);
    command
}

/// Deploys both agents and their tools; returns the input of the hostile one.
fn deploy(stack: &Stack, victims: &Victims, root: bool) -> Value {
    let gateway: u16 = stack.at.rsplit(':').next().unwrap().parse().unwrap();
    let other = json!({
        "agent_name": "other",
        "source_files": {"agent.py": OTHER},
        "tools_to_create": [{"name": "other", "base_url": "http://other.example"}],
        "required_tools": ["other"],
    });
    stack.deployed(other);
    // Without root the names that this machine resolves cannot be changed.
    let names =
        ["rebound4", "rebound6", "rebound-metadata", "rebound-mapped", "rebound-any"].into_iter().filter(|_| root);
    let rebound: Vec<String> = names.map(|name| format!("{name}.example:{gateway}")).collect();
    let mut tools = vec![
        json!({"name": "stripe-api", "base_url": "https://api.stripe.com"}),
        json!({"name": "plain", "base_url": "http://plain.example"}),
        json!({"name": "scoped", "base_url": "http://scoped.example/v1"}),
        json!({"name": "keyed", "base_url": "http://keyed.example", "auth_type": "APIKey"}),
        json!({"name": "registry", "base_url": format!("http://localhost:{}", port(stack, "registry"))}),
    ];
    tools.extend(
        rebound
            .iter()
            .enumerate()
            .map(|(n, place)| json!({"name": format!("rebound-{n}"), "base_url": format!("http://{place}")})),
    );
    let required: Vec<Value> = tools.iter().map(|tool| tool["name"].clone()).collect();
    stack.deployed(json!({
        "agent_name": "hostile",
        "source_files": {"agent.py": include_str!("attempts.py")},
        "tools_to_create": tools,
        "required_tools": required,
    }));
    let stored = stack.call("PUT", "/api/tools/keyed/credentials", Some(&json!({"api_key": KEY})));
    assert_eq!(stored.status, 200, "{}", stored.text());
    let mut platform: BTreeMap<&str, u16> =
        ["tool-registry", "echo-tool", "build", "registry", "agent", "egress-grpc", "egress"]
            .map(|name| (name, port(stack, name)))
            .into();
    platform.insert("gateway", gateway);
    json!({
        "platform": platform,
        "other_port": stack.answer("other", "port"),
        "other_token": token(stack, "other").expose(),
        "own_token": token(stack, "hostile").expose(),
        "victim": victims.port,
        "machine": victims.machine,
        "abstract": victims.abstract_name,
        "unix": victims.unix,
        "elsewhere": TEST_ONLY_ADDRESS,
        "rebound": rebound,
    })
}

/// Lists the refusals that the agent received and egress did not record. Those of unknown callers belong to no agent.
fn unrecorded(stack: &Stack, said: &Value) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let refusals = said.as_object().unwrap().values().flat_map(|verdict| verdict["refused"].as_array().unwrap());
    for refusal in refusals.filter(|refusal| refusal[0] != 407 && refusal[0] != 401) {
        *seen.entry(refusal[1].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(seen.values().sum::<usize>() > 60, "egress has refused little: {seen:?}");
    // A record is stored soon after its answer.
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let mut missing = seen.clone();
        for call in
            calls(stack).iter().filter(|call| call.agent.as_ref().is_some_and(|agent| agent.as_str() == "hostile"))
        {
            if let Some(count) = call.refused.as_ref().and_then(|word| missing.get_mut(word)) {
                *count = count.saturating_sub(1);
            }
        }
        missing.retain(|_, count| *count > 0);
        if missing.is_empty() || Instant::now() > until {
            return missing.iter().map(|(word, count)| format!("{count} of {word}\n{}", log_of(&stack.dir))).collect();
        }
    }
}
