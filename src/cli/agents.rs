//! The commands about existing agents.

use super::{
    Api, Failure, Outcome, connection,
    output::{self, table, text},
};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use std::{io::Read, path::PathBuf};

/// The arguments to show one item, or all.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Show this one whole
    name: Option<String>,
}

/// The argument of commands about one agent.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// The agent
    name: String,
}

/// The arguments of `hoistway invoke`.
#[derive(Args, Debug)]
pub struct InvokeArgs {
    /// The agent
    name: String,
    /// The message; `-` or none reads standard input
    message: Option<String>,
    /// Print the answer as it comes
    #[arg(short, long)]
    stream: bool,
    /// A file with the token of the user who asks, for agents with an identity provider [default: $HOISTWAY_USER_TOKEN]
    #[arg(long, value_name = "FILE")]
    user_token_file: Option<PathBuf>,
}

impl InvokeArgs {
    /// Whether the answer is printed as it arrives.
    pub const fn streams(&self) -> bool {
        self.stream
    }
}

/// The arguments of `hoistway rollback`.
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// The agent
    name: String,
    /// The revision's number or id [default: the one that served before]
    #[arg(long, value_name = "REVISION")]
    to: Option<String>,
}

/// `hoistway agents`.
pub async fn agents(api: &Api, args: ShowArgs, json: bool) -> Outcome<()> {
    if let Some(name) = args.name {
        return output::json(&api.get(&["agents", &name], &[]).await?);
    }
    let agents = api.list(&["agents"]).await?;
    if json {
        return output::json(&agents);
    }
    let row = |agent: &Value| {
        let (spec, status) = (&agent["spec"], &agent["status"]);
        [&agent["name"], &status["phase"], &spec["framework"], &spec["image"], &agent["updated_at"], &status["message"]]
            .map(text)
    };
    output::print(&table(["NAME", "PHASE", "FRAMEWORK", "IMAGE", "UPDATED", "MESSAGE"], &rows(&agents, row)))
}

/// `hoistway revisions`.
pub async fn revisions(api: &Api, args: NameArgs, json: bool) -> Outcome<()> {
    let revisions = api.get(&["agents", &args.name, "revisions"], &[]).await?;
    if json {
        return output::json(&revisions);
    }
    let row = |it: &Value| [&it["number"], &it["state"], &it["reason"], &it["created_at"], &it["image"]].map(text);
    output::print(&table(["REVISION", "STATE", "REASON", "CREATED", "IMAGE"], &rows(&revisions, row)))
}

/// `hoistway invoke`.
pub async fn invoke(api: &Api, args: InvokeArgs, json: bool) -> Outcome<()> {
    let message = match args.message.as_deref() {
        Some("-") | None => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|e| Failure::usage(format!("the message cannot be read from standard input: {e}")))?;
            text
        }
        Some(text) => text.to_owned(),
    };
    let body = json!({ "message": message });
    let api = &api.clone().for_user(connection::user_token(args.user_token_file.as_deref())?);
    if args.stream {
        let path = ["agents", &args.name, "invoke", "stream"];
        return api.lines(Method::POST, &path, &[], Some(&body), output::line).await;
    }
    let answer = api.call(Method::POST, &["agents", &args.name, "invoke"], &[], Some(&body)).await?;
    match &answer["response"] {
        Value::String(text) if !json => output::line(text),
        other if !json => output::json(other),
        _ => output::json(&answer),
    }
}

/// `hoistway rollback`.
pub async fn rollback(api: &Api, args: RollbackArgs, json: bool) -> Outcome<()> {
    let body = args.to.map_or_else(|| json!({}), |to| json!({ "revision": to }));
    let answer = api.call(Method::POST, &["agents", &args.name, "rollback"], &[], Some(&body)).await?;
    warn(&answer);
    if json {
        return output::json(&answer);
    }
    output::line(&format!("{} is rolled back", args.name))
}

/// `hoistway restart`, `stop` and `start`.
pub async fn act(api: &Api, args: NameArgs, action: &str, json: bool) -> Outcome<()> {
    let answer = api.call(Method::POST, &["agents", &args.name, action], &[], None).await?;
    if json {
        return output::json(&answer);
    }
    output::line(&format!("{}: {}", args.name, text(&answer["status"]["phase"])))
}

/// `hoistway delete`.
pub async fn delete(api: &Api, args: NameArgs, json: bool) -> Outcome<()> {
    let answer = api.call(Method::DELETE, &["agents", &args.name], &[], None).await?;
    if json { output::json(&answer) } else { output::line(&format!("{} is deleted", args.name)) }
}

/// `hoistway status`.
pub async fn status(api: &Api, json: bool) -> Outcome<()> {
    let status = api.get(&["status"], &[]).await?;
    if json {
        return output::json(&status);
    }
    let runtime = &status["runtime"];
    output::line(&format!("version    {}", text(&status["version"])))?;
    output::line(&format!("runtime    {}", text(&runtime["name"])))?;
    output::line(&format!("isolation  {}", text(&runtime["isolation"])))?;
    output::line(&format!("network    {}", text(&runtime["network"])))?;
    output::line(&format!("egress     {}", egress_state(&status["egress"])))
}

/// Describes in a few words whether agents' calls are let through.
fn egress_state(egress: &Value) -> &'static str {
    let is = |key: &str| egress[key] == true;
    match (is("reachable"), is("complete"), is("connected")) {
        (false, ..) => "does not answer",
        (true, false, _) => "starting: it does not know yet what agents may call",
        (true, true, false) => "running, but changes of tools and agents do not reach it now",
        (true, true, true) => "running",
    }
}

/// Prints an answer's warnings.
pub fn warn(answer: &Value) {
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::progress(&format!("warning: {warning}"));
    }
}

/// Returns the table rows for a list in an answer.
pub fn rows<const N: usize>(list: &Value, row: impl Fn(&Value) -> [String; N]) -> Vec<[String; N]> {
    list.as_array().into_iter().flatten().map(row).collect()
}
