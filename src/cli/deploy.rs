//! `hoistway deploy`: sends a directory and shows how it becomes a running agent.

use super::{
    Api, Failure, Outcome,
    agents::warn,
    output::{self, progress, text},
    source,
};
use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::{convert::Infallible, fs, path::PathBuf, time::Duration};
use tokio::{sync::oneshot, time::timeout};

/// What to deploy and how.
#[derive(Args, Debug, Default)]
pub struct DeployArgs {
    /// The directory, or one file, with the agent's source
    #[arg(default_value = ".", conflicts_with_all = ["image", "request"])]
    pub path: PathBuf,
    /// The agent's name [default: the directory's]
    #[arg(long)]
    pub name: Option<String>,
    /// Run this image instead of building one
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Send this JSON file as the whole request, as the API takes it
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub request: Option<PathBuf>,
    /// The file that is run or imported [default: the only one, or agent.py, main.py, app.py]
    #[arg(long, value_name = "FILE")]
    pub entry_point: Option<String>,
    /// The system prompt
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// A registered tool that the agent needs; can be repeated
    #[arg(long = "tool", value_name = "NAME")]
    pub tools: Vec<String>,
    /// A model, PROVIDER/MODEL or ROLE=PROVIDER/MODEL; can be repeated
    #[arg(long = "model", value_name = "[ROLE=]PROVIDER/MODEL", value_parser = model)]
    pub models: Vec<Value>,
    /// An environment variable, NAME=VALUE, or NAME to take it from this environment; can be repeated
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// The identity provider whose tokens callers must show
    #[arg(long, value_name = "NAME")]
    pub identity_provider: Option<String>,
    /// Resolve requirements without exact versions anew
    #[arg(long)]
    pub refresh: bool,
    /// Refuse tools that are not registered
    #[arg(long)]
    pub strict: bool,
    /// Do not wait until the agent answers
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait, in seconds [default: the deployment's own deadline]
    #[arg(long, value_name = "SECONDS", conflicts_with = "no_wait")]
    pub timeout: Option<u32>,
}

/// What one waits for when nobody says: the server's deadline for a deployment.
const PATIENCE: u32 = 900;

/// Sends it, shows what happens, and prints where the agent answers.
pub async fn run(api: &Api, args: DeployArgs, as_json: bool) -> Outcome<()> {
    let body = body(&args)?;
    let agent = text(&body["agent_name"]);
    let patience = args.timeout.unwrap_or(PATIENCE).to_string();
    let mut query = match args.no_wait {
        true => vec![("wait", "none")],
        false => vec![("wait", "ready"), ("timeout", patience.as_str())],
    };
    query.extend(args.refresh.then_some(("refresh", "true")));
    query.extend(args.strict.then_some(("strict", "true")));
    let call = api.call(Method::POST, &["deploy"], &query, Some(&body));
    let answer = if args.no_wait || as_json { call.await? } else { watched(api, &agent, progress, call).await? };
    warn(&answer);
    if as_json {
        return output::json(&answer);
    }
    if let Some(deployment) = answer["deployment"].as_str() {
        return output::line(&format!("accepted: {}", api.url(&["deployments", deployment])));
    }
    output::line(&format!("{agent} answers at {}", api.url(&["agents", &agent, "invoke"])))
}

/// How long the events may take to begin before the call goes out without them.
const LISTEN: Duration = Duration::from_secs(2);

/// Awaits the answer of a call while `say` is told what happens to the agent meanwhile. Telling is a courtesy:
/// whatever becomes of it, the answer counts.
pub async fn watched(
    api: &Api,
    agent: &str,
    say: impl Fn(&str),
    call: impl Future<Output = Outcome<Value>>,
) -> Outcome<Value> {
    let (listening, heard) = oneshot::channel();
    let (mut listening, mut data) = (Some(listening), String::new());
    let told = async {
        let query = [("agent", agent)];
        let each = |line: &str| {
            // The first line, be it a comment, says that nothing will be missed from here on.
            listening.take().map(|listening| listening.send(()));
            match line.strip_prefix("data:") {
                Some(more) => data.push_str(more.trim_start()),
                None if line.is_empty() => {
                    let event = serde_json::from_str(&std::mem::take(&mut data)).unwrap_or_default();
                    said(&event).iter().for_each(|line| say(line));
                }
                None => {}
            }
            Ok(())
        };
        let _ = api.lines(Method::GET, &["events"], &query, None, each).await;
        std::future::pending::<Infallible>().await
    };
    let answer = async {
        let _ = timeout(LISTEN, heard).await;
        call.await
    };
    tokio::select! {
        answer = answer => answer,
        never = told => match never {},
    }
}

/// One event as a line.
fn said(event: &Value) -> Option<String> {
    let data = &event["data"];
    match event["type"].as_str()? {
        kind if kind.starts_with("deployment.") => {
            let step = text(&data["step"]);
            Some(format!("{} {step}", kind.trim_start_matches("deployment.")).trim_end().to_owned())
        }
        _ => None,
    }
}

/// The request of a command line.
fn body(args: &DeployArgs) -> Outcome<Value> {
    if let Some(file) = &args.request {
        let wrong = |e: String| Failure::usage(format!("{}: {e}", file.display()));
        let text = fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
        return serde_json::from_str(&text).map_err(|e| wrong(e.to_string()));
    }
    let mut body = Map::new();
    let mut set = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
    match &args.image {
        Some(image) => {
            let name = args.name.as_ref().ok_or_else(|| Failure::usage("--image needs --name"))?;
            set("agent_name", json!(name));
            set("image", json!(image));
        }
        None => {
            let name = args.name.clone().map_or_else(|| source::agent_name(&args.path), Ok)?;
            let source = source::read(&args.path)?;
            for skipped in &source.skipped {
                progress(&format!("warning: {skipped} is not UTF-8 text and is not sent"));
            }
            set("agent_name", json!(name));
            set("source_files", json!(source.files));
        }
    }
    for (key, given) in [
        ("entry_point", &args.entry_point),
        ("system_prompt", &args.system_prompt),
        ("identity_provider", &args.identity_provider),
    ] {
        if let Some(text) = given {
            set(key, json!(text));
        }
    }
    if !args.tools.is_empty() {
        set("required_tools", json!(args.tools));
    }
    if !args.models.is_empty() {
        set("llm_configs", json!(args.models));
    }
    if !args.env.is_empty() {
        let env: Vec<_> = args.env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        set("env", json!(env));
    }
    Ok(body.into())
}

fn model(text: &str) -> Result<Value, String> {
    let (role, model) = text.split_once('=').map_or(("chat", text), |(role, model)| (role, model));
    let (provider, model) = model.split_once('/').ok_or("it looks like openai/gpt-4o-mini")?;
    Ok(json!({ "role": role, "provider": provider, "model": model }))
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => Err(format!("{text} is not set in this environment")),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_line_is_a_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("agent.py"), "x").unwrap();
        let args = DeployArgs {
            path,
            tools: vec!["echo-tool".into()],
            models: vec![model("openai/gpt-4o-mini").unwrap(), model("embedding=ollama/a/b").unwrap()],
            env: vec![variable("A=b=c").unwrap()],
            ..DeployArgs::default()
        };
        assert_eq!(
            body(&args).unwrap(),
            json!({
                "agent_name": "hello",
                "source_files": {"agent.py": "x"},
                "required_tools": ["echo-tool"],
                "llm_configs": [
                    {"role": "chat", "provider": "openai", "model": "gpt-4o-mini"},
                    {"role": "embedding", "provider": "ollama", "model": "a/b"},
                ],
                "env": [{"name": "A", "value": "b=c"}],
            })
        );
        assert!(model("gpt-4o").is_err() && variable("HOISTWAY_NOT_SET_ANYWHERE").is_err());
    }
}
