//! The public contract on the whole stack: the reference's examples and the rules that need all services.

use crate::test_installation::{Stack, says};
use serde_json::{Value, json};

/// Returns the reference's first example, with the packages that it names.
fn example_1() -> Value {
    json!({
        "agent_name": "payment-agent",
        "source_files": {"agent.py": "import requests\nimport openai\n\nclient = openai.OpenAI()\n\ndef run():\n    response = requests.get(\"https://api.stripe.com/v1/charges\")\n    return response.json()\n\nif __name__ == \"__main__\":\n    run()"},
        "system_prompt": "You are a payment processing assistant.",
        "tools_to_create": [{"name": "stripe-api", "description": "Stripe payments API",
            "base_url": "https://api.stripe.com", "auth_type": "APIKey"}],
        "required_tools": ["stripe-api"],
        "llm_configs": [{"role": "chat", "provider": "openai", "model": "gpt-4o-mini"}],
        "entry_point": "agent.py",
        "requirements": "openai>=1.0\nrequests",
    })
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_three_examples_of_the_reference_work() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    assert_eq!(stack.call("POST", "/api/starter-kit", None).status, 200);
    let first = stack.call("POST", "/api/deploy?timeout=600", Some(&example_1()));
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(keys(&first.json()), ["agent", "build_id", "image_uri", "namespace", "tools_created"]);
    assert_eq!(first.json()["tools_created"], json!(["stripe-api"]));
    assert_eq!(first.header("location"), Some("/api/agents/payment-agent"));
    let again = stack.deployed(example_1());
    assert_eq!((&again["build_id"], &again["tools_created"]), (&first.json()["build_id"], &json!([])));

    let second = stack.deployed(json!({"agent_name": "my-agent", "image": "myregistry.io/my-agent:v1.2.0",
        "required_tools": ["echo-tool"], "llm_configs": [{"provider": "openai", "model": "gpt-4o-mini"}]}));
    assert_eq!(keys(&second), ["agent", "namespace", "tools_created", "warnings"]);
    let seen = stack.get("/api/agents/my-agent");
    assert_eq!(seen["status"]["phase"], "Pending");

    stack.deployed(json!({"agent_name": "rag-agent", "image": "myregistry.io/rag-agent:latest",
        "llm_configs": [{"role": "chat", "provider": "openai", "model": "gpt-4o"},
            {"role": "embedding", "provider": "openai", "model": "text-embedding-3-small"},
            {"role": "reranking", "provider": "anthropic", "model": "claude-3-haiku-20240307"}],
        "required_tools": ["vector-db"]}));
    let env = stack.get("/api/agents/rag-agent")["spec"]["env"].clone();
    let value = |name: &str| env.as_array().unwrap().iter().find(|e| e["name"] == name).map(|e| e["value"].clone());
    assert_eq!(value("LLM_MODEL_RERANKING"), Some(json!("claude-3-haiku-20240307")));
    assert_eq!(value("LLM_PROVIDER_EMBEDDING"), Some(json!("openai")));
}

#[test]
fn a_failed_deploy_leaves_nothing_and_the_old_revision_serves() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    stack.deployed(json!({"agent_name": "steady", "source_files": says("v1")}));
    let tool = json!([{"name": "litter", "base_url": "https://a.example"}]);
    let breaking = [
        (json!({"agent.py": "def handler(:\n"}), "build failed: ", "syntax_error"),
        (
            json!({"agent.py": "import no_such_module_zzz\ndef handler(m): return m\n"}),
            "build failed: ",
            "undeclared_import",
        ),
        (
            json!({"agent.py": "raise RuntimeError('kaboom')\ndef handler(m): return m\n"}),
            "failed to create agent: ",
            "agent_start_failed",
        ),
    ];
    for (files, begins, code) in breaking {
        let body = json!({"agent_name": "steady", "source_files": files, "tools_to_create": tool});
        let failed = stack.deploy(body);
        let seen = failed.json();
        assert_eq!((failed.status, seen["code"].as_str()), (500, Some(code)), "{seen}");
        assert!(seen["error"].as_str().unwrap().starts_with(begins), "{seen}");
        assert!(seen["request_id"].is_string());
        assert_eq!(stack.answer("steady", "x"), "v1");
        assert_eq!(stack.call("GET", "/api/tools/litter", None).status, 404);
    }
    let ended = stack.get("/api/deployments");
    assert!(
        ended.as_array().unwrap().iter().all(|d| d["agent"] == "steady" && d["completed_at"].is_string()),
        "{ended}"
    );
}

#[test]
fn a_tool_is_bound_as_soon_as_it_is_registered() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_open(dir.path());
    let source =
        json!({"agent.py": "import os\ndef handler(m):\n    return os.environ.get('TOOL_URL_LATE_TOOL', 'none')\n"});
    let answer =
        stack.deployed(json!({"agent_name": "waits", "source_files": source, "required_tools": ["late-tool"]}));
    assert!(answer["warnings"].to_string().contains("late-tool"), "{answer}");
    assert_eq!(stack.answer("waits", "x"), "none");
    // The tool is registered by another agent's deploy, which may answer before the binding is settled.
    stack.deployed(json!({"agent_name": "brings", "source_files": says("x"),
        "tools_to_create": [{"name": "late-tool", "base_url": "https://late.example"}], "required_tools": ["late-tool"]}));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while stack.answer("waits", "x") != "https://late.example" {
        assert!(std::time::Instant::now() < until, "it was never bound");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let refused = stack.call("DELETE", "/api/tools/late-tool", None);
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("waits") && refused.text().contains("brings"), "{}", refused.text());
}

#[test]
fn redeploys_under_load_lose_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let source = |v: u32| json!({"agent.py": format!("import time\ndef handler(r, c):\n    time.sleep(0.01)\n    return {{'response': {v}}}\n")});
    stack.deployed(json!({"agent_name": "swapped", "source_files": source(0)}));
    let least = std::sync::atomic::AtomicU32::new(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let hammer = || {
            let mut answered = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let floor = least.load(std::sync::atomic::Ordering::SeqCst);
                let seen = stack.answer("swapped", "x").as_u64().unwrap();
                assert!(seen >= u64::from(floor), "went back from {floor} to {seen}");
                answered += 1;
            }
            answered
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(hammer)).collect();
        for v in 1..=5 {
            stack.deployed(json!({"agent_name": "swapped", "source_files": source(v)}));
            least.store(v, std::sync::atomic::Ordering::SeqCst);
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        threads.into_iter().map(|t| t.join().unwrap()).sum::<u32>()
    });
    assert!(answered > 4, "{answered}");
}
