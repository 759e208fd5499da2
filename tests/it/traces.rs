//! Spans exported to a collector: of an invoke, and of its agent's calls.

use crate::{
    collector::{Collector, attribute, hex},
    test_installation::{Stack, log_of},
};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use serde_json::json;
use std::net::TcpListener;

const PROMPT: &str = "a prompt that nobody may read";
/// The agent's own trace, which it passes on to the tool.
const OWN_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const OWN_SPAN: &str = "b7ad6b7169203331";

const AGENT: &str = r#"
import json, os, urllib.error, urllib.request

def ask(url, body=None, **headers):
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, body and json.dumps(body).encode(), headers)
    try:
        return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        return error.code

def handler(message):
    chat = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    messages = [{"role": "user", "content": message}]
    answer = ask(chat, {"model": "gpt-4o-mini", "messages": messages})
    refused = ask(chat, {"model": "gpt-9", "messages": messages})
    tool = os.environ["TOOL_URL_ECHO_TOOL"] + "/echo"
    echoed = ask(tool, {"x": 1}, Traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    return {"response": [answer["choices"][0]["message"]["content"], refused, echoed]}
"#;

/// Returns the spans exported for an invoke of [`AGENT`] with these settings, and the invoke's request id.
fn traced(settings: &[(&str, &str)]) -> (Collector, String) {
    let dir = tempfile::tempdir().unwrap();
    let (collector, url) = Collector::start();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).envs(settings.iter().copied());
    });
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    stack.deployed(json!({
        "agent_name": "traced",
        "source_files": {"agent.py": AGENT},
        "required_tools": ["echo-tool"],
        "llm_configs": [{"provider": "openai", "model": "gpt-4o-mini"}],
    }));
    let answer = stack.invoke("traced", PROMPT).json();
    assert_eq!(answer["response"][1], 403, "{answer}\n{}", log_of(dir.path()));
    // The program exports pending spans when it stops.
    assert!(stack.stop().success());
    (collector, answer["request_id"].as_str().unwrap().to_owned())
}

#[test]
fn calls_of_models_and_tools_are_spans_of_the_invokes_trace_or_of_the_agents_own() {
    let (collector, request_id) = traced(&[]);
    let spans = collector.spans();
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("{name}: {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>()))
    };
    let request = named("POST /api/agents/{name}/invoke");
    let invoke = named("invoke_agent traced");
    assert_eq!((&invoke.trace_id, &invoke.parent_span_id), (&request.trace_id, &request.span_id));
    let chat = named("chat gpt-4o-mini");
    assert_eq!((&chat.trace_id, &chat.parent_span_id), (&invoke.trace_id, &invoke.span_id));
    assert_eq!(chat.kind(), SpanKind::Client);
    for (key, value) in [
        ("hoistway.request_id", request_id.as_str()),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "hoistway.playground"),
        ("gen_ai.request.model", "gpt-4o-mini"),
        ("gen_ai.agent.name", "traced"),
        ("hoistway.model_provider", "playground-llm"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        // The playground counts words as tokens.
        ("gen_ai.usage.input_tokens", "6"),
    ] {
        assert_eq!(attribute(chat, key).as_deref(), Some(value), "{key}: {chat:?}");
    }
    let refused = spans.iter().find(|span| attribute(span, "error.type").as_deref() == Some("model_not_allowed"));
    let refused = refused.unwrap();
    assert_eq!((refused.status.as_ref().unwrap().code(), &refused.trace_id), (StatusCode::Error, &invoke.trace_id));

    let tool = named("execute_tool echo-tool");
    assert_eq!((hex(&tool.trace_id), hex(&tool.parent_span_id)), (OWN_TRACE.to_owned(), OWN_SPAN.to_owned()));
    assert_eq!(attribute(tool, "gen_ai.tool.name").as_deref(), Some("echo-tool"));
    assert_eq!(attribute(tool, "hoistway.request_id").as_ref(), Some(&request_id));
    assert!(!collector.has(PROMPT), "no prompt is exported");
}

#[test]
fn prompts_are_exported_where_the_operator_has_turned_that_on() {
    let (collector, _) = traced(&[("HOISTWAY_EGRESS_TRACE_PROMPTS", "true")]);
    let spans = collector.spans();
    let chat = spans.iter().find(|span| span.name == "chat gpt-4o-mini").unwrap();
    let expected = json!([{"role": "user", "parts": [{"type": "text", "content": PROMPT}]}]);
    assert_eq!(attribute(chat, "gen_ai.input.messages"), Some(expected.to_string()));
}

#[test]
fn an_unreachable_collector_and_its_return_are_logged_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        let url = format!("http://{address}");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    });
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
    let spans_until = |text: &str| {
        while !log().contains(text) {
            stack.get("/api/agents");
        }
    };
    spans_until(&format!("dropped until that works again: http://{address}/v1/traces: Connection refused"));
    // Some of these are batches of their own.
    for _ in 0..100 {
        stack.get("/api/agents");
    }
    let collector = Collector::take(TcpListener::bind(address).unwrap());
    spans_until("spans are exported again; ");
    assert!(stack.stop().success());
    let log = log();
    assert_eq!(log.matches("spans are not exported").count(), 1, "{log}");
    assert!(!log.contains("opentelemetry") && !log.contains("ExportError"), "{log}");
    assert!(!collector.spans().is_empty());
}
