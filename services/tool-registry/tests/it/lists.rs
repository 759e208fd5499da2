//! Lists in parts, and what all tools together may hold.

use crate::test_registry::*;
use hoistway_client::Transport;
use hoistway_model::{
    Code, Operation,
    page::{Page, PageQuery},
    tool::{NewTool, ToolUpdate},
};
use hoistway_proto::tools::v1::{self as pb, tool_registry_service_client::ToolRegistryServiceClient};

crate::both_ways! {
    a_list_comes_in_parts_in_the_order_of_names
    tools_hold_no_more_than_their_bound_and_room_can_be_made
}

async fn a_list_comes_in_parts_in_the_order_of_names(registry: TestRegistry) {
    let names: Vec<String> = (0..250).map(|i| format!("t{i:03}")).collect();
    registry.apply_tools(Operation::new(), plan("a", names.iter().map(|name| tool(name)), &[])).await.unwrap();
    assert_eq!(registry.names().await, names);
    let part = async |after: &str, limit| {
        let after = (!after.is_empty()).then(|| name(after));
        let Page { items, more } = registry.list_tools(PageQuery { after, limit }).await.unwrap();
        (items.into_iter().map(|tool| tool.name.to_string()).collect::<Vec<_>>(), more)
    };
    assert_eq!(part("", 2).await, (names[..2].to_vec(), true));
    assert_eq!(part("t001", 2).await, (names[2..4].to_vec(), true));
    assert_eq!(part("t001x", 1).await, (names[2..3].to_vec(), true));
    assert_eq!(part("t247", 2).await, (names[248..].to_vec(), false));
    assert_eq!(part("t249", 2).await, (vec![], false));
}

fn long(i: usize) -> NewTool {
    described(tool(&format!("long-{i:04}")), &"x".repeat(16 << 10))
}

async fn tools_hold_no_more_than_their_bound_and_room_can_be_made(registry: TestRegistry) {
    let e =
        registry.create_tool(Operation::new(), described(tool("t"), &"x".repeat((16 << 10) + 1))).await.unwrap_err();
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidArgument, Some("description")), "{e}");

    for at in (0..1_000).step_by(250) {
        registry.apply_tools(Operation::new(), plan("a", (at..at + 250).map(long), &[])).await.unwrap();
    }
    // One deploy's tools are refused as a whole, one by one there is room for some.
    let e = registry.apply_tools(Operation::new(), plan("a", (1_000..1_250).map(long), &[])).await.unwrap_err();
    assert!(e.code == Code::ResourceExhausted && e.message.contains("delete tools"), "{e}");
    assert_eq!(registry.names().await.len(), 1_000);
    let mut i = 1_000;
    while registry.create_tool(Operation::new(), long(i)).await.is_ok() {
        i += 1;
    }
    assert!((1_010..1_024).contains(&i), "{i}");

    let update = |tool| ToolUpdate { tool, version: None };
    let more = || described(tool("little"), &"x".repeat(10_000));
    while registry.create_tool(Operation::new(), described(tool(&format!("fill-{i}")), &"x".repeat(99))).await.is_ok() {
        i += 1;
    }
    // Existing records may become shorter, and deleted ones make room.
    assert_eq!(
        registry.update_tool(Operation::new(), update(described(long(0), "short"))).await.unwrap().description,
        "short"
    );
    registry.create_tool(Operation::new(), tool("little")).await.unwrap();
    registry.update_tool(Operation::new(), update(more())).await.unwrap();
    let e = registry.update_tool(Operation::new(), update(long(0))).await.unwrap_err();
    assert_eq!(e.code, Code::ResourceExhausted);
    registry.delete_tool(Operation::new(), name("long-0001")).await.unwrap();
    registry.update_tool(Operation::new(), update(long(0))).await.unwrap();
}

/// A client that knows of no parts gets everything, as long as a message can hold it.
#[tokio::test]
async fn a_list_without_a_page_query_is_complete() {
    let registry = TestRegistry::direct().await;
    registry.apply_tools(Operation::new(), plan("a", (0..230).map(|i| tool(&format!("t{i}"))), &[])).await.unwrap();
    let transport: Transport = registry.server().into_local();
    let mut raw = ToolRegistryServiceClient::new(transport);
    let whole = raw.list_tools(pb::ListToolsRequest::default()).await.unwrap().into_inner();
    assert!(whole.tools.len() == 230 && !whole.more);
}
