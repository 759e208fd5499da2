//! Credentials as egress follows them: who may, what comes, and when.

use crate::test_registry::*;
use futures_util::StreamExt;
use hoistway_client::{ToolCredentialsClient, ToolRegistryClient};
use hoistway_kit::token::ServiceToken;
use hoistway_model::{
    Code, Name, Operation, Result, ToolCredentials, ToolRegistry,
    egress::{ModelProviderAccess, ToolAccess},
    page::PageQuery,
    tool::{AuthType, OAuth2},
    watch::{Update, Updates},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;

/// The time limit that the platform promises for a change.
const ONE_SECOND: Duration = Duration::from_secs(1);

async fn watch(registry: &TestRegistry) -> Updates<Name, ToolAccess> {
    let transport = registry.server().into_local_with(&registry.deps.egress_token);
    ToolCredentialsClient::new(transport).watch_tools().await.unwrap()
}

async fn next(updates: &mut Updates<Name, ToolAccess>) -> Update<Name, ToolAccess> {
    timeout(ONE_SECOND, updates.next()).await.unwrap().unwrap().unwrap()
}

/// The next change, which must be to this tool.
async fn changed(updates: &mut Updates<Name, ToolAccess>, tool: &str) -> ToolAccess {
    match next(updates).await {
        Update::Set(changed, access) if changed.as_str() == tool => access,
        other => panic!("{other:?}"),
    }
}

fn key(access: &ToolAccess) -> Option<&str> {
    access.credentials.get("api_key").map(|secret| secret.expose())
}

#[tokio::test]
async fn credentials_are_shown_to_egress_and_to_nobody_else() {
    let registry = TestRegistry::direct().await;
    registry.create_tool(Operation::new(), with_key(tool("t"), "sk-live")).await.unwrap();
    let code = async |token: &ServiceToken| {
        let client = ToolCredentialsClient::new(registry.server().into_local_with(token));
        client.watch_tools().await.map(drop).map_err(|e| e.code)
    };
    assert_eq!(code(&registry.deps.egress_token).await, Ok(()));
    assert_eq!(code(&registry.deps.token).await, Err(Code::PermissionDenied));
    assert_eq!(code(&ServiceToken::generate().unwrap()).await, Err(Code::Unauthenticated));
    let of_models = ToolCredentialsClient::new(registry.server().into_local_with(&registry.deps.token));
    let refused = of_models.watch_model_providers().await.map(drop).unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied);

    let registry = ToolRegistryClient::new(registry.server().into_local_with(&registry.deps.egress_token));
    let e = registry.list_tools(PageQuery::FIRST).await.unwrap_err();
    assert_eq!(e.code, Code::Unauthenticated, "the token of egress reads credentials and does nothing else");
}

#[tokio::test]
async fn every_tool_comes_first_with_its_credentials() {
    let registry = TestRegistry::direct().await;
    registry.create_tool(Operation::new(), with_key(in_header(tool("keyed")), "sk-live")).await.unwrap();
    let mut port = tool("open");
    (port.connection.auth_type, port.connection.port) = (AuthType::None, 8443);
    registry.create_tool(Operation::new(), port).await.unwrap();
    registry.seed_starter_kit(Operation::new()).await.unwrap();

    let mut updates = watch(&registry).await;
    let echo = changed(&mut updates, "echo-tool").await;
    assert_eq!((echo.url.as_str(), echo.auth_type, echo.credentials.len()), (INTERNAL_URL, AuthType::None, 0));
    let keyed = changed(&mut updates, "keyed").await;
    assert_eq!(
        (keyed.url.as_str(), keyed.auth_type, key(&keyed)),
        ("https://keyed.example", AuthType::ApiKey, Some("sk-live"))
    );
    assert_eq!(keyed.api_key, in_header(tool("keyed")).connection.api_key);
    assert!(!format!("{keyed:?}").contains("sk-live"));
    assert_eq!(changed(&mut updates, "open").await.url, "https://open.example:8443");
    assert_eq!(next(&mut updates).await, Update::Complete);
}

#[tokio::test]
async fn every_change_comes_within_a_second() {
    let registry = TestRegistry::direct().await;
    let mut updates = watch(&registry).await;
    assert_eq!(next(&mut updates).await, Update::Complete);

    registry.create_tool(Operation::new(), tool("t")).await.unwrap();
    assert_eq!(key(&changed(&mut updates, "t").await), None);
    registry.set_tool_credentials(Operation::new(), name("t"), api_key("first")).await.unwrap();
    assert_eq!(key(&changed(&mut updates, "t").await), Some("first"));
    registry.set_tool_credentials(Operation::new(), name("t"), api_key("second")).await.unwrap();
    assert_eq!(key(&changed(&mut updates, "t").await), Some("second"));
    registry.set_tool_credentials(Operation::new(), name("t"), BTreeMap::new()).await.unwrap();
    assert_eq!(key(&changed(&mut updates, "t").await), None);

    let update = hoistway_model::tool::ToolUpdate { tool: elsewhere(tool("t")), version: None };
    registry.update_tool(Operation::new(), update).await.unwrap();
    assert_eq!(changed(&mut updates, "t").await.url, "https://elsewhere.example");
    registry.delete_tool(Operation::new(), name("t")).await.unwrap();
    assert_eq!(next(&mut updates).await, Update::Removed(name("t")));

    // A tool that a deploy registers is there at once, and gone when the deploy is undone.
    let (applied, _) = registry.apply(&plan("a", [with_key(tool("u"), "of-deploy")], &["u"])).await;
    assert_eq!(key(&changed(&mut updates, "u").await), Some("of-deploy"));
    registry.undo_tools(applied).await.unwrap();
    assert_eq!(next(&mut updates).await, Update::Removed(name("u")));

    let mut client = tool("o");
    client.connection.auth_type = AuthType::OAuth2;
    let oauth2 = OAuth2 { token_url: "https://id.example/token".into(), scopes: vec!["read".into()] };
    client.connection.oauth2 = Some(oauth2.clone());
    registry.create_tool(Operation::new(), client).await.unwrap();
    assert_eq!(changed(&mut updates, "o").await.oauth2, Some(oauth2));
}

#[tokio::test]
async fn model_providers_come_with_their_keys_and_every_change_within_a_second() {
    let registry = TestRegistry::direct().await;
    registry.seed_starter_kit(Operation::new()).await.unwrap();
    let transport = registry.server().into_local_with(&registry.deps.egress_token);
    let mut updates = ToolCredentialsClient::new(transport).watch_model_providers().await.unwrap();
    let mut next = async || timeout(ONE_SECOND, updates.next()).await.unwrap().unwrap().unwrap();
    let expected = |name: Name, key: Option<&str>| ModelProviderAccess {
        name,
        provider: "openai".into(),
        endpoint: String::new(),
        models: vec!["gpt-4o-mini".into()],
        prices: Default::default(),
        timeout_seconds: None,
        retries: 0,
        credentials: key.map(api_key).unwrap_or_default(),
        demo: true,
    };
    let kit = name("playground-llm");
    assert_eq!(next().await, Update::Set(kit.clone(), expected(kit.clone(), None)));
    assert_eq!(next().await, Update::Complete);
    registry.set_model_provider_credentials(Operation::new(), kit.clone(), api_key("sk-live")).await.unwrap();
    let keyed = next().await;
    assert_eq!(keyed, Update::Set(kit.clone(), expected(kit.clone(), Some("sk-live"))));
    assert!(!format!("{keyed:?}").contains("sk-live"));
    registry.delete_model_provider(Operation::new(), kit.clone()).await.unwrap();
    assert_eq!(next().await, Update::Removed(kit));
}

#[tokio::test]
async fn a_watch_ends_with_the_service() {
    let registry = TestRegistry::direct().await;
    let mut updates = watch(&registry).await;
    assert_eq!(next(&mut updates).await, Update::Complete);
    registry.service.close_watches();
    let ended: Option<Result<_>> = timeout(ONE_SECOND, updates.next()).await.unwrap();
    assert!(ended.is_none());
}
