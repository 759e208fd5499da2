//! Which agent uses which tool: applied, settled, released.

use crate::world::*;
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

async fn settling_drops_what_earlier_deploys_bound(world: World) {
    world.deploy(&plan("a", [tool("x"), tool("y")], &["x"])).await;
    let (id, _) = world.apply(&plan("a", [], &["y"])).await;
    assert!(world.users("x").await.is_some(), "the serving revision still uses it");
    assert!(world.users("y").await.is_some());
    world.settle_tools(name("a"), id).await.unwrap();
    assert_eq!(world.users("x").await, None);
    world.deploy(&plan("a", [], &[])).await;
    assert_eq!(world.users("y").await, None, "an empty list is a list");
}

async fn settling_keeps_bindings_that_did_not_change(world: World) {
    world.deploy(&plan("a", [tool("x")], &["x"])).await;
    world.deploy(&plan("a", [described(tool("x"), "New")], &["x"])).await;
    world.deploy(&plan("a", [], &["x"])).await;
    world.settle_tools(name("a"), OperationId::mint()).await.unwrap();
    assert_eq!(world.users("x").await.as_deref(), Some("the agent \"a\""));
}

async fn settling_late_or_twice_does_not_touch_a_newer_deploy(world: World) {
    let (first, _) = world.apply(&plan("a", [tool("x"), tool("y")], &["x"])).await;
    let e = world.settle_tools(name("b"), first).await.unwrap_err();
    assert_eq!(e.code, Code::Conflict);
    world.settle_tools(name("a"), first).await.unwrap();
    let (second, _) = world.apply(&plan("a", [], &["y"])).await;
    world.settle_tools(name("a"), first).await.unwrap();
    assert!(world.users("y").await.is_some());
    world.settle_tools(name("a"), second).await.unwrap();
    world.settle_tools(name("a"), first).await.unwrap();
    assert!(world.users("y").await.is_some());
    assert_eq!(world.users("x").await, None);
}

async fn a_repeated_apply_answers_the_same(world: World) {
    let (operation, wanted) = (Operation::new(), plan("a", [tool("x")], &["x", "later"]));
    let first = world.apply_tools(operation.clone(), wanted.clone()).await.unwrap();
    assert_eq!(first.created, [name("x")]);
    world.create_tool(Operation::new(), tool("later")).await.unwrap();
    assert_eq!(world.apply_tools(operation.clone(), wanted.clone()).await.unwrap(), first);
    let other = plan("a", [described(tool("x"), "New")], &["x", "later"]);
    assert_eq!(world.apply_tools(operation.clone(), other).await.unwrap_err().code, Code::Conflict);
    world.settle_tools(name("a"), operation.id).await.unwrap();
    assert_eq!(world.apply_tools(operation, wanted.clone()).await.unwrap(), first);
    let now = world.apply(&wanted).await.1;
    assert_eq!((now.created.len(), now.tools[1].url.as_deref()), (0, Some("https://later.example")));
}

async fn releasing_an_agent_frees_its_tools(world: World) {
    world.deploy(&plan("a", [tool("x")], &["x"])).await;
    world.deploy(&plan("b", [], &["x"])).await;
    let operation = Operation::new();
    for _ in 0..2 {
        world.release_agent(operation.clone(), name("a")).await.unwrap();
    }
    assert_eq!(world.users("x").await.as_deref(), Some("the agent \"b\""));
    world.deploy(&plan("a", [], &["x"])).await;
    world.release_agent(operation, name("a")).await.unwrap();
    assert!(world.users("x").await.unwrap().contains("\"a\""), "a repetition does nothing");
    world.release_agent(Operation::new(), name("a")).await.unwrap();
    world.release_agent(Operation::new(), name("b")).await.unwrap();
    assert_eq!(world.users("x").await, None);
}

async fn a_tool_may_be_bound_before_it_exists(world: World) {
    let applied = world.deploy(&plan("a", [], &["later", "later"])).await;
    assert_eq!(applied.tools.len(), 2);
    assert_eq!(applied.tools[0].url, None);
    world.create_tool(Operation::new(), tool("later")).await.unwrap();
    assert!(!world.changed(&plan("a", [], &["later"])).await);
    assert_eq!(world.users("later").await.as_deref(), Some("the agent \"a\""));
}

async fn a_tools_url_is_the_same_for_who_creates_it_and_who_comes_later(world: World) {
    let mut port = tool("x");
    (port.connection.base_url, port.connection.port) = ("https://x.example/v1".into(), 8443);
    let wanted = plan("a", [port], &["x"]);
    for _ in 0..2 {
        let url = world.apply(&wanted).await.1.tools[0].url.clone();
        assert_eq!(url.as_deref(), Some("https://x.example:8443/v1"));
    }
}

async fn the_same_url_written_otherwise_is_the_same(world: World) {
    let written = |url: &str| {
        let mut tool = with_key(tool("x"), "sk");
        tool.connection.base_url = url.into();
        tool
    };
    world.deploy(&plan("a", [written("https://x.example")], &["x"])).await;
    let before = world.get_tool(name("x")).await.unwrap();
    for url in ["https://x.example/", "HTTPS://X.example:443"] {
        world.apply(&plan("b", [written(url)], &["x"])).await;
        world.create_tool(Operation::new(), written(url)).await.unwrap();
        assert_eq!(world.get_tool(name("x")).await.unwrap(), before, "{url}");
    }
    let other = world.create_tool(Operation::new(), written("https://x.example/v1")).await.unwrap_err();
    assert_eq!(other.code, Code::Conflict);
}
