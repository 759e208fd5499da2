//! The agent service as a process of its own.

use clap::Parser;
use hoistway_agent::{Config, Deps, Ports, config::SERVICE, launcher, serve};
use hoistway_kit::{
    config,
    service_main::{self, ConfigFile},
};
use std::process::ExitCode;

/// Hoistway's agent service. Settings come from the file, then from HOISTWAY_AGENT_* variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

fn main() -> ExitCode {
    // First of all, before any thread exists: this program is also the launcher of its agents.
    if let Some(code) = launcher::run_if_requested().or_else(hoistway_confine::exec::run_if_requested) {
        return code;
    }
    service_main::main(|arguments: Arguments| {
        let mut config: Config = config::load(SERVICE, arguments.file.config.as_deref())?;
        service_main::serve("hoistway-agent", config.log_format, &config.data_dir.clone(), async |shutdown| {
            let deps = Deps::load(&config).await?;
            let ports = Ports::listen(&mut config, &deps.tls)?;
            tracing::info!(grpc = %config.grpc_listen, "{SERVICE} is listening");
            serve(&config, deps, ports, shutdown).await
        })
    })
}
