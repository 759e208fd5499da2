//! The build service as a process of its own.

use clap::Parser;
use hoistway_build::{Config, Deps, Ports, config::SERVICE};
use hoistway_kit::{
    config,
    service_main::{self, ConfigFile},
};
use std::process::ExitCode;

/// Hoistway's build service and embedded OCI registry. Settings come from the file, then from HOISTWAY_BUILD_*
/// variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

fn main() -> ExitCode {
    // First of all, before any thread exists: this program also starts the programs of a build.
    if let Some(code) = hoistway_build::run_if_requested() {
        return code;
    }
    service_main::main(|arguments: Arguments| {
        let config: Config = config::load(SERVICE, arguments.file.config.as_deref())?;
        service_main::serve("hoistway-build", config.log_format, &config.data_dir, async |shutdown| {
            let ports = Ports::listen(&config)?;
            tracing::info!("gRPC on {}, registry on {}", config.grpc_listen, config.registry_listen);
            hoistway_build::serve(&config, Deps::load(&config)?, ports, shutdown).await
        })
    })
}
