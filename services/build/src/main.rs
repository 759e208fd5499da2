//! The build service as a process of its own.

use clap::Parser;
use hoistway_build::{Config, Deps, Ports};
use hoistway_kit::{config, exit, ports, shutdown, telemetry};
use hoistway_model::Result;
use std::{path::PathBuf, process::ExitCode};

/// Hoistway's build service and embedded OCI registry.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (TOML); `HOISTWAY_BUILD_*` variables override it
    #[arg(long, env = "HOISTWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    // First of all, before any thread exists: this program also starts the programs of a build.
    hoistway_build::run_if_requested().unwrap_or_else(serve)
}

#[tokio::main]
async fn serve() -> ExitCode {
    let args = Args::parse();
    hoistway_kit::allocator::give_back_large_blocks();
    let config = match config::load::<Config>("build", args.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return exit::usage(&e.message),
    };
    match run(&config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}

async fn run(config: &Config) -> Result<()> {
    let _telemetry = telemetry::init("hoistway-build", config.log_format)?;
    config::data_dir(Some(config.data_dir.clone()))?;
    hoistway_kit::open_files::raise_limit()?;
    let shutdown = shutdown::on_signals()?;
    let ports = Ports { grpc: ports::listen(config.grpc_listen)?, registry: ports::listen(config.registry_listen)? };
    tracing::info!("gRPC on {}, registry on {}", config.grpc_listen, config.registry_listen);
    hoistway_build::serve(config, Deps::load(config)?, ports, shutdown).await
}
