//! Which agent uses which tool: applied, settled, released.

use crate::test_registry::*;
use hoistway_model::{Code, Operation, OperationId};

crate::both_ways! {
    settling_drops_what_earlier_deploys_bound
    settling_keeps_bindings_that_did_not_change
    settling_late_or_twice_does_not_touch_a_newer_deploy
    a_repeated_apply_answers_the_same
    releasing_an_agent_frees_its_tools
    a_tool_may_be_bound_before_it_exists
    a_tools_url_is_the_same_for_who_creates_it_and_who_comes_later
    the_same_url_written_otherwise_is_the_same
}

async fn settling_drops_what_earlier_deploys_bound(registry: TestRegistry) {
    registry.deploy(&plan("a", [tool("x"), tool("y")], &["x"])).await;
    let (id, _) = registry.apply(&plan("a", [], &["y"])).await;
    assert!(registry.users("x").await.is_some(), "the serving revision still uses it");
    assert!(registry.users("y").await.is_some());
    registry.settle_tools(name("a"), id).await.unwrap();
    assert_eq!(registry.users("x").await, None);
    registry.deploy(&plan("a", [], &[])).await;
    assert_eq!(registry.users("y").await, None, "an empty list is a list");
}

async fn settling_keeps_bindings_that_did_not_change(registry: TestRegistry) {
    registry.deploy(&plan("a", [tool("x")], &["x"])).await;
    registry.deploy(&plan("a", [described(tool("x"), "New")], &["x"])).await;
    registry.deploy(&plan("a", [], &["x"])).await;
    registry.settle_tools(name("a"), OperationId::mint()).await.unwrap();
    assert_eq!(registry.users("x").await.as_deref(), Some("the agent \"a\""));
}

async fn settling_late_or_twice_does_not_touch_a_newer_deploy(registry: TestRegistry) {
    let (first, _) = registry.apply(&plan("a", [tool("x"), tool("y")], &["x"])).await;
    let e = registry.settle_tools(name("b"), first).await.unwrap_err();
    assert_eq!(e.code, Code::Conflict);
    registry.settle_tools(name("a"), first).await.unwrap();
    let (second, _) = registry.apply(&plan("a", [], &["y"])).await;
    registry.settle_tools(name("a"), first).await.unwrap();
    assert!(registry.users("y").await.is_some());
    registry.settle_tools(name("a"), second).await.unwrap();
    registry.settle_tools(name("a"), first).await.unwrap();
    assert!(registry.users("y").await.is_some());
    assert_eq!(registry.users("x").await, None);
}

async fn a_repeated_apply_answers_the_same(registry: TestRegistry) {
    let (operation, wanted) = (Operation::new(), plan("a", [tool("x")], &["x", "later"]));
    let first = registry.apply_tools(operation.clone(), wanted.clone()).await.unwrap();
    assert_eq!(first.created, [name("x")]);
    registry.create_tool(Operation::new(), tool("later")).await.unwrap();
    assert_eq!(registry.apply_tools(operation.clone(), wanted.clone()).await.unwrap(), first);
    let other = plan("a", [described(tool("x"), "New")], &["x", "later"]);
    assert_eq!(registry.apply_tools(operation.clone(), other).await.unwrap_err().code, Code::Conflict);
    registry.settle_tools(name("a"), operation.id).await.unwrap();
    assert_eq!(registry.apply_tools(operation, wanted.clone()).await.unwrap(), first);
    let now = registry.apply(&wanted).await.1;
    assert_eq!((now.created.len(), now.tools[1].url.as_deref()), (0, Some("https://later.example")));
}

async fn releasing_an_agent_frees_its_tools(registry: TestRegistry) {
    registry.deploy(&plan("a", [tool("x")], &["x"])).await;
    registry.deploy(&plan("b", [], &["x"])).await;
    let operation = Operation::new();
    for _ in 0..2 {
        registry.release_agent(operation.clone(), name("a")).await.unwrap();
    }
    assert_eq!(registry.users("x").await.as_deref(), Some("the agent \"b\""));
    registry.deploy(&plan("a", [], &["x"])).await;
    registry.release_agent(operation, name("a")).await.unwrap();
    assert!(registry.users("x").await.unwrap().contains("\"a\""), "a repetition does nothing");
    registry.release_agent(Operation::new(), name("a")).await.unwrap();
    registry.release_agent(Operation::new(), name("b")).await.unwrap();
    assert_eq!(registry.users("x").await, None);
}

async fn a_tool_may_be_bound_before_it_exists(registry: TestRegistry) {
    let applied = registry.deploy(&plan("a", [], &["later", "later"])).await;
    assert_eq!(applied.tools.len(), 2);
    assert_eq!(applied.tools[0].url, None);
    registry.create_tool(Operation::new(), tool("later")).await.unwrap();
    assert!(!registry.changed(&plan("a", [], &["later"])).await);
    assert_eq!(registry.users("later").await.as_deref(), Some("the agent \"a\""));
}

async fn a_tools_url_is_the_same_for_who_creates_it_and_who_comes_later(registry: TestRegistry) {
    let mut port = tool("x");
    (port.connection.base_url, port.connection.port) = ("https://x.example/v1".into(), 8443);
    let wanted = plan("a", [port], &["x"]);
    for _ in 0..2 {
        let url = registry.apply(&wanted).await.1.tools[0].url.clone();
        assert_eq!(url.as_deref(), Some("https://x.example:8443/v1"));
    }
}

async fn the_same_url_written_otherwise_is_the_same(registry: TestRegistry) {
    let written = |url: &str| {
        let mut tool = with_key(tool("x"), "sk");
        tool.connection.base_url = url.into();
        tool
    };
    registry.deploy(&plan("a", [written("https://x.example")], &["x"])).await;
    let before = registry.get_tool(name("x")).await.unwrap();
    for url in ["https://x.example/", "HTTPS://X.example:443"] {
        registry.apply(&plan("b", [written(url)], &["x"])).await;
        registry.create_tool(Operation::new(), written(url)).await.unwrap();
        assert_eq!(registry.get_tool(name("x")).await.unwrap(), before, "{url}");
    }
    let other = registry.create_tool(Operation::new(), written("https://x.example/v1")).await.unwrap_err();
    assert_eq!(other.code, Code::Conflict);
}
