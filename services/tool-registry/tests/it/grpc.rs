//! The gRPC edge: the token, wrong messages, errors that keep their details.

use crate::test_registry::*;
use hoistway_client::{ToolRegistryClient, Transport};
use hoistway_kit::{ports::listen_loopback, token::ServiceToken};
use hoistway_model::{Code, Operation, ToolRegistry, page::PageQuery};
use hoistway_proto::tools::v1::{self as pb, tool_registry_service_client::ToolRegistryServiceClient};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_port_answers_who_shows_the_token() {
    let registry = TestRegistry::direct().await;
    let listeners = listen_loopback(0).unwrap();
    let uri = format!("http://{}", listeners.addrs()[0]);
    let shutdown = CancellationToken::new();
    let server = registry.server();
    let serving = tokio::spawn(server.serve(listeners, shutdown.clone()));

    let client = ToolRegistryClient::new(Transport::connect("tool-registry", &uri, &registry.deps.token).unwrap());
    let made = client.create_tool(Operation::new(), with_key(in_header(tool("t")), "sk")).await.unwrap();
    assert_eq!(client.list_tools(PageQuery::FIRST).await.unwrap().items, [made]);
    let stranger = ServiceToken::generate().unwrap();
    let stranger = ToolRegistryClient::new(Transport::connect("tool-registry", &uri, &stranger).unwrap());
    assert_eq!(stranger.list_tools(PageQuery::FIRST).await.unwrap_err().code, Code::Unauthenticated);

    let e = client.create_model_provider(
        Operation::new(),
        hoistway_model::tool::NewModelProvider { provider: "x".into(), ..provider("p") },
    );
    assert_eq!(e.await.unwrap_err().field.as_deref(), Some("provider"));
    drop((client, stranger));
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn wrong_messages_are_named_by_field() {
    let registry = TestRegistry::direct().await;
    let transport = registry.server().into_local();
    let mut raw = ToolRegistryServiceClient::new(transport);
    let operation = Some(Operation::new().into());
    let calls = [
        (raw.get_tool(pb::GetToolRequest { name: "No Name".into() }).await.unwrap_err(), "name: "),
        (raw.create_tool(pb::CreateToolRequest { operation, tool: None }).await.unwrap_err(), "tool: is required"),
        (raw.apply_tools(pb::ApplyToolsRequest::default()).await.unwrap_err(), "operation: is required"),
        (raw.resolve(pb::ResolveRequest::default()).await.unwrap_err(), "plan: is required"),
        (raw.undo_tools(pb::UndoToolsRequest::default()).await.unwrap_err(), "applied_operation_id: "),
    ];
    for (status, message) in calls {
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().starts_with(message), "{}", status.message());
    }
}
