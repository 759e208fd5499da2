//! `hoistway tools`: the registered tools, and whether one works.

use super::{
    Api, Failure, Outcome,
    agents::rows,
    output::{self, table, text},
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

/// All tools, one, or an action on one.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ToolsArgs {
    /// Show this one whole
    name: Option<String>,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What is done with a tool.
#[derive(Subcommand, Debug)]
enum Action {
    /// Check whether a tool's address, TLS and credential work
    ///
    /// Egress sends one GET to the tool's base URL, as it sends agents' calls. The status is 1 when something does not work.
    Check {
        /// The tool
        name: String,
    },
}

/// Runs the command.
pub async fn run(api: &Api, args: ToolsArgs, json: bool) -> Outcome<()> {
    match args {
        ToolsArgs { action: Some(Action::Check { name }), .. } => check(api, &name, json).await,
        ToolsArgs { name: Some(name), .. } => output::json(&api.get(&["tools", &name], &[]).await?),
        ToolsArgs { name: None, action: None } => list(api, json).await,
    }
}

async fn list(api: &Api, json: bool) -> Outcome<()> {
    let tools = api.get(&["tools"], &[]).await?;
    if json {
        return output::json(&tools);
    }
    let row = |tool: &Value| {
        let at = &tool["spec"]["connection"];
        [&tool["name"], &tool["status"]["phase"], &at["baseUrl"], &at["authentication"]["type"]].map(text)
    };
    output::print(&table(["NAME", "PHASE", "BASE URL", "AUTH"], &rows(&tools, row)))
}

async fn check(api: &Api, name: &str, json: bool) -> Outcome<()> {
    let answer = api.call(Method::POST, &["tools", name, "check"], &[], None).await?;
    let works = answer["ok"] == true;
    if !json {
        let row = |check: &Value| {
            let result = if check["ok"] == true { "ok" } else { "failed" };
            [text(&check["check"]), result.to_owned(), text(&check["message"])]
        };
        output::print(&table(["CHECK", "RESULT", "MESSAGE"], &rows(&answer["checks"], row)))?;
    } else if works {
        output::json(&answer)?;
    }
    match works {
        true => Ok(()),
        false => Err(Failure::new(format!("the tool \"{name}\" does not work")).with_document(answer)),
    }
}
