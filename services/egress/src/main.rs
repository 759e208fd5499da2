//! Egress as a process of its own.

use clap::Parser;
use hoistway_egress::{
    Config, Deps, Ports, calls::LogCallRecords, config::SERVICE, policy::static_policy::FixedPolicies, serve,
};
use hoistway_kit::{
    config,
    egress_auth::EgressKey,
    service_main::{self, ConfigFile},
};
use hoistway_model::Result;
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// Hoistway's egress. Settings come from the file, then from HOISTWAY_EGRESS_* variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// A JSON file that says what each agent may call, instead of the tool registry and the agent service. Calls are
    /// recorded in the log.
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// Print the token of each agent in that file, and end.
    #[arg(long, requires = "policies")]
    print_tokens: bool,
}

fn main() -> ExitCode {
    service_main::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let mut config: Config = config::load(SERVICE, arguments.file.config.as_deref())?;
    let policies = arguments.policies.as_deref().map(FixedPolicies::read).transpose()?;
    if let Some(policies) = policies.as_ref().filter(|_| arguments.print_tokens) {
        for (agent, token) in policies.tokens(&EgressKey::load_or_create(&config.key_file())?) {
            println!("{agent} {}", token.expose());
        }
        return Ok(());
    }
    service_main::serve("hoistway-egress", config.log_format, &config.data_dir.clone(), async |shutdown| {
        let mut deps = Deps::load(&config).await?;
        if let Some(policies) = policies {
            deps.policies = Arc::new(policies);
            deps.records = Some(Arc::new(LogCallRecords));
        }
        let ports = Ports::listen(&mut config, &deps.tls)?;
        tracing::info!(listen = %config.listen, grpc = %config.grpc_listen, "{SERVICE} is listening");
        serve(&config, deps, ports, shutdown).await
    })
}
