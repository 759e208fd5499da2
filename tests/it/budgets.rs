//! An agent's use of models and its budget: counted, shown, enforced, and kept over restarts.

use crate::{
    cli::User,
    test_installation::{Stack, log_of},
};
use serde_json::{Value, json};

const AGENT: &str = r#"
import json, os, urllib.error, urllib.request

def handler(message):
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": message}]}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["usage"]["total_tokens"]
    except urllib.error.HTTPError as e:
        return {"status": e.code, "error": json.load(e)["error"], "wait": e.headers["Retry-After"]}
"#;

fn used(stack: &Stack) -> Value {
    stack.get("/api/agents/spender/budget")["limits"][0]["used"].clone()
}

#[test]
fn a_budget_stops_an_agent_and_outlives_kills_restarts_and_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    let early = stack.call("PUT", "/api/agents/spender/budget", Some(&json!({"tokens_per_month": 5})));
    assert_eq!(early.status, 200, "{}", early.text());
    assert_eq!(stack.call("DELETE", "/api/agents/spender/budget", None).status, 200);
    let agent = json!({
        "agent_name": "spender",
        "source_files": {"agent.py": AGENT},
        "llm_configs": [{"provider": "openai", "model": "gpt-4o-mini"}],
    });
    stack.deployed(agent);
    let needed = stack.call("DELETE", "/api/model-providers/playground-llm", None);
    assert_eq!(needed.status, 409, "{}", needed.text());
    assert!(needed.text().contains(r#"is used by the agent \"spender\""#), "{}", needed.text());
    let once = stack.answer("spender", "hello").as_u64().unwrap();
    let usage = stack.get("/api/usage?agent=spender");
    assert_eq!(usage["total"]["total_tokens"], once, "{usage}");
    assert_eq!((&usage["usage"][0]["provider"], &usage["total"]["cost"]), (&json!("playground-llm"), &json!(null)));

    // Use from before the budget was set counts.
    let user = User { stack: &stack, home: dir.path() };
    let shown = user.ok(&["budget", "spender", "--tokens-per-month", &(once + 1).to_string()]);
    assert!(shown.contains("tokens_per_month"), "{shown}");
    assert_eq!((used(&stack), stack.answer("spender", "hello")), (json!(once), json!(once)));
    stack.kill();

    let stack = Stack::start(dir.path());
    stack.wait_for_phase("spender", "Running");
    assert_eq!(used(&stack), json!(2 * once), "what was answered is counted, however the process ends");
    let refused = stack.answer("spender", "hello");
    let (error, text) = (&refused["error"], refused["error"]["message"].as_str().unwrap_or_default());
    assert_eq!((&refused["status"], &error["code"]), (&json!(429), &json!("budget_exceeded")), "{refused}");
    let expected = format!("has used {} of {} tokens_per_month", 2 * once, once + 1);
    assert!(text.contains(&expected) && text.contains("PUT /api/agents/spender/budget"), "{refused}");
    assert!(refused["wait"].as_str().unwrap().parse::<u64>().unwrap() > 0);

    let raised = stack.call("PUT", "/api/agents/spender/budget", Some(&json!({"tokens_per_month": 1000 * once})));
    assert_eq!(raised.status, 200, "{}", raised.text());
    assert_eq!(stack.answer("spender", "hello"), once);
    let user = User { stack: &stack, home: dir.path() };
    let table = user.ok(&["usage", "spender", "--per", "day"]);
    assert!(table.contains("gpt-4o-mini") && table.contains("total"), "{table}");

    // Prices apply within a second, and to calls from then on.
    let mut provider = stack.get("/api/model-providers/playground-llm");
    provider["spec"]["prices"] = json!({"gpt-4o-mini": {"input": 0.5, "output": "2"}});
    let priced = stack.call("PUT", "/api/model-providers/playground-llm", Some(&provider));
    assert_eq!(priced.status, 200, "{}", priced.text());
    let mut calls = 3;
    let total = loop {
        assert_eq!(stack.answer("spender", "hello"), once);
        calls += 1;
        let total = stack.get("/api/usage?agent=spender")["total"].clone();
        if total["cost"] != json!(null) || calls > 200 {
            break total;
        }
    };
    // One word was sent, and the other words were answered.
    let cost = format!("0.{:07}", 5 + 20 * (once - 1)).trim_end_matches('0').to_owned();
    assert_eq!((&total["cost"], &total["unpriced_requests"]), (&json!(cost), &json!(calls - 1)), "{total}");
    let used_up = json!(calls * once);
    assert_eq!(used(&stack), used_up);
    assert!(stack.stop().success(), "{}", log_of(dir.path()));
    let log = log_of(dir.path());
    let ending = &log[log.rfind("shutting down; once more").unwrap()..];
    assert!(!ending.contains("WARN") && !ending.contains("ERROR"), "an end that was asked for is no trouble: {ending}");

    let stack = Stack::start(dir.path());
    assert_eq!(used(&stack), used_up);
    assert_eq!(stack.call("DELETE", "/api/agents/spender", None).status, 200);
    assert_eq!(used(&stack), used_up, "an agent that is deployed anew has the budget of its name");
    assert_eq!(stack.get("/api/usage?per=day&agent=spender")["total"]["requests"], calls);
    assert_eq!(stack.call("DELETE", "/api/agents/spender/budget", None).status, 200);
    assert_eq!(stack.call("GET", "/api/agents/spender/budget", None).status, 404);
}
