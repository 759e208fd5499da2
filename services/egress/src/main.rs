//! Egress as a process of its own.

use clap::Parser;
use hoistway_egress::{
    Config, Deps, Ports, calls::LogCallRecords, config::SERVICE, policy::static_policy::FixedPolicies, serve,
};
use hoistway_kit::{allocator, config, egress_auth::EgressKey, exit, open_files, shutdown, telemetry};
use hoistway_model::{Error, Result};
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// Hoistway's egress. Settings come from the file, then from HOISTWAY_EGRESS_* variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A TOML file with settings.
    #[arg(long, env = "HOISTWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A JSON file that says what each agent may call, instead of the tool registry and the agent service. Calls are
    /// recorded in the log.
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// Print the token of each agent in that file, and end.
    #[arg(long, requires = "policies")]
    print_tokens: bool,
}

fn main() -> ExitCode {
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
    allocator::give_back_large_blocks();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut config: Config = config::load(SERVICE, arguments.config.as_deref())?;
    let policies = arguments.policies.as_deref().map(FixedPolicies::read).transpose()?;
    if let Some(policies) = policies.as_ref().filter(|_| arguments.print_tokens) {
        for (agent, token) in policies.tokens(&EgressKey::load_or_create(&config.key_file())?) {
            println!("{agent} {}", token.expose());
        }
        return Ok(());
    }
    let _telemetry = telemetry::init(SERVICE, config.log_format)?;
    config::data_dir(Some(config.data_dir.clone()))?;
    open_files::raise_limit()?;
    let runtime = tokio::runtime::Runtime::new().map_err(|e| Error::internal("starting the runtime", e))?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        let mut deps = Deps::load(&config).await?;
        if let Some(policies) = policies {
            deps.policies = Arc::new(policies);
            deps.records = Some(Arc::new(LogCallRecords));
        }
        let ports = Ports::listen(&mut config)?;
        tracing::info!(listen = %config.listen, grpc = %config.grpc_listen, "{SERVICE} is listening");
        serve(&config, deps, ports, shutdown).await
    })
}
