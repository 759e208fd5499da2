//! The gateway as a separate process.

use clap::Parser;
use hoistway_client::{AgentClient, BuildClient, EgressClient, ToolRegistryClient, Transport};
use hoistway_gateway::{Config, Deps, Gateway, saga::Services};
use hoistway_kit::{
    config,
    invoke_statement::InvokeStatementKey,
    ports,
    secrets::MasterKey,
    service_main::{self, ConfigFile},
    token::{ApiKey, ServiceToken},
};
use hoistway_model::Result;
use std::{process::ExitCode, sync::Arc};
use tokio_util::sync::CancellationToken;

/// The HTTP API and the deploy saga of Hoistway. Settings come from the file, then from HOISTWAY_GATEWAY_* variables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

fn main() -> ExitCode {
    service_main::main(|arguments: Arguments| {
        let config: Config = config::load("gateway", arguments.file.config.as_deref())?;
        service_main::serve("hoistway-gateway", config.log_format, &config.data_dir, async |shutdown| {
            serve(&config, shutdown).await
        })
    })
}

async fn serve(config: &Config, shutdown: CancellationToken) -> Result<()> {
    let listeners = config.api_tls.secure(ports::listen(config.listen)?)?;
    let token = ServiceToken::load_or_create(&config.file(&config.service_token_file, "service-token"))?;
    let patience = config.deploy_deadline();
    let tls = config.tls.load()?;
    let connect = |server: &str, uri: &str| Transport::connect_tls(server, uri, &token, &tls);
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
        Gateway::open(config, Deps { services, egress, tls, master_key, api_key, invoke_statements }, shutdown).await?;
    tracing::info!("listening on {}", config.listen);
    gateway.serve(listeners).await
}
