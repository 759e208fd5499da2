//! `hoistway`: the whole stack in one process.

mod archive;
mod backup;
mod cli;
mod demo;
mod rotate;
mod services;
mod transfer;
mod up;

use clap::{CommandFactory, Parser, Subcommand};
use hoistway_kit::{allocator, env_check, exit, telemetry::LogFormat};
use hoistway_model::Secret;
use std::{convert::Infallible, io::Write, path::PathBuf, process::ExitCode};

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
    /// Copy an installation for another one, such as of the separate programs, into one file
    Export(transfer::ExportArgs),
    /// Put an export into an installation that has nothing yet
    Import(transfer::ImportArgs),
    #[command(flatten)]
    Client(cli::Command),
    /// Make a new master key and encrypt all stored secrets with it
    RotateKey(RotateArgs),
}

/// The arguments of `hoistway rotate-key`.
#[derive(clap::Args, Debug, Clone)]
pub struct RotateArgs {
    /// The data directory [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Instead of a data directory, the key file of separate programs, which encrypt anew at their next start
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Drop the old keys from the key file, once all programs that read it have started with the new one
    #[arg(long, requires = "key_file")]
    drop_old: bool,
}

/// The arguments of `hoistway up`.
#[derive(clap::Args, Debug, Clone)]
pub struct UpArgs {
    /// The address of the HTTP API, besides `localhost`, which is 127.0.0.1 and ::1, at the same port [default:
    /// localhost:8092]
    #[arg(long, value_name = "ADDR:PORT", env = "HOISTWAY_LISTEN")]
    listen: Option<up::Listen>,
    /// The certificate of the HTTP API (PEM), which clients on other machines then need; those of this machine may do
    /// without TLS
    #[arg(long, value_name = "FILE", env = "HOISTWAY_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", env = "HOISTWAY_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve clients on other machines without TLS too, for example behind a proxy
    #[arg(long, env = "HOISTWAY_ALLOW_PLAINTEXT")]
    allow_plaintext: bool,
    /// The data directory [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The Python interpreter that builds and runs agents [default: the first on PATH that is 3.10 or newer]
    #[arg(long, value_name = "PATH", env = "HOISTWAY_PYTHON")]
    python: Option<PathBuf>,
    /// What runs agents: process or docker [default: HOISTWAY_AGENT_RUNTIME, or process]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<hoistway_agent::config::RuntimeKind>,
    /// The sandbox of agents: auto, namespaces, landlock or none [default: HOISTWAY_AGENT_SANDBOX, or auto]
    #[arg(long, value_name = "TIER")]
    sandbox: Option<hoistway_agent::sandbox::Mode>,
    /// The network access of agents: closed (their tools, through egress), open (all of it), or auto (closed where this
    /// machine can enforce it) [default: HOISTWAY_AGENT_NETWORK, or auto]
    #[arg(long, value_name = "NETWORK")]
    network: Option<hoistway_agent::sandbox::Network>,
    /// A base image, [HOST/]REPOSITORY:TAG, in the embedded registry or in that of HOST, whose Python is the same as the
    /// host's [default: none]
    #[arg(long, value_name = "IMAGE", env = "HOISTWAY_BASE_IMAGE")]
    base_image: Option<String>,
    /// The registry that images are pushed to and pulled from, HOST[:PORT][/PREFIX]; logins are those of `docker login`
    /// [default: the embedded one]
    #[arg(long, value_name = "REGISTRY", env = "HOISTWAY_IMAGE_REGISTRY")]
    image_registry: Option<String>,
    /// The PostgreSQL database of all services, postgres://USER@HOST/DATABASE [default: SQLite files in the data
    /// directory]
    #[arg(long, value_name = "URL", env = "HOISTWAY_DATABASE_URL", hide_env_values = true, value_parser = secret)]
    database_url: Option<Secret>,
    /// A file with the password of the database's user
    #[arg(long, value_name = "FILE", env = "HOISTWAY_DATABASE_PASSWORD_FILE")]
    database_password_file: Option<PathBuf>,
    /// Seed the starter kit, deploy a sample agent, and show the request, the steps and its answer
    #[arg(long)]
    demo: bool,
    /// Log lines for people (`human`) or as JSON (`json`) [default: human]
    #[arg(long, env = "HOISTWAY_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// A configuration file (TOML): the keys above, and tables `[gateway]`, `[build]`, `[agent]`, `[egress]`,
    /// `[tool-registry]`
    #[arg(long, value_name = "FILE", env = "HOISTWAY_CONFIG")]
    config: Option<PathBuf>,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// Returns the environment variables that the command line reads.
fn variables(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

fn main() -> ExitCode {
    // This comes first: this program also starts agents and the programs of a build, and must then have one thread
    // only.
    if let Some(code) = hoistway_agent::launcher::run_if_requested().or_else(hoistway_build::run_if_requested) {
        return code;
    }
    let Args { command } = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if matches!(command, Command::Up(_)) {
        allocator::give_back_large_blocks();
    }
    let read = variables(&Args::command());
    if let Err(e) = env_check::check(read.iter().map(String::as_str)) {
        return exit::fatal(&e);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return exit::fatal(&hoistway_model::Error::internal("starting", e)),
    };
    let done = match command {
        Command::Client(command) => return runtime.block_on(cli::run(command)),
        Command::Up(args) => runtime.block_on(up::run(args)),
        Command::Backup(args) => runtime.block_on(backup::backup(args)),
        Command::Restore(args) => runtime.block_on(backup::restore(args)),
        Command::Export(args) => runtime.block_on(transfer::export(args)),
        Command::Import(args) => runtime.block_on(transfer::import(args)).and_then(print),
        Command::RotateKey(args) => runtime.block_on(rotate::run(args)).and_then(print),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}

fn print(said: String) -> hoistway_model::Result<()> {
    writeln!(std::io::stdout(), "{said}").map_err(|e| hoistway_model::Error::internal("printing", e))
}
