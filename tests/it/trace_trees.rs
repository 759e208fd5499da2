//! The traces of a deploy and of invokes as trees: one root each, no gap, and nothing secret in them.

use crate::{
    collector::{Collector, Tree, attribute, hex},
    http,
    processes::Processes,
    test_installation::{Stack, log_of},
};
use serde_json::{Value, json};

const PROMPT: &str = "a prompt that nobody may export";
const VALUE: &str = "an-env-value-that-nobody-may-export";
const TOOL_KEY: &str = "a-tool-key-that-nobody-may-export";

const AGENT: &str = r#"
import json, os, urllib.request
import six

def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))

def handler(message):
    messages = [{"role": "user", "content": message}]
    ask(os.environ["OPENAI_BASE_URL"] + "/chat/completions", {"model": "gpt-4o-mini", "messages": messages})
    ask(os.environ["TOOL_URL_ECHO_TOOL"] + "/echo?secret=" + os.environ["SECRET"], {"message": os.environ["SECRET"]})
    return six.text_type("done")
"#;

fn agent() -> Value {
    json!({
        "agent_name": "traced",
        "source_files": {"agent.py": AGENT},
        "requirements": "six==1.17.0",
        "required_tools": ["echo-tool"],
        "llm_configs": [{"provider": "openai", "model": "gpt-4o-mini"}],
        "env": [{"name": "SECRET", "value": VALUE}],
        "tools_to_create": [{"name": "created", "base_url": "https://api.example.com"}],
    })
}

/// Deploys, invokes and streams; `call` is the API's.
fn exercise(call: impl Fn(&str, &str, Value) -> http::Answer) {
    let expect = |answer: http::Answer, status: u16| assert_eq!(answer.status, status, "{}", answer.text());
    let set_up = call("POST", "/api/starter-kit", Value::Null);
    assert!(set_up.status < 300, "{}", set_up.text());
    expect(call("POST", "/api/deploy", agent()), 201);
    let authentication = json!({"type": "APIKey", "apiKeyConfig": {"in": "Header", "name": "X-Key"}});
    let connection = json!({"baseUrl": "https://api.example.com", "authentication": authentication});
    expect(call("POST", "/api/tools", json!({"name": "keyed", "spec": {"connection": connection}})), 201);
    expect(call("PUT", "/api/tools/keyed/credentials", json!({ "api_key": TOOL_KEY })), 200);
    let message = json!({ "message": PROMPT });
    expect(call("POST", "/api/agents/traced/invoke", message.clone()), 200);
    expect(call("POST", "/api/agents/traced/invoke/stream", message), 200);
    for probe in ["/healthz", "/readyz", "/metrics"] {
        expect(call("GET", probe, Value::Null), 200);
    }
}

/// Checks the trees, where each service exports under the name that `service` returns for it.
fn check(collector: &Collector, key: &str, service: impl Fn(&'static str) -> String) {
    let deploy = collector.tree("POST /api/deploy");
    println!("{deploy}");
    let has = |tree: &Tree, of: &'static str, below: &str, name: &str| {
        assert!(tree.has_below(below, &service(of), name), "{of}: no {name} below {below}:\n{tree}");
    };
    for step in ["tools", "build", "start", "switch"] {
        has(&deploy, "gateway", "deployment", &format!("step {step}"));
    }
    for (step, of, method) in [
        ("step tools", "tool-registry", "hoistway.tools.v1.ToolRegistryService/ApplyTools"),
        ("step build", "build", "hoistway.builds.v1.BuildService/Build"),
        ("step start", "agent", "hoistway.agents.v1.AgentService/StartRevision"),
        ("step switch", "agent", "hoistway.agents.v1.AgentService/SwitchRoute"),
    ] {
        has(&deploy, "gateway", step, method);
        has(&deploy, of, step, method);
    }
    for phase in
        ["queue", "analyse", "dependencies", "resolve", "fetch", "check", "compile", "pack", "write_image", "publish"]
    {
        has(&deploy, "build", "build", &format!("build.{phase}"));
    }
    for phase in ["pull", "unpack_layer", "prepare", "launch", "wait_until_ready"] {
        has(&deploy, "agent", "agent.start", &format!("agent.{phase}"));
    }
    assert!(!deploy.spans.iter().any(|e| e.span.name == "build.install"), "fetched is not installed:\n{deploy}");
    // Runtime, package and source; in one process the package's layer is unpacked where it is made.
    let pulled = deploy.spans.iter().filter(|e| e.span.name == "agent.unpack_layer").count();
    assert_eq!(pulled, if service("agent") == service("build") { 2 } else { 3 }, "{deploy}");
    let packages = deploy.named("build.dependencies");
    assert_eq!(attribute(packages, "hoistway.build.packages").as_deref(), Some("1"), "{deploy}");
    let request = deploy.named("POST /api/deploy");
    for (key, value) in
        [("http.response.status_code", "201"), ("http.route", "/api/deploy"), ("url.path", "/api/deploy")]
    {
        assert_eq!(attribute(request, key).as_deref(), Some(value), "{deploy}");
    }
    for exported in deploy.spans.iter().filter(|e| e.span.name.starts_with("hoistway.")) {
        let (span, method) = (&exported.span, exported.span.name.rsplit('/').next());
        assert_eq!(attribute(span, "rpc.system").as_deref(), Some("grpc"), "{deploy}");
        assert_eq!(attribute(span, "rpc.method").as_deref(), method, "{deploy}");
        // There is no such agent yet.
        let status = if method == Some("GetAgent") { "5" } else { "0" };
        assert_eq!(attribute(span, "rpc.grpc.status_code").as_deref(), Some(status), "{deploy}");
    }

    for root in ["POST /api/agents/{name}/invoke", "POST /api/agents/{name}/invoke/stream"] {
        let invoke = collector.tree(root);
        println!("{invoke}");
        has(&invoke, "gateway", root, "invoke_agent traced");
        has(&invoke, "egress", "invoke_agent traced", "chat gpt-4o-mini");
        has(&invoke, "egress", "invoke_agent traced", "execute_tool echo-tool");
        let (begin, end) = (invoke.named(root), invoke.named("execute_tool echo-tool"));
        assert!(begin.end_time_unix_nano >= end.end_time_unix_nano, "{root} ends before its answer:\n{invoke}");
    }

    // Whatever else there is has a root of its own, and is no probe, scrape, or call of a background task.
    for exported in collector.exported() {
        let (name, is_root) = (&exported.span.name, exported.span.parent_span_id.is_empty());
        let is_noise = name.starts_with("GET ") || is_root && name.starts_with("hoistway.");
        assert!(!is_noise, "{} exported {name}", exported.service);
    }
    for secret in [PROMPT, VALUE, TOOL_KEY, key] {
        assert!(!collector.has(secret), "{secret} was exported");
    }
}

#[test]
fn a_deploy_and_an_invoke_are_one_tree_each_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, url) = Collector::start();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
    });
    exercise(|method, path, body| stack.call(method, path, (!body.is_null()).then_some(&body)));
    let key = stack.key.clone();
    assert!(stack.stop().success());
    check(&collector, &key, |_| "hoistway".to_owned());
}

#[test]
fn the_trees_go_through_separate_programs() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, url) = Collector::start();
    let processes = Processes::start_with(dir.path(), &|_| vec![("OTEL_EXPORTER_OTLP_ENDPOINT", url.clone())]);
    exercise(|method, path, body| processes.call(method, path, &body));
    let key = processes.key.clone();
    processes.stop();
    check(&collector, &key, |service| format!("hoistway-{service}"));
}

#[test]
fn a_deployment_that_a_restart_recovers_goes_on_with_its_clients_trace() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let dir = tempfile::tempdir().unwrap();
    let (collector, url) = Collector::start();
    let start = || {
        Stack::start_with(dir.path(), |command| {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
        })
    };
    let stack = start();
    let hangs = json!({"agent.py": "import time\ntime.sleep(600)\ndef handler(m): return m\n"});
    let body = json!({"agent_name": "hangs", "source_files": hangs}).to_string();
    let (at, authorization) = (stack.at.clone(), format!("Bearer {}", stack.key));
    let deploying = std::thread::spawn(move || {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let headers = [("Authorization", authorization.as_str()), ("Traceparent", &parent)];
        http::send(&at, "POST", "/api/deploy", &headers, body.as_bytes())
    });
    let path = "/api/deployments?agent=hangs";
    let shown = stack.wait_for(path, "at the step start", |shown| shown[0]["step"] == "start");
    stack.kill();
    assert!(deploying.join().unwrap().is_err(), "it was not answered");
    let stack = start();
    let cancel = format!("/api/deployments/{}/cancel", shown[0]["id"].as_str().unwrap());
    assert!(stack.call("POST", &cancel, None).status < 300);
    stack.wait_for(path, "FAILED", |shown| shown[0]["status"] == "FAILED");
    assert!(stack.stop().success());
    let spans = collector.spans();
    for name in ["deployment", "undo start", "hoistway.agents.v1.AgentService/UndoStart"] {
        let mut found = spans.iter().filter(|span| span.name == name);
        let is_there = found.any(|span| hex(&span.trace_id) == TRACE);
        let names = || spans.iter().map(|span| &span.name).collect::<Vec<_>>();
        assert!(is_there, "{name} is not in the client's trace: {:?}\n{}", names(), log_of(dir.path()));
    }
}
