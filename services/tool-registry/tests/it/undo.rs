//! Undoing: only what the deploy made, as often as one likes, also before it arrives.

use crate::test_registry::*;
use hoistway_model::{Code, Operation, page::PageQuery};

crate::both_ways! {
    undo_takes_back_all_that_a_deploy_made
    undo_before_the_action_keeps_it_from_happening
    undo_again_does_nothing
    undo_leaves_tools_that_others_rely_on
    undo_leaves_tools_that_others_changed
    undo_deletes_a_tool_that_its_agent_had_waited_for
    undo_puts_updates_back_unless_they_were_written_over
    undo_of_nested_updates_unwinds_in_reverse
    undo_takes_added_credentials_back
    undo_of_a_built_in_tools_update_makes_it_built_in_again
    undo_after_settling_is_refused
    a_failed_apply_leaves_nothing
}

async fn undo_takes_back_all_that_a_deploy_made(registry: TestRegistry) {
    registry.deploy(&plan("a", [tool("x")], &["x"])).await;
    let before = registry.list_tools(PageQuery::FIRST).await.unwrap();
    let wanted = plan("a", [described(elsewhere(tool("x")), "New"), tool("y"), tool("z")], &["y"]);
    let (id, applied) = registry.apply(&wanted).await;
    assert_eq!(applied.created, [name("y"), name("z")]);
    registry.undo_tools(id).await.unwrap();
    let after = registry.list_tools(PageQuery::FIRST).await.unwrap();
    let plain = |tools: hoistway_model::page::Page<hoistway_model::tool::Tool>| {
        tools.items.into_iter().map(|t| (t.name, t.description, t.connection)).collect::<Vec<_>>()
    };
    assert_eq!(plain(after), plain(before));
    assert!(!registry.changed(&plan("a", [tool("x")], &["x"])).await, "the old bindings are still there");
    assert!(registry.users("x").await.is_some());
}

async fn undo_before_the_action_keeps_it_from_happening(registry: TestRegistry) {
    let operation = Operation::new();
    for _ in 0..2 {
        registry.undo_tools(operation.id).await.unwrap();
    }
    let e = registry.apply_tools(operation, plan("a", [tool("x")], &["x"])).await.unwrap_err();
    assert_eq!(e.code, Code::Aborted);
    assert!(registry.names().await.is_empty());
    assert!(!registry.changed(&plan("a", [], &[])).await);
}

async fn undo_again_does_nothing(registry: TestRegistry) {
    let (operation, wanted) = (Operation::new(), plan("a", [tool("x")], &["x"]));
    registry.apply_tools(operation.clone(), wanted.clone()).await.unwrap();
    registry.undo_tools(operation.id).await.unwrap();
    let e = registry.apply_tools(operation.clone(), wanted.clone()).await.unwrap_err();
    assert_eq!(e.code, Code::Aborted, "it is too late for a retry");
    registry.deploy(&wanted).await;
    registry.undo_tools(operation.id).await.unwrap();
    registry.settle_tools(name("a"), operation.id).await.unwrap();
    assert!(!registry.changed(&wanted).await);
}

async fn undo_leaves_tools_that_others_rely_on(registry: TestRegistry) {
    let wanted = plan("a", [tool("bound"), tool("adopted"), tool("registered"), tool("mine")], &["bound", "mine"]);
    let (id, _) = registry.apply(&wanted).await;
    registry.apply(&plan("b", [], &["bound"])).await;
    let adopting = plan("c", [tool("adopted")], &[]);
    assert!(registry.changed(&adopting).await, "relying on an unsettled tool is a change");
    assert_eq!(registry.deploy(&adopting).await.created, []);
    assert!(!registry.changed(&adopting).await);
    registry.create_tool(Operation::new(), tool("registered")).await.unwrap();
    registry.undo_tools(id).await.unwrap();
    assert_eq!(registry.names().await, ["adopted", "bound", "registered"]);
    assert_eq!(registry.users("bound").await.as_deref(), Some("the agent \"b\""));
}

async fn undo_leaves_tools_that_others_changed(registry: TestRegistry) {
    let (id, _) = registry.apply(&plan("a", [tool("x"), tool("y")], &["x"])).await;
    registry.deploy(&plan("b", [described(tool("x"), "Theirs")], &[])).await;
    assert_eq!(registry.users("y").await, None);
    let theirs = registry.create_tool(Operation::new(), tool("y")).await.unwrap();
    registry.undo_tools(id).await.unwrap();
    assert_eq!(registry.names().await, ["x", "y"]);
    assert_eq!(registry.get_tool(name("y")).await.unwrap(), theirs);
}

async fn undo_deletes_a_tool_that_its_agent_had_waited_for(registry: TestRegistry) {
    registry.deploy(&plan("a", [], &["x"])).await;
    let (id, applied) = registry.apply(&plan("a", [tool("x")], &["x"])).await;
    assert_eq!(applied.created, [name("x")]);
    registry.undo_tools(id).await.unwrap();
    assert!(registry.names().await.is_empty());
    assert!(!registry.changed(&plan("a", [], &["x"])).await);
}

async fn undo_puts_updates_back_unless_they_were_written_over(registry: TestRegistry) {
    registry.deploy(&plan("a", [tool("x"), tool("y")], &[])).await;
    let wanted = plan("a", [described(tool("x"), "A"), described(tool("y"), "A")], &[]);
    let (id, _) = registry.apply(&wanted).await;
    registry.deploy(&plan("b", [described(tool("y"), "B")], &[])).await;
    registry.undo_tools(id).await.unwrap();
    assert_eq!(registry.get_tool(name("x")).await.unwrap().description, "The tool x");
    assert_eq!(registry.get_tool(name("y")).await.unwrap().description, "B");

    let (id, _) = registry.apply(&plan("a", [described(tool("x"), "A")], &[])).await;
    assert_eq!(registry.users("x").await, None);
    registry.create_tool(Operation::new(), described(tool("x"), "A")).await.unwrap();
    registry.undo_tools(id).await.unwrap();
    assert_eq!(registry.get_tool(name("x")).await.unwrap().description, "A", "another tool of the same name");
}

async fn undo_of_nested_updates_unwinds_in_reverse(registry: TestRegistry) {
    let (created, _) = registry.apply(&plan("a", [tool("x")], &[])).await;
    let (updated, _) = registry.apply(&plan("b", [described(tool("x"), "B")], &[])).await;
    registry.undo_tools(updated).await.unwrap();
    assert_eq!(registry.get_tool(name("x")).await.unwrap().description, "The tool x");
    registry.undo_tools(created).await.unwrap();
    assert!(registry.names().await.is_empty());
}

async fn undo_takes_added_credentials_back(registry: TestRegistry) {
    registry.deploy(&plan("a", [tool("x")], &["x"])).await;
    let (id, _) = registry.apply(&plan("a", [with_key(tool("x"), "sk")], &["x"])).await;
    assert!(registry.get_tool(name("x")).await.unwrap().has_credentials);
    assert!(!registry.changed(&plan("a", [with_key(tool("x"), "sk")], &["x"])).await);
    registry.undo_tools(id).await.unwrap();
    assert!(!registry.get_tool(name("x")).await.unwrap().has_credentials);

    registry.deploy(&plan("a", [with_key(tool("x"), "sk")], &["x"])).await;
    let (id, _) = registry.apply(&plan("a", [described(tool("x"), "New")], &["x"])).await;
    registry.undo_tools(id).await.unwrap();
    let x = registry.get_tool(name("x")).await.unwrap();
    assert_eq!((x.description.as_str(), x.has_credentials), ("The tool x", true));
}

async fn undo_of_a_built_in_tools_update_makes_it_built_in_again(registry: TestRegistry) {
    registry.seed_starter_kit(Operation::new()).await.unwrap();
    let (id, applied) = registry.apply(&plan("a", [tool("echo-tool")], &["echo-tool"])).await;
    assert_eq!(applied.tools[0].url.as_deref(), Some("https://echo-tool.example"));
    registry.undo_tools(id).await.unwrap();
    let echo = registry.get_tool(name("echo-tool")).await.unwrap();
    assert_eq!((echo.connection.base_url.as_str(), echo.internal_url.as_str()), (PUBLIC_URL, INTERNAL_URL));
}

async fn undo_after_settling_is_refused(registry: TestRegistry) {
    let (id, _) = registry.apply(&plan("a", [tool("x")], &["x"])).await;
    registry.settle_tools(name("a"), id).await.unwrap();
    assert_eq!(registry.undo_tools(id).await.unwrap_err().code, Code::Conflict);
    assert_eq!(registry.users("x").await.as_deref(), Some("the agent \"a\""));
}

async fn a_failed_apply_leaves_nothing(registry: TestRegistry) {
    registry.deploy(&plan("b", [tool("x")], &["x"])).await;
    let operation = Operation::new();
    let wanted = plan("a", [tool("new"), elsewhere(tool("x"))], &["new"]);
    for _ in 0..2 {
        let e = registry.apply_tools(operation.clone(), wanted.clone()).await.unwrap_err();
        assert_eq!(e.code, Code::Conflict);
    }
    assert_eq!(registry.names().await, ["x"]);
    assert!(!registry.changed(&plan("a", [], &[])).await);
    registry.release_agent(Operation::new(), name("b")).await.unwrap();
    assert_eq!(registry.apply_tools(operation.clone(), wanted).await.unwrap().created, [name("new")]);
    registry.undo_tools(operation.id).await.unwrap();
    assert_eq!(registry.names().await, ["x"]);
}
