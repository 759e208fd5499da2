//! The service as a whole: what is on disk, a restart, one process at a time, the binary.

use crate::test_registry::*;
use hoistway_client::{ToolRegistryClient, Transport};
use hoistway_kit::db::DatabaseConfig;
use hoistway_model::{Code, Operation, ToolRegistry};
use hoistway_tool_registry::{Config, Deps, Ports, open, serve};
use std::{fs, process::Command};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn everything_survives_a_restart() {
    let registry = TestRegistry::direct().await;
    let operation = Operation::new();
    let wanted = plan("a", [with_key(tool("x"), "sk-live-credential")], &["x"]);
    let first = registry.apply_tools(operation.clone(), wanted.clone()).await.unwrap();
    registry.seed_starter_kit(Operation::new()).await.unwrap();

    let registry = registry.restart().await;
    assert_eq!(registry.names().await, ["echo-tool", "x"]);
    assert_eq!(registry.apply_tools(operation.clone(), wanted.clone()).await.unwrap(), first);
    registry.settle_tools(name("a"), operation.id).await.unwrap();
    assert!(!registry.changed(&wanted).await, "the credentials still open");
    let registry = registry.restart().await;
    assert!(registry.users("x").await.is_some());
}

#[tokio::test]
async fn credentials_are_not_readable_on_disk() {
    let registry = TestRegistry::direct().await;
    let secret = "sk-live-credential";
    registry.create_tool(Operation::new(), with_key(tool("t"), secret)).await.unwrap();
    registry.deploy(&plan("a", [with_key(tool("u"), secret)], &["u"])).await;
    let mut files = 0;
    for file in fs::read_dir(registry.config.service_dir()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()));
        files += 1;
    }
    assert!(files >= 2, "a database and a lock at least");
    let shown = format!("{:?}", registry.get_tool(name("t")).await.unwrap());
    assert!(!shown.contains(secret));
}

#[tokio::test]
async fn the_directory_belongs_to_one_process() {
    let registry = TestRegistry::direct().await;
    assert_eq!(open(&registry.config, &registry.deps).await.unwrap_err().code, Code::Conflict);
}

#[tokio::test]
async fn the_whole_service_serves_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    let database = DatabaseConfig::from(hoistway_testing::database_url(dir.path()));
    let mut config = Config { data_dir: dir.path().to_owned(), database, ..Config::default() };
    config.grpc_listen.set_port(0);
    config.http_listen.set_port(0);
    let deps = Deps::load(&config).await.unwrap();
    let ports = Ports::listen(&mut config).unwrap();
    let uri = format!("http://{}", config.grpc_listen);
    let shutdown = CancellationToken::new();
    let serving = {
        let (config, deps, shutdown) = (config.clone(), deps.clone(), shutdown.clone());
        tokio::spawn(async move { serve(&config, deps, ports, shutdown).await })
    };
    let client = ToolRegistryClient::new(Transport::connect("tool-registry", &uri, &deps.token).unwrap());
    client.seed_starter_kit(Operation::new()).await.unwrap();
    let echo = client.get_tool(name("echo-tool")).await.unwrap();
    let url = format!("http://localhost:{}", config.http_listen.port());
    assert_eq!((&echo.connection.base_url, &echo.internal_url), (&url, &url));
    drop(client);
    shutdown.cancel();
    serving.await.unwrap().unwrap();
    open(&config, &deps).await.unwrap();
}

#[test]
fn bad_configuration_is_one_line_and_64() {
    let output = Command::new(env!("CARGO_BIN_EXE_hoistway-tool-registry"))
        .env("HOISTWAY_TOOL_REGISTRY_LISTEN", "x")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.starts_with("hoistway: HOISTWAY_TOOL_REGISTRY_LISTEN: unknown key"), "{text}");
    assert_eq!(text.lines().count(), 1);
}
