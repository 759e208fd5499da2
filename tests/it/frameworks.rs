//! Agents of frameworks as people write them, in front of the playground: with their own packages, whole and streamed.

use crate::{
    need,
    stack::{Stack, log_of},
};
use serde_json::{Value, json};

const LANGGRAPH: &str = r#"
import os
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, MessagesState, StateGraph

model = ChatOpenAI(model=os.environ["LLM_MODEL"])

def ask(state):
    return {"messages": [model.invoke(state["messages"])]}

builder = StateGraph(MessagesState)
builder.add_node("ask", ask)
builder.add_edge(START, "ask")
graph = builder.compile(checkpointer=MemorySaver())
"#;

const OPENAI_AGENTS: &str = r#"
import os
from agents import Agent, set_default_openai_api, set_tracing_disabled

set_default_openai_api("chat_completions")
set_tracing_disabled(True)
agent = Agent(name="Helper", instructions="Be kind.", model=os.environ["LLM_MODEL"])
"#;

const PYDANTIC_AI: &str = r#"
import os
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

agent = Agent(OpenAIChatModel(os.environ["LLM_MODEL"]), instructions="Be kind.")
"#;

const AGENTS: [(&str, &str, &str); 3] = [
    ("langgraph", LANGGRAPH, "langgraph==1.2.24\nlangchain-openai==1.7.4"),
    ("openai-agents", OPENAI_AGENTS, "openai-agents==0.24.0"),
    ("pydantic-ai", PYDANTIC_AI, "pydantic-ai-slim[openai]==2.68.0"),
];

#[test]
fn agents_of_frameworks_answer_whole_and_stream_their_models_texts() {
    if !need::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    for (name, source, requirements) in AGENTS {
        let body = json!({
            "agent_name": name,
            "source_files": {"agent.py": source},
            "requirements": requirements,
            "llm_configs": [{"provider": "playground-llm", "model": "gpt-4o-mini"}],
        });
        let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
        assert_eq!(answer.status, 201, "{name}: {}\n{}", answer.text(), log_of(dir.path()));
        let whole = stack.answer(name, "hello there");
        assert!(whole.as_str().is_some_and(|text| text.ends_with("You said: hello there")), "{name}: {whole}");
        let pieces = pieces(&stack, name, "hello there");
        assert!(pieces.len() > 1, "{name}: {pieces:?}");
        assert_eq!(json!(pieces.concat()), whole, "{name}");
        let refused = stack.call("POST", &format!("/api/agents/{name}/invoke"), Some(&json!({"more": 1})));
        assert_eq!((refused.status, &refused.json()["error"]), (400, &json!("message is required")), "{name}");
    }
}

/// The texts of a streamed answer.
fn pieces(stack: &Stack, agent: &str, message: &str) -> Vec<String> {
    let path = format!("/api/agents/{agent}/invoke/stream");
    let answer = stack.call("POST", &path, Some(&json!({"message": message}))).text();
    let events = answer.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    events.filter_map(|event| Some(event["delta"].as_str()?.to_owned())).collect()
}
