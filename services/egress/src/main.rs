//! Egress as a process of its own, with policies from a file.

use clap::Parser;
use hoistway_egress::{
    Config, Deps, NoEndUsers, config::SERVICE, fixed::FixedPolicies, listen, records::LogRecords, serve,
};
use hoistway_kit::{config, egress::EgressKey, exit, shutdown, telemetry};
use hoistway_model::{Error, Result};
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// Hoistway's egress. Settings come from the file, then from HOISTWAY_EGRESS_* variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A TOML file with settings.
    #[arg(long, env = "HOISTWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A JSON file that says what each agent may call.
    #[arg(long, value_name = "FILE")]
    policies: PathBuf,
    /// Print each agent's token, and end.
    #[arg(long)]
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
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut config: Config = config::load(SERVICE, arguments.config.as_deref())?;
    let key = EgressKey::load_or_create(&config.key_file())?;
    let policies = FixedPolicies::read(&arguments.policies)?;
    if arguments.print_tokens {
        for (agent, token) in policies.tokens(&key) {
            println!("{agent} {}", token.expose());
        }
        return Ok(());
    }
    telemetry::init(SERVICE, config.log_format)?;
    let runtime = tokio::runtime::Runtime::new().map_err(|e| Error::internal("starting the runtime", e))?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        let listeners = listen(&mut config)?;
        tracing::info!(listen = %config.listen, "{SERVICE} is listening");
        let deps =
            Deps { key, policies: Arc::new(policies), records: Arc::new(LogRecords), end_users: Arc::new(NoEndUsers) };
        serve(&config, deps, listeners, shutdown).await
    })
}
