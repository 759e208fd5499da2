//! Agents call models with common packages: those of OpenAI and Anthropic, LangChain, LiteLLM and the OpenAI Agents
//! SDK, in front of both providers.

use crate::{
    prerequisites,
    python_server::{AUTHORITY, PythonServer},
    test_installation::{Stack, log_of},
};
use serde_json::{Value, json};

const HOSTS: [&str; 2] = ["api.openai.com", "api.anthropic.com"];
const AGENT: &str = include_str!("model_clients/agent.py");
const SERVER: &str = include_str!("model_clients/server.py");
const PACKAGES: [&str; 6] = [
    "anthropic==2.14.0",
    "langchain-anthropic==1.7.10",
    "langchain-openai==1.7.4",
    "litellm==1.110.2",
    "openai==3.57.0",
    "openai-agents==0.24.0",
];
const GPT: &str = "gpt says hi";
const CLAUDE: &str = "claude says hi";

#[test]
fn common_packages_reach_the_provider_of_each_role_and_see_its_errors() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let providers = PythonServer::start(dir.path(), &HOSTS, SERVER);
    let stack = Stack::start_with(dir.path(), |command| {
        let resolve = HOSTS.map(|host| format!("{host}:443=127.0.0.1:{}", providers.port));
        command.env("HOISTWAY_EGRESS_RESOLVE", json!(resolve).to_string());
        command.env("HOISTWAY_EGRESS_EXTRA_CA_FILE", dir.path().join(AUTHORITY));
    });
    for provider in ["openai", "anthropic"] {
        let body = json!({"name": provider, "provider": provider, "api_key": format!("sk-of-{provider}")});
        let registered = stack.call("POST", "/api/model-providers", Some(&body));
        assert!(registered.status < 300, "{}", registered.text());
    }
    let body = json!({
        "agent_name": "models",
        "source_files": {"agent.py": AGENT},
        "requirements": PACKAGES.join("\n"),
        "llm_configs": [
            {"provider": "openai", "model": "gpt-4o"},
            {"role": "embedding", "provider": "openai", "model": "text-embedding-3-small"},
            {"role": "reranking", "provider": "anthropic", "model": "claude-3-haiku-20240307"},
        ],
    });
    let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(dir.path()));

    check_answers(&stack);
    check_errors(&stack);
    let calls = stack.get("/api/agents/models/calls?limit=500");
    let went = |provider: &str, path: &str| {
        calls.as_array().unwrap().iter().any(|call| call["model_provider"] == provider && call["path"] == path)
    };
    assert!(went("openai", "/v1/embeddings") && went("openai", "/v1/chat/completions"), "{calls}");
    assert!(went("anthropic", "/v1/messages") && !went("anthropic", "/v1/chat/completions"), "{calls}");
    assert!(calls.as_array().unwrap().iter().any(|call| call["broken"] == "tool_broke_off"), "{calls}");
    assert!(stack.stop().success());
}

/// Returns the result of the agent's function of this name.
fn result_of(stack: &Stack, function: &str) -> Value {
    stack.answer("models", function)
}

fn check_answers(stack: &Stack) {
    let roles = result_of(stack, "roles");
    assert_eq!(roles["chat"], json!(["gpt-4o", GPT]));
    assert_eq!(roles["embedding"], json!(["text-embedding-3-small", 2]));
    assert_eq!(roles["reranking"], json!(["claude-3-haiku-20240307", CLAUDE]));
    let models = json!(["claude-3-haiku-20240307", "gpt-4o", "text-embedding-3-small"]);
    assert_eq!((&roles["listed"], &roles["listed_by_anthropic"]), (&models, &models));

    let anthropic = json!({
        "sync": CLAUDE, "stream": [CLAUDE, 4], "async": [CLAUDE, CLAUDE], "tool": ["tool_use", {"city": "Paris"}],
        "after_tool": "claude after tool", "beta": CLAUDE, "counted": 3,
    });
    assert_eq!(result_of(stack, "with_anthropic"), anthropic);
    let usage = json!({
        "prompt_tokens": 15, "completion_tokens": 4, "total_tokens": 19, "prompt_tokens_details": {"cached_tokens": 3},
    });
    let openai = json!({
        "stream": CLAUDE, "usage": usage, "tool": ["tool_calls", "get_weather", "{\"city\":\"Paris\"}"],
        "after_tool": "claude after tool", "streamed_tool": ["get_weather", "{\"city\": \"Paris\"}"], "parsed": "Paris",
    });
    assert_eq!(result_of(stack, "with_openai"), openai);
    let chain =
        |text: &str, usage: u64| json!({"whole": text, "stream": text, "tool": [{"city": "Paris"}], "usage": usage});
    let langchain = json!({
        "openai": chain(GPT, 14), "openai_claude": chain(CLAUDE, 19), "anthropic": chain(CLAUDE, 19), "vectors": 4,
    });
    assert_eq!(result_of(stack, "with_langchain"), langchain);
    let litellm = json!({
        "openai": [GPT, GPT], "openai_claude": [CLAUDE, CLAUDE], "anthropic": [CLAUDE, CLAUDE], "vectors": 2,
    });
    assert_eq!(result_of(stack, "with_litellm"), litellm);
    assert_eq!(result_of(stack, "with_openai_agents"), json!(["claude after tool", "claude after tool"]));
}

/// Checks the classes, the statuses and `Retry-After` that each package reports for a wrong key, too many calls, a
/// server error and a truncated stream.
fn check_errors(stack: &Stack) {
    let errors = result_of(stack, "errors");
    let of = |package: &str, index: usize| &errors[package][index];
    for (package, prefix) in
        [("anthropic", ""), ("openai", ""), ("chat_openai", "OpenAI"), ("chat_anthropic", "Anthropic")]
    {
        let class = |name: &str| format!("{prefix}{name}");
        assert_eq!(*of(package, 0), json!([class("AuthenticationError"), 401, null]), "{package}");
        assert_eq!(*of(package, 1), json!([class("RateLimitError"), 429, "7"]), "{package}");
        assert_eq!(of(package, 2)[1], 500, "{package}");
        // A truncated stream is not an answer, and each package reports it in its own way.
        assert!(of(package, 3).is_array() && of(package, 3)[1].is_null(), "{package}: {errors}");
    }
    assert_eq!(errors["openai"], errors["gpt"], "a translated provider fails as that of the API itself does");
    for package in ["litellm_openai", "litellm_anthropic"] {
        let class = |index| of(package, index)[0].as_str().unwrap();
        assert_eq!([class(0), class(1), class(2)], ["AuthenticationError", "RateLimitError", "InternalServerError"]);
        assert!(of(package, 3).is_array(), "{package}: {errors}");
    }
    for (api, hint) in
        [("responses", "call it with /v1/chat/completions"), ("messages", "OpenAI API, /v1/chat/completions")]
    {
        assert!(errors[api].as_str().unwrap().ends_with(hint), "{errors}");
    }
}
