//! The tool registry as a process of its own.

use clap::Parser;
use hoistway_kit::{
    config,
    service_main::{self, ConfigFile},
};
use hoistway_tool_registry::{Config, Deps, Ports, config::SERVICE, serve};
use std::process::ExitCode;

/// Hoistway's tool registry. Settings come from the file, then from HOISTWAY_TOOL_REGISTRY_* variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

fn main() -> ExitCode {
    service_main::main(|arguments: Arguments| {
        let mut config: Config = config::load(SERVICE, arguments.file.config.as_deref())?;
        service_main::serve("hoistway-tool-registry", config.log_format, &config.data_dir.clone(), async |shutdown| {
            let deps = Deps::load(&config).await?;
            let ports = Ports::listen(&mut config)?;
            tracing::info!(grpc = %config.grpc_listen, http = %config.http_listen, "{SERVICE} is listening");
            serve(&config, deps, ports, shutdown).await
        })
    })
}
