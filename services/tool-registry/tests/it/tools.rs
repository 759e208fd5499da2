//! Tools one by one, the starter kit, and what deploys may do to tools that exist.

use crate::test_registry::*;
use hoistway_model::{
    Code, Operation,
    tool::{AuthType, BoundTool, DEMO_LABEL, Scheme},
};

crate::both_ways! {
    a_tool_is_registered_shown_and_deleted
    registering_the_same_again_is_a_no_op_and_may_complete_it
    a_repeated_call_answers_the_same_and_another_payload_is_refused
    unusable_tools_are_refused_by_field
    the_starter_kit_leaves_what_exists
    a_deploy_creates_updates_and_finds_tools
    an_endpoint_changes_only_while_nobody_else_relies_on_it
    a_deploy_keeps_what_it_cannot_say
    the_dry_run_says_what_applying_does
}

async fn a_tool_is_registered_shown_and_deleted(registry: TestRegistry) {
    let made = registry.create_tool(Operation::new(), with_key(in_header(tool("stripe-api")), "sk")).await.unwrap();
    assert!(made.has_credentials && made.created_at > 0 && made.updated_at == made.created_at);
    assert_eq!(
        (&made.connection, &made.internal_url),
        (&in_header(tool("stripe-api")).connection, &made.connection.base_url)
    );
    assert_eq!(registry.get_tool(name("stripe-api")).await.unwrap(), made);
    registry.create_tool(Operation::new(), tool("a-tool")).await.unwrap();
    assert_eq!(registry.names().await, ["a-tool", "stripe-api"]);

    assert_eq!(registry.users("stripe-api").await, None);
    let gone = registry.get_tool(name("stripe-api")).await.unwrap_err();
    assert_eq!((gone.code, gone.message.as_str()), (Code::NotFound, "tool \"stripe-api\" not found"));
    let gone = registry.delete_tool(Operation::new(), name("stripe-api")).await.unwrap_err();
    assert_eq!(gone.code, Code::NotFound);
}

async fn registering_the_same_again_is_a_no_op_and_may_complete_it(registry: TestRegistry) {
    let first = registry.create_tool(Operation::new(), tool("t")).await.unwrap();
    assert_eq!(registry.create_tool(Operation::new(), tool("t")).await.unwrap(), first);
    let complete = with_key(in_header(tool("t")), "sk");
    let second = registry.create_tool(Operation::new(), complete.clone()).await.unwrap();
    assert!(second.has_credentials && second.connection.api_key.is_some());
    assert_eq!(registry.create_tool(Operation::new(), complete.clone()).await.unwrap(), second);

    let definition = "another definition; PUT /api/tools/t changes it";
    for (other, what) in [
        (tool("t"), definition),
        (elsewhere(complete.clone()), definition),
        (described(complete.clone(), "Other"), definition),
        (with_key(complete, "other"), "other credentials; PUT /api/tools/t/credentials replaces them"),
    ] {
        let e = registry.create_tool(Operation::new(), other).await.unwrap_err();
        assert_eq!((e.code, e.message), (Code::Conflict, format!("tool \"t\" already exists with {what}")));
    }
    assert_eq!(registry.get_tool(name("t")).await.unwrap(), second);
}

async fn a_repeated_call_answers_the_same_and_another_payload_is_refused(registry: TestRegistry) {
    let (create, delete) = (Operation::new(), Operation::new());
    let made = registry.create_tool(create.clone(), with_key(tool("t"), "sk")).await.unwrap();
    for _ in 0..2 {
        registry.delete_tool(delete.clone(), name("t")).await.unwrap();
    }
    assert_eq!(registry.create_tool(create.clone(), with_key(tool("t"), "sk")).await.unwrap(), made);
    assert!(registry.names().await.is_empty(), "a stored answer is no new action");
    let e = registry.create_tool(create.clone(), with_key(tool("t"), "other")).await.unwrap_err();
    assert_eq!(e.code, Code::Conflict);
    assert_eq!(registry.delete_tool(create, name("t")).await.unwrap_err().code, Code::Conflict);

    let seed = Operation::new();
    registry.seed_starter_kit(seed.clone()).await.unwrap();
    let measured = hoistway_kit::metrics::text(registry.tool_metrics().await.unwrap().of_service);
    for line in [
        "hoistway_registered{kind=\"tool\"} 1",
        "hoistway_registered{kind=\"model_provider\"} 1",
        "hoistway_registered{kind=\"identity_provider\"} 0",
    ] {
        assert!(measured.lines().any(|l| l == line), "{line}\n{measured}");
    }
    assert_eq!(registry.users("echo-tool").await, None);
    registry.seed_starter_kit(seed).await.unwrap();
    assert!(registry.names().await.is_empty());
}

async fn unusable_tools_are_refused_by_field(registry: TestRegistry) {
    let mut no_port = tool("t");
    no_port.connection.port = 0;
    let mut no_url = tool("t");
    no_url.connection.base_url = " ".into();
    let too_long = described(tool("t"), &"x".repeat(70_000));
    for (bad, member) in [(no_port, "port"), (no_url, "base_url"), (too_long, "description")] {
        let e = registry.create_tool(Operation::new(), bad.clone()).await.unwrap_err();
        assert_eq!((e.code, e.field.as_deref()), (Code::InvalidArgument, Some(member)));
        let e = registry.fails(&plan("a", [tool("fine"), bad], &[])).await;
        assert_eq!(e.field, Some(format!("tools_to_create[1].{member}")));
    }
    let e = registry.fails(&plan("a", [tool("t"), tool("t")], &[])).await;
    assert_eq!(e.field.as_deref(), Some("tools_to_create[1].name"));
    assert!(registry.names().await.is_empty());
}

async fn the_starter_kit_leaves_what_exists(registry: TestRegistry) {
    registry.seed_starter_kit(Operation::new()).await.unwrap();
    let echo = registry.get_tool(name("echo-tool")).await.unwrap();
    assert_eq!(echo.connection.base_url, PUBLIC_URL);
    assert_eq!((echo.connection.port, echo.connection.scheme), (18094, Scheme::Http));
    assert_eq!((echo.connection.auth_type, echo.internal_url.as_str()), (AuthType::None, INTERNAL_URL));
    assert_eq!(echo.labels.get(DEMO_LABEL).map(String::as_str), Some("true"));
    let llm = registry.get_model_provider(name("playground-llm")).await.unwrap();
    assert_eq!((llm.provider.as_str(), llm.endpoint.as_str()), ("openai", ""));
    assert_eq!(llm.models, ["gpt-4o-mini"]);
    assert_eq!(llm.labels, echo.labels);

    registry.seed_starter_kit(Operation::new()).await.unwrap();
    assert_eq!(registry.get_tool(name("echo-tool")).await.unwrap(), echo);

    assert_eq!(registry.users("echo-tool").await, None);
    let own = registry.create_tool(Operation::new(), tool("echo-tool")).await.unwrap();
    registry.delete_model_provider(Operation::new(), name("playground-llm")).await.unwrap();
    registry.seed_starter_kit(Operation::new()).await.unwrap();
    assert_eq!(registry.get_tool(name("echo-tool")).await.unwrap(), own);
    assert_eq!(own.internal_url, "https://echo-tool.example");
    registry.get_model_provider(name("playground-llm")).await.unwrap();
}

async fn a_deploy_creates_updates_and_finds_tools(registry: TestRegistry) {
    registry.seed_starter_kit(Operation::new()).await.unwrap();
    let wanted = plan("pay", [tool("b"), tool("a")], &["echo-tool", "b", "nowhere"]);
    let tools = [("echo-tool", Some(INTERNAL_URL)), ("b", Some("https://b.example")), ("nowhere", None)]
        .map(|(n, url)| BoundTool { name: name(n), url: url.map(Into::into) });
    assert_eq!(registry.look(&wanted).await.unwrap().tools, tools);
    let applied = registry.deploy(&wanted).await;
    assert_eq!((applied.created, applied.tools), (vec![name("b"), name("a")], tools.to_vec()));
    assert!(registry.get_tool(name("a")).await.unwrap().labels.is_empty());
    assert_eq!(registry.users("a").await, None, "created, not bound");
    assert_eq!(registry.users("b").await.as_deref(), Some("the agent \"pay\""));

    assert!(registry.changed(&wanted).await, "a is missing again");
    let again = registry.deploy(&wanted).await;
    assert_eq!(again.created, [name("a")]);
    assert!(!registry.changed(&wanted).await);
    assert_eq!(registry.deploy(&wanted).await.created, []);

    let renamed = plan("pay", [described(tool("b"), "New"), tool("a")], &["echo-tool", "b", "nowhere"]);
    assert!(registry.changed(&renamed).await);
    assert_eq!(registry.deploy(&renamed).await.created, []);
    let b = registry.get_tool(name("b")).await.unwrap();
    assert_eq!(b.description, "New");
    assert!(b.updated_at >= b.created_at);
}

async fn an_endpoint_changes_only_while_nobody_else_relies_on_it(registry: TestRegistry) {
    registry.deploy(&plan("one", [tool("t")], &["t"])).await;
    let moved = plan("one", [elsewhere(tool("t"))], &["t"]);
    let url = Some("https://elsewhere.example".to_owned());
    assert_eq!(registry.look(&moved).await.unwrap().tools[0].url, url);
    let applied = registry.deploy(&moved).await;
    assert_eq!((applied.created.len(), &applied.tools[0].url), (0, &url));

    registry.deploy(&plan("two", [], &["t"])).await;
    registry.deploy(&plan("three", [], &["t"])).await;
    let e = registry.fails(&plan("one", [tool("new"), tool("t")], &["t"])).await;
    assert_eq!(e.code, Code::Conflict);
    assert!(e.message.starts_with("failed to create tool \"t\": "), "{e}");
    assert!(e.message.contains("used by the agents \"three\", \"two\";"), "{e}");
    assert_eq!(registry.names().await, ["t"], "all or nothing");
    registry.deploy(&plan("one", [described(elsewhere(tool("t")), "New")], &["t"])).await;

    registry.create_tool(Operation::new(), with_key(tool("k"), "sk")).await.unwrap();
    let e = registry.fails(&plan("one", [elsewhere(tool("k"))], &["k"])).await;
    assert_eq!(e.code, Code::Conflict);
    assert!(e.message.starts_with("failed to create tool \"k\": ") && e.message.contains("holds credentials"), "{e}");
    let e = registry.fails(&plan("one", [with_key(tool("k"), "other")], &["k"])).await;
    assert!(e.message.contains("holds other credentials"), "{e}");
    assert!(!e.message.contains("sk"));
}

async fn a_deploy_keeps_what_it_cannot_say(registry: TestRegistry) {
    let complete = with_key(in_header(tool("t")), "sk");
    let made = registry.create_tool(Operation::new(), complete).await.unwrap();
    registry.deploy(&plan("one", [tool("t")], &["t"])).await;
    assert_eq!(registry.get_tool(name("t")).await.unwrap(), made);
    registry.deploy(&plan("one", [described(tool("t"), "New")], &["t"])).await;
    let updated = registry.get_tool(name("t")).await.unwrap();
    assert_eq!((updated.connection, updated.has_credentials), (made.connection, true));
}

async fn the_dry_run_says_what_applying_does(registry: TestRegistry) {
    assert!(!registry.changed(&plan("a", [], &[])).await, "an agent without tools");
    let wanted = plan("a", [tool("t")], &["t"]);
    assert!(registry.changed(&wanted).await);
    assert!(registry.changed(&wanted).await, "looking changes nothing");
    let (id, _) = registry.apply(&wanted).await;
    assert!(registry.changed(&wanted).await, "another deploy has not settled");
    registry.settle_tools(name("a"), id).await.unwrap();
    assert!(!registry.changed(&wanted).await);
    assert!(!registry.changed(&plan("a", [], &["t"])).await);
    assert!(registry.changed(&plan("a", [tool("t")], &[])).await);
    assert!(registry.changed(&plan("a", [tool("t")], &["t", "u"])).await);
    assert!(registry.changed(&plan("b", [], &["t"])).await);

    registry.create_model_provider(Operation::new(), provider("mine")).await.unwrap();
    let asked = ["openai", "mine", "Not A Name"].map(str::to_owned).to_vec();
    let resolved = registry.resolve(wanted.clone(), asked, None).await.unwrap();
    assert_eq!((resolved.providers, resolved.identity_provider_known), (vec!["mine".to_owned()], true));
    let resolved = registry.resolve(wanted, Vec::new(), Some(name("okta"))).await.unwrap();
    assert!(!resolved.identity_provider_known);
    registry.put_identity_provider(Operation::new(), identity("okta")).await.unwrap();
    let resolved = registry.resolve(plan("a", [], &[]), Vec::new(), Some(name("okta"))).await.unwrap();
    assert!(resolved.identity_provider_known);
}
