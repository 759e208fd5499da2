//! The gateway as a process of its own.

use clap::Parser;
use hoistway_client::{AgentClient, BuildClient, EgressClient, ToolRegistryClient, Transport};
use hoistway_gateway::{Config, Deps, Gateway, saga::Services};
use hoistway_kit::{
    config, exit,
    invoke_statement::InvokeStatementKey,
    ports,
    secrets::MasterKey,
    shutdown, telemetry,
    token::{ApiKey, ServiceToken},
};
use hoistway_model::Result;
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// The HTTP API and the deploy saga of Hoistway.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (TOML); `HOISTWAY_GATEWAY_*` variables override it
    #[arg(long, env = "HOISTWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    hoistway_kit::allocator::give_back_large_blocks();
    let config = match config::load::<Config>("gateway", args.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return exit::usage(&e.message),
    };
    match run(&config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}

async fn run(config: &Config) -> Result<()> {
    let _telemetry = telemetry::init("hoistway-gateway", config.log_format)?;
    config::data_dir(Some(config.data_dir.clone()))?;
    hoistway_kit::open_files::raise_limit()?;
    let shutdown = shutdown::on_signals()?;
    let listeners = ports::listen(config.listen)?;
    let token = ServiceToken::load_or_create(&config.file(&config.service_token_file, "service-token"))?;
    let patience = config.deploy_deadline();
    let connect = |server: &str, uri: &str| Transport::connect(server, uri, &token);
    let services = Services {
        tools: Arc::new(ToolRegistryClient::new(connect("tool-registry", &config.tool_registry)?)),
        builds: Arc::new(BuildClient::new(connect("build", &config.build)?, patience)),
        agents: Arc::new(AgentClient::new(connect("agent", &config.agent)?, patience)),
    };
    let egress = Arc::new(EgressClient::new(connect("egress", &config.egress)?));
    let master_key = MasterKey::load_or_create(&config.file(&config.master_key_file, "master.key"))?;
    let api_key = ApiKey::load_or_create(&config.file(&config.api_key_file, "api-key"))?;
    let invoke_statements = InvokeStatementKey::new(&token)?;
    let gateway =
        Gateway::open(config, Deps { services, egress, master_key, api_key, invoke_statements }, shutdown).await?;
    tracing::info!("listening on {}", config.listen);
    gateway.serve(listeners).await
}
