//! `hoistway tools` and `hoistway model-providers`: lists registered items and checks one.

use super::{
    Api, Failure, Outcome,
    agents::rows,
    output::{self, table, text},
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

/// A kind of registered items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Tools.
    Tools,
    /// Model providers.
    ModelProviders,
}

impl Kind {
    const fn path(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::ModelProviders => "model-providers",
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Tools => "tool",
            Self::ModelProviders => "model provider",
        }
    }

    fn list(self, all: &Value) -> String {
        match self {
            Self::Tools => {
                let row = |tool: &Value| {
                    let at = &tool["spec"]["connection"];
                    [&tool["name"], &tool["status"]["phase"], &at["baseUrl"], &at["authentication"]["type"]].map(text)
                };
                table(["NAME", "PHASE", "BASE URL", "AUTH"], &rows(all, row))
            }
            Self::ModelProviders => {
                let row = |provider: &Value| {
                    let models = provider["spec"]["models"].as_array().into_iter().flatten().map(text);
                    let models = models.collect::<Vec<_>>().join(", ");
                    let [name, phase, protocol, endpoint] = [
                        &provider["name"],
                        &provider["status"]["phase"],
                        &provider["spec"]["provider"],
                        &provider["spec"]["endpoint"],
                    ]
                    .map(text);
                    [name, phase, protocol, endpoint, models]
                };
                table(["NAME", "PHASE", "PROTOCOL", "ENDPOINT", "MODELS"], &rows(all, row))
            }
        }
    }
}

/// The arguments: all, one, or an action on one.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ResourceArgs {
    /// Show this one whole
    name: Option<String>,
    #[command(subcommand)]
    action: Option<Action>,
}

/// An action on one item.
#[derive(Subcommand, Debug)]
enum Action {
    /// Check whether its address, TLS, credential and models work
    ///
    /// Egress sends it a request as it sends agents' calls: one GET to a tool's base URL, or a request for a model
    /// provider's list of models. The exit status is 1 when something does not work.
    Check {
        /// Its name
        name: String,
    },
}

/// Runs the command.
pub async fn run(api: &Api, kind: Kind, args: ResourceArgs, json: bool) -> Outcome<()> {
    match args {
        ResourceArgs { action: Some(Action::Check { name }), .. } => check(api, kind, &name, json).await,
        ResourceArgs { name: Some(name), .. } => output::json(&api.get(&[kind.path(), &name], &[]).await?),
        ResourceArgs { name: None, action: None } => {
            let all = api.get(&[kind.path()], &[]).await?;
            if json { output::json(&all) } else { output::print(&kind.list(&all)) }
        }
    }
}

async fn check(api: &Api, kind: Kind, name: &str, json: bool) -> Outcome<()> {
    let answer = api.call(Method::POST, &[kind.path(), name, "check"], &[], None).await?;
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
        false => Err(Failure::new(format!("the {} \"{name}\" does not work", kind.noun())).with_document(answer)),
    }
}
