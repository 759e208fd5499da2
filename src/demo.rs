//! `hoistway up --demo`: deploys and invokes an agent through the public API, visibly, and names next steps.

use crate::cli::{Api, Outcome, ProgressPrinter, Target, followed};
use hoistway_model::Secret;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Write;
use url::Url;

/// The demo's agent.
const NAME: &str = "demo-agent";
/// It needs no packages, no key and no network: it calls its model as any client of the OpenAI API does, and the
/// starter kit's playground answers.
const SOURCE: &str = r#"import json, os, urllib.request

def handler(message):
    messages = [
        {"role": "system", "content": os.environ["SYSTEM_PROMPT"]},
        {"role": "user", "content": message},
    ]
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": os.environ["LLM_MODEL"], "messages": messages}).encode(),
        {"Content-Type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(request))
    return {
        "response": answer["choices"][0]["message"]["content"],
        "usage": answer["usage"],
        "tools": os.environ["TOOL_NAMES"].split(","),
    }
"#;

/// Runs the demo. A failure is printed, and the stack keeps running. `exports` are the variables that the command line
/// needs.
pub async fn show(base: Url, key: Secret, exports: &str) {
    let target = Target { base, key: Some(key), is_own_key: false };
    if let Err(failure) = tell(target, exports).await {
        say(&format!("The demo did not work:\n{failure}"));
    }
}

async fn tell(target: Target, exports: &str) -> Outcome<()> {
    let api = Api::new(target)?;
    say(&format!("Demo\n\n1. The starter kit: POST {}", api.url(&["starter-kit"])));
    say(&indented(&api.call(Method::POST, &["starter-kit"], &[], None).await?));

    let request = json!({
        "agent_name": NAME,
        "source_files": { "agent.py": SOURCE },
        "system_prompt": "You greet people.",
        "required_tools": ["echo-tool"],
        "llm_config": { "provider": "playground-llm", "model": "gpt-4o-mini" },
    });
    say(&format!("\n2. An agent from source: POST {}?wait=none", api.url(&["deploy"])));
    say(&indented(&request));
    let accepted = api.call(Method::POST, &["deploy"], &[("wait", "none")], Some(&request)).await?;
    let id = accepted["deployment"].as_str().unwrap_or_default();
    let printer = ProgressPrinter::to(|line| say(&format!("   {line}")));
    let mut ended = followed(&api, id, Some(NAME), None, printer).await?;
    say(&format!("\n   GET {}", api.url(&["deployments", id])));
    if let Some(ended) = ended.as_object_mut() {
        // The steps were printed already.
        ended
            .retain(|key, _| ["agent", "status", "revision", "build_id", "image_uri", "duration_ms"].contains(&&**key));
    }
    say(&indented(&ended));

    let message = json!({ "message": "world" });
    say(&format!("\n3. It answers: POST {}", api.url(&["agents", NAME, "invoke"])));
    say(&indented(&message));
    say(&indented(&api.call(Method::POST, &["agents", NAME, "invoke"], &[], Some(&message)).await?));

    say(&format!(
        "\nNext, in another terminal:\n
{exports}  hoistway invoke demo-agent you        ask it yourself
  hoistway logs -f demo-agent           see what it prints
  hoistway usage demo-agent             see what it used of its model
  hoistway deploy DIR                   deploy your own: a directory with an agent.py
  hoistway rollback AGENT               take the last deploy back
  hoistway delete demo-agent            remove it"
    ));
    Ok(())
}

fn indented(value: &Value) -> String {
    format!("{value:#}").lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}

/// Prints to standard output, beside the start-up banner; a closed one is not an error.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
