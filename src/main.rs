//! `hoistway`: the whole stack in one process.

mod backup;
mod cli;
mod demo;
mod screen;
mod up;

use clap::{Parser, Subcommand};
use hoistway_kit::{exit, telemetry::LogFormat};
use std::{path::PathBuf, process::ExitCode};

/// Self-hosted control plane for AI agents: one call from source to a running agent.
#[derive(Parser)]
#[command(name = "hoistway", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole stack in this process, on this machine
    Up(UpArgs),
    /// Copy an installation, also while it runs, into one file
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup
    Restore(backup::RestoreArgs),
    #[command(flatten)]
    Client(cli::Command),
}

/// What `hoistway up` can be told.
#[derive(clap::Args, Debug, Clone)]
pub struct UpArgs {
    /// Where the HTTP API listens; `localhost:PORT` is 127.0.0.1 and ::1 [default: localhost:8092]
    #[arg(long, value_name = "ADDR:PORT", env = "HOISTWAY_LISTEN")]
    listen: Option<up::Listen>,
    /// Where everything is kept [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The Python interpreter that builds and runs agents [default: the first on PATH that is 3.10 or newer]
    #[arg(long, value_name = "PATH", env = "HOISTWAY_PYTHON")]
    python: Option<PathBuf>,
    /// What keeps agents from the rest of the machine: auto, namespaces, landlock or none
    /// [default: HOISTWAY_AGENT_SANDBOX, or auto]
    #[arg(long, value_name = "TIER")]
    sandbox: Option<hoistway_agent::sandbox::Mode>,
    /// What agents reach of the network: open, or closed but for egress [default: HOISTWAY_AGENT_NETWORK, or open]
    #[arg(long, value_name = "NETWORK")]
    network: Option<hoistway_agent::sandbox::Network>,
    /// A base image in the embedded registry, REPOSITORY:TAG, whose Python is the same as the host's [default: none]
    #[arg(long, value_name = "IMAGE", env = "HOISTWAY_BASE_IMAGE")]
    base_image: Option<String>,
    /// Seed the starter kit, deploy a sample agent, and show the request, the steps and its answer
    #[arg(long)]
    demo: bool,
    /// Log lines for people (`human`) or as JSON (`json`)
    #[arg(long, default_value = "human", env = "HOISTWAY_LOG_FORMAT")]
    log_format: LogFormat,
}

fn main() -> ExitCode {
    // First of all: an agent's launcher is this program too, and must have one thread only.
    if let Some(code) = hoistway_agent::launcher::run_if_requested() {
        return code;
    }
    let Args { command } = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return exit::fatal(&hoistway_model::Error::internal("starting", e)),
    };
    let done = match command {
        Command::Client(command) => return runtime.block_on(cli::run(command)),
        Command::Up(args) => runtime.block_on(up::run(args)),
        Command::Backup(args) => runtime.block_on(backup::backup(args)),
        Command::Restore(args) => backup::restore(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}
