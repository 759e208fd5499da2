//! Changing tools and their credentials, identity providers, and the master key under all of it.

use crate::test_registry::*;
use hoistway_kit::secrets::MasterKey;
use hoistway_model::{
    Code, Operation, Secret,
    tool::{AuthType, IdentityProvider, NewTool, OAuth2, ToolUpdate},
};

crate::both_ways! {
    an_owner_changes_a_tool_that_others_use
    stored_credentials_go_nowhere_else
    credentials_come_and_go
    an_update_that_was_made_from_something_older_is_refused
    identity_providers_are_replaced_and_deleted
}

fn anew(tool: NewTool) -> ToolUpdate {
    ToolUpdate { tool, version: None }
}

async fn an_owner_changes_a_tool_that_others_use(registry: TestRegistry) {
    registry.deploy(&plan("one", [tool("t")], &["t"])).await;
    registry.deploy(&plan("two", [], &["t"])).await;
    let operation = Operation::new();
    let mut wanted = described(elsewhere(in_header(tool("t"))), "New");
    wanted.labels.insert("team".into(), "a".into());
    let changed = registry.update_tool(operation.clone(), anew(wanted.clone())).await.unwrap();
    assert_eq!((&changed.connection, &changed.labels), (&wanted.connection, &wanted.labels));
    assert_eq!((changed.description.as_str(), changed.internal_url.as_str()), ("New", "https://elsewhere.example"));
    assert_eq!(registry.update_tool(operation, anew(wanted.clone())).await.unwrap(), changed);
    assert_eq!(registry.update_tool(Operation::new(), anew(wanted)).await.unwrap(), changed, "a no-op keeps its time");
    assert_eq!(registry.get_tool(name("t")).await.unwrap(), changed);
    let e = registry.update_tool(Operation::new(), anew(tool("no"))).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "tool \"no\" not found"));

    registry.seed_starter_kit(Operation::new()).await.unwrap();
    let echo = registry.get_tool(name("echo-tool")).await.unwrap();
    let same = NewTool { connection: echo.connection.clone(), ..described(tool("echo-tool"), "Mine") };
    let renamed = registry.update_tool(Operation::new(), anew(same)).await.unwrap();
    assert_eq!((renamed.internal_url.as_str(), renamed.description.as_str()), (INTERNAL_URL, "Mine"), "still built in");
    let own = registry.update_tool(Operation::new(), anew(tool("echo-tool"))).await.unwrap();
    assert_eq!(own.internal_url, "https://echo-tool.example");
}

async fn stored_credentials_go_nowhere_else(registry: TestRegistry) {
    registry.create_tool(Operation::new(), with_key(tool("t"), "sk")).await.unwrap();
    let mut http = tool("t");
    http.connection.base_url = "http://t.example".into();
    let mut port = tool("t");
    port.connection.port = 8443;
    let mut kind = tool("t");
    kind.connection.auth_type = AuthType::OAuth2;
    // A path of the host may be somebody else's, and the key was given for the one below which it was registered.
    let mut below = with_key(tool("t"), "sk");
    below.connection.base_url = "https://t.example/mine".into();
    let made = registry.update_tool(Operation::new(), anew(below)).await.unwrap();
    let urls = ["", "/mine/../other", "/mine/..%2Fother", "/mine2"].map(|path| format!("https://t.example{path}"));
    let paths = urls.map(|url| {
        let mut other = tool("t");
        other.connection.base_url = url;
        other
    });
    for moved in [elsewhere(tool("t")), http, port, kind].into_iter().chain(paths) {
        let e = registry.update_tool(Operation::new(), anew(moved)).await.unwrap_err();
        assert_eq!(e.code, Code::Conflict);
        assert!(e.message.contains("give them again in the same call, or take them away first"), "{e}");
        assert_eq!(registry.get_tool(name("t")).await.unwrap(), made);
    }
    // Below the same path, and another place in the request there.
    let mut path = in_header(tool("t"));
    path.connection.base_url = "https://t.example/mine/v2".into();
    let changed = registry.update_tool(Operation::new(), anew(path)).await.unwrap();
    assert_eq!(changed.credentials_set_at, made.credentials_set_at);
    // Whoever knows them may.
    let moved = registry.update_tool(Operation::new(), anew(with_key(elsewhere(tool("t")), "sk"))).await.unwrap();
    assert_eq!(moved.internal_url, "https://elsewhere.example");
    let mut in_query = in_header(elsewhere(tool("t")));
    in_query.connection.api_key.as_mut().unwrap().location = "Query".into();
    let e = registry.update_tool(Operation::new(), anew(in_query)).await.unwrap_err();
    assert_eq!(e.code, Code::Conflict, "a key in a URL is told to whoever reads logs: {e}");
    // Without them there is nothing to protect.
    registry.set_tool_credentials(Operation::new(), name("t"), Default::default()).await.unwrap();
    registry.update_tool(Operation::new(), anew(tool("t"))).await.unwrap();

    // A token endpoint is a place that secrets go to as well.
    let mut client = tool("c");
    client.connection.auth_type = AuthType::OAuth2;
    let mut knows = client.clone();
    knows.credentials =
        [("client_id", "i"), ("client_secret", "s")].map(|(k, v)| (k.to_owned(), Secret::new(v))).into();
    registry.create_tool(Operation::new(), knows.clone()).await.unwrap();
    let tokens = |mut tool: NewTool| {
        tool.connection.oauth2 =
            Some(OAuth2 { token_url: "https://id.example/token".into(), scopes: vec!["a".into()] });
        tool
    };
    for e in [
        registry.update_tool(Operation::new(), anew(tokens(client.clone()))).await.unwrap_err(),
        registry.create_tool(Operation::new(), tokens(client)).await.unwrap_err(),
    ] {
        assert_eq!(e.code, Code::Conflict, "{e}");
    }
    let complete = registry.create_tool(Operation::new(), tokens(knows.clone())).await.unwrap();
    assert_eq!(complete.connection, tokens(knows).connection);
    assert_eq!(registry.get_tool(name("c")).await.unwrap(), complete);
}

async fn credentials_come_and_go(registry: TestRegistry) {
    registry.create_tool(Operation::new(), tool("t")).await.unwrap();
    let none = || registry.set_tool_credentials(Operation::new(), name("t"), Default::default());
    let e = none().await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "a credential of tool \"t\" not found"));
    let set = registry.set_tool_credentials(Operation::new(), name("t"), api_key("one")).await.unwrap();
    assert!(set.has_credentials && set.credentials_set_at.is_some());
    registry.set_tool_credentials(Operation::new(), name("t"), api_key("two")).await.unwrap();
    assert!(registry.create_tool(Operation::new(), with_key(tool("t"), "one")).await.is_err());
    registry.create_tool(Operation::new(), with_key(tool("t"), "two")).await.unwrap();
    let wrong = [("client_id".to_owned(), Secret::new("s3cr3t"))].into();
    let e = registry.set_tool_credentials(Operation::new(), name("t"), wrong).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::InvalidArgument, "credentials: APIKey takes api_key"));
    let gone = none().await.unwrap();
    assert_eq!((gone.has_credentials, gone.credentials_set_at), (false, None));

    // A change that a deploy takes back does not bring anything back either.
    let (id, _) = registry.apply(&plan("one", [described(tool("t"), "Deploy's")], &["t"])).await;
    registry.set_tool_credentials(Operation::new(), name("t"), api_key("three")).await.unwrap();
    registry.undo_tools(id).await.unwrap();
    let kept = registry.get_tool(name("t")).await.unwrap();
    assert!(kept.has_credentials && kept.description == "Deploy's");
}

async fn an_update_that_was_made_from_something_older_is_refused(registry: TestRegistry) {
    let seen = registry.create_tool(Operation::new(), tool("t")).await.unwrap().version;
    let update = ToolUpdate { tool: described(tool("t"), "A"), version: Some(seen) };
    let now = registry.update_tool(Operation::new(), update.clone()).await.unwrap();
    assert_ne!(now.version, seen);
    let e = registry.update_tool(Operation::new(), update).await.unwrap_err();
    assert_eq!((e.code, registry.get_tool(name("t")).await.unwrap()), (Code::Aborted, now));
}

async fn identity_providers_are_replaced_and_deleted(registry: TestRegistry) {
    let operation = Operation::new();
    let put = registry.put_identity_provider(operation.clone(), identity("sso")).await.unwrap();
    let times = |p: &IdentityProvider| (p.created_at, p.updated_at);
    let (created_at, updated_at) = times(&put.value);
    assert!(put.created && created_at > 0);
    assert_eq!(put.value, IdentityProvider { created_at, updated_at, ..identity("sso") });
    assert_eq!(registry.put_identity_provider(operation, identity("sso")).await.unwrap(), put);
    let same = registry.put_identity_provider(Operation::new(), identity("sso")).await.unwrap();
    assert_eq!((same.created, same.value), (false, put.value));
    let other = IdentityProvider { audiences: Vec::new(), ..identity("sso") };
    let changed = registry.put_identity_provider(Operation::new(), other).await.unwrap().value;
    assert_eq!((changed.audiences.len(), changed.created_at), (0, created_at));
    registry.put_identity_provider(Operation::new(), identity("a-first")).await.unwrap();
    let names: Vec<_> = registry.list_identity_providers().await.unwrap().into_iter().map(|p| p.name).collect();
    assert_eq!(names, [name("a-first"), name("sso")]);
    let bad = IdentityProvider { issuer: " ".into(), ..identity("bad") };
    let e = registry.put_identity_provider(Operation::new(), bad).await.unwrap_err();
    assert_eq!(e.field.as_deref(), Some("spec.identityProvider.issuer"));
    let delete = Operation::new();
    for _ in 0..2 {
        registry.delete_identity_provider(delete.clone(), name("sso")).await.unwrap();
    }
    let e = registry.get_identity_provider(name("sso")).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "identity provider \"sso\" not found"));
    assert_eq!(
        registry.delete_identity_provider(Operation::new(), name("sso")).await.unwrap_err().code,
        Code::NotFound
    );
}

#[tokio::test]
async fn credentials_outlive_rotations_of_the_master_key() {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("master.key");
    let registry = TestRegistry::direct().await.restart_with(MasterKey::load_or_create(&file).unwrap()).await;
    // More than one batch.
    for i in 0..120 {
        registry.create_tool(Operation::new(), with_key(tool(&format!("t{i}")), "sk")).await.unwrap();
    }
    registry.create_model_provider(Operation::new(), keyed(provider("mine"), "mk")).await.unwrap();
    let repeated = Operation::new();
    let first = registry.create_tool(repeated.clone(), with_key(tool("last"), "sk")).await.unwrap();
    for _ in 0..2 {
        MasterKey::rotate(&file).unwrap();
    }
    let registry = registry.restart_with(MasterKey::load_or_create(&file).unwrap()).await;
    // Opening has sealed everything anew, so the old keys can go.
    assert!(MasterKey::drop_old(&file, None).unwrap());
    let registry = registry.restart_with(MasterKey::load_or_create(&file).unwrap()).await;
    for i in 0..120 {
        // The same credential again is a no-op, another one a conflict: it can be read.
        registry.create_tool(Operation::new(), with_key(tool(&format!("t{i}")), "sk")).await.unwrap();
    }
    let other = registry.create_tool(Operation::new(), with_key(tool("t7"), "other")).await.unwrap_err();
    assert_eq!(other.code, Code::Conflict);
    registry.create_model_provider(Operation::new(), keyed(provider("mine"), "mk")).await.unwrap();
    assert!(registry.create_model_provider(Operation::new(), keyed(provider("mine"), "no")).await.is_err());
    let again = registry.create_tool(repeated, with_key(tool("last"), "sk")).await.unwrap();
    assert_eq!(again, first, "an operation is known by its fingerprint, which no rotation changes");
}
