//! The command line: commands of a user or a CI job for a running Hoistway, through its public HTTP API only.

mod agents;
mod api;
mod budget;
mod calls;
mod connection;
mod deploy;
mod deployments;
mod failure;
mod installation;
mod logs;
mod output;
mod progress;
mod resources;
mod source;
mod streaming;
mod usage;
mod watch;

pub use api::Api;
pub use connection::Target;
pub use deployments::followed;
pub use failure::{Failure, Outcome};
pub use progress::ProgressPrinter;

use clap::{Args, Subcommand};
use connection::Access;
use deploy::DeployArgs;
use std::process::ExitCode;

/// The commands for a running Hoistway.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Deploy an agent from a directory, a file or an image
    ///
    /// Reports progress and the build's lines on standard error, and prints the agent's address on standard output;
    /// with --json, the deployment's record as one JSON document. Interrupting it does not stop the deploy.
    #[command(after_help = deploy::STATUSES)]
    Deploy(Box<With<DeployArgs>>),
    /// List deployments, show one, or follow its progress
    Deployments(With<deployments::DeploymentsArgs>),
    /// List agents, or show one
    Agents(With<agents::ShowArgs>),
    /// Show an agent's log lines, or a build's
    Logs(With<logs::LogsArgs>),
    /// Show an agent's calls through egress and their results
    Calls(With<calls::CallsArgs>),
    /// Show agents' use of models: requests, tokens and cost
    Usage(With<usage::UsageArgs>),
    /// Show how much of models an agent may use and has used, or set it
    Budget(With<budget::BudgetArgs>),
    /// Send a message to an agent and print its answer
    Invoke(With<agents::InvokeArgs>),
    /// List the revisions of an agent that it can be rolled back to
    Revisions(With<agents::NameArgs>),
    /// Go back to an earlier revision, without a build
    Rollback(With<agents::RollbackArgs>),
    /// Replace an agent's process by a new one of the same revision
    Restart(With<agents::NameArgs>),
    /// Stop an agent; it stays registered
    Stop(With<agents::NameArgs>),
    /// Start a stopped agent
    Start(With<agents::NameArgs>),
    /// Delete an agent with its revisions and logs
    Delete(With<agents::NameArgs>),
    /// List tools, show one, or check whether one works
    Tools(With<resources::ResourceArgs>),
    /// List model providers, show one, or check whether one works
    ModelProviders(With<resources::ResourceArgs>),
    /// Show the version of Hoistway and the isolation of agents
    Status(With<NoArgs>),
}

/// A command with the options that every command has.
#[derive(Args, Debug)]
pub struct With<T: Args> {
    #[command(flatten)]
    args: T,
    #[command(flatten)]
    access: Access,
    /// Print the API's JSON instead of text; a failure too is JSON on standard output then
    #[arg(long, global = true)]
    json: bool,
}

/// No arguments.
#[derive(Args, Debug)]
pub struct NoArgs {}

impl<T: Args> With<T> {
    fn open(self) -> Outcome<(Api, T, bool)> {
        Ok((Api::new(self.access.find()?)?, self.args, self.json))
    }
}

/// Runs one command. A failure is printed on standard error and sets the exit status; if a JSON document was requested,
/// the failure is one too.
pub async fn run(command: Command) -> ExitCode {
    let document = command.wants_document();
    match dispatch(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if document {
                let _ = output::json(&failure.document());
            }
            failure.report()
        }
    }
}

impl Command {
    /// Whether one JSON document is requested; logs, streams and followed commands print lines.
    const fn wants_document(&self) -> bool {
        match self {
            Self::Deploy(with) => with.json,
            Self::Deployments(with) => with.json,
            Self::Agents(with) => with.json,
            Self::Tools(with) | Self::ModelProviders(with) => with.json,
            Self::Logs(_) => false,
            Self::Usage(with) => with.json,
            Self::Budget(with) => with.json,
            Self::Calls(with) => with.json && !with.args.follow,
            Self::Invoke(with) => with.json && !with.args.streams(),
            Self::Revisions(with) | Self::Restart(with) | Self::Stop(with) | Self::Start(with) | Self::Delete(with) => {
                with.json
            }
            Self::Rollback(with) => with.json,
            Self::Status(with) => with.json,
        }
    }
}

async fn dispatch(command: Command) -> Outcome<()> {
    match command {
        Command::Deploy(with) => {
            let (api, args, json) = with.open()?;
            deploy::run(&api, args, json).await
        }
        Command::Deployments(with) => {
            let (api, args, json) = with.open()?;
            deployments::run(&api, args, json).await
        }
        Command::Agents(with) => {
            let (api, args, json) = with.open()?;
            agents::agents(&api, args, json).await
        }
        Command::Logs(with) => {
            let (api, args, json) = with.open()?;
            logs::run(&api, args, json).await
        }
        Command::Calls(with) => {
            let (api, args, json) = with.open()?;
            calls::run(&api, args, json).await
        }
        Command::Usage(with) => {
            let (api, args, json) = with.open()?;
            usage::run(&api, args, json).await
        }
        Command::Budget(with) => {
            let (api, args, json) = with.open()?;
            budget::run(&api, args, json).await
        }
        Command::Invoke(with) => {
            let (api, args, json) = with.open()?;
            agents::invoke(&api, args, json).await
        }
        Command::Revisions(with) => {
            let (api, args, json) = with.open()?;
            agents::revisions(&api, args, json).await
        }
        Command::Rollback(with) => {
            let (api, args, json) = with.open()?;
            agents::rollback(&api, args, json).await
        }
        Command::Restart(with) => {
            let (api, args, json) = with.open()?;
            agents::act(&api, args, "restart", json).await
        }
        Command::Stop(with) => {
            let (api, args, json) = with.open()?;
            agents::act(&api, args, "stop", json).await
        }
        Command::Start(with) => {
            let (api, args, json) = with.open()?;
            agents::act(&api, args, "start", json).await
        }
        Command::Delete(with) => {
            let (api, args, json) = with.open()?;
            agents::delete(&api, args, json).await
        }
        Command::Tools(with) => {
            let (api, args, json) = with.open()?;
            resources::run(&api, resources::Kind::Tools, args, json).await
        }
        Command::ModelProviders(with) => {
            let (api, args, json) = with.open()?;
            resources::run(&api, resources::Kind::ModelProviders, args, json).await
        }
        Command::Status(with) => {
            let (api, NoArgs {}, json) = with.open()?;
            agents::status(&api, json).await
        }
    }
}
