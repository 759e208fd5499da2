//! `hoistway deploy`: sends a directory and shows the progress of the deployment.

use super::{
    Api, Failure, Outcome,
    agents::warn,
    deployments::{followed, summary},
    output::{self, progress, text},
    progress::{ProgressPrinter, duration},
    source,
};
use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::{fs, path::PathBuf};

/// The end of the command's help.
pub const STATUSES: &str = "Exit status:
  0    deployed, or unchanged
  1    failed; what ran before goes on serving
  64   wrong command line
  75   not known yet: --timeout passed, or the server does not answer any more
  130  interrupted; after 75 and 130 the deploy goes on on the server: hoistway deployments ID --follow";

/// The arguments of `hoistway deploy`.
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
    /// The file that is run or imported [default: the only one, or agent.py, main.py, app.py, there or in src]
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
    /// The agent's framework, such as langgraph or fastapi
    #[arg(long, value_name = "NAME")]
    pub framework: Option<String>,
    /// The agent's purpose, in words for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Resolve requirements without exact versions anew
    #[arg(long)]
    pub refresh: bool,
    /// Refuse tools that are not registered
    #[arg(long)]
    pub strict: bool,
    /// Do not wait until the agent answers
    #[arg(long)]
    pub no_wait: bool,
    /// Seconds to wait; the deploy goes on [default: until it has ended]
    #[arg(long, value_name = "SECONDS", conflicts_with = "no_wait")]
    pub timeout: Option<u32>,
}

/// Sends the request, reports progress, and prints the agent's address.
pub async fn run(api: &Api, args: DeployArgs, as_json: bool) -> Outcome<()> {
    let body = body(&args)?;
    let accepted = accept(api, &body, &args).await?;
    warn(&accepted);
    let id = text(&accepted["deployment"]);
    if args.no_wait {
        return output::answer(&accepted, as_json, |_| format!("accepted: {}", api.url(&["deployments", &id])));
    }
    let ended = followed(api, &id, accepted["agent"].as_str(), args.timeout, ProgressPrinter::on_stderr()).await?;
    let agent = text(&ended["agent"]);
    // A deployed agent may still wait for an image that cannot be pulled now.
    let phase = api.get(&["agents", &agent], &[]).await.map(|agent| agent["status"].clone()).unwrap_or_default();
    if phase["phase"].as_str().is_some_and(|phase| phase != "Running") {
        progress(&format!("warning: the agent is {}: {}", text(&phase["phase"]), text(&phase["message"])));
    }
    let revision = text(&ended["revision"]);
    progress(&match ended["revision_id"].is_null() {
        true => format!("{agent} is unchanged: revision {revision} goes on serving"),
        false => {
            let took = ended["duration_ms"].as_i64().map(duration).unwrap_or_default();
            format!("{agent} is deployed as revision {revision} in {took}")
        }
    });
    output::answer(&ended, as_json, |it| summary(api, it))
}

/// Sends the request; the answer names the deployment. It does not wait for the end, so that no proxy cuts it off.
async fn accept(api: &Api, body: &Value, args: &DeployArgs) -> Outcome<Value> {
    let mut query = vec![("wait", "none")];
    query.extend(args.refresh.then_some(("refresh", "true")));
    query.extend(args.strict.then_some(("strict", "true")));
    let call = api.call(Method::POST, &["deploy"], &query, Some(body));
    let again = "whether it was accepted is not known; `hoistway deployments` shows it, and deploying again joins it";
    tokio::select! {
        answer = call => answer.map_err(|failure| if failure.is_lost() { failure.remedy(again) } else { failure }),
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted("interrupted").remedy(again)),
    }
}

/// Builds the request from the command line.
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
            source.left().for_each(|line| progress(&line));
            let (files, bytes) = (source.files.len(), source.bytes);
            progress(&format!("sending {files} file{} ({bytes} bytes) as {name}", if files == 1 { "" } else { "s" }));
            set("agent_name", json!(name));
            set("source_files", json!(source.files));
        }
    }
    for (key, given) in [
        ("entry_point", &args.entry_point),
        ("system_prompt", &args.system_prompt),
        ("identity_provider", &args.identity_provider),
        ("framework", &args.framework),
        ("description", &args.description),
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
