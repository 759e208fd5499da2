//! The agent service as a process of its own.

use clap::Parser;
use hoistway_agent::{Config, Deps, Ports, config::SERVICE, launcher, serve};
use hoistway_kit::{config, exit, shutdown, telemetry};
use hoistway_model::{Error, Result};
use std::{path::PathBuf, process::ExitCode};

/// Hoistway's agent service. Settings come from the file, then from HOISTWAY_AGENT_* variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A TOML file with settings.
    #[arg(long, env = "HOISTWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    // First of all, before any thread exists: this program is also the launcher of its agents.
    if let Some(code) = launcher::run_if_requested().or_else(hoistway_confine::exec::run_if_requested) {
        return code;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let status = if e.use_stderr() { exit::USAGE } else { 0 };
            return match e.print() {
                Ok(()) => ExitCode::from(status),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut config: Config = config::load(SERVICE, arguments.config.as_deref())?;
    let _telemetry = telemetry::init(SERVICE, config.log_format)?;
    config::data_dir(Some(config.data_dir.clone()))?;
    hoistway_kit::open_files::raise_limit()?;
    let runtime = tokio::runtime::Runtime::new().map_err(|e| Error::internal("starting the runtime", e))?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        let deps = Deps::load(&config).await?;
        let ports = Ports::listen(&mut config)?;
        tracing::info!(grpc = %config.grpc_listen, "{SERVICE} is listening");
        serve(&config, deps, ports, shutdown).await
    })
}
