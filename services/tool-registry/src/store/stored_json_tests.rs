//! The JSON that databases hold. What earlier versions wrote must be read for ever, so these texts are never edited: a
//! new form gets a text of its own.

#![allow(clippy::unwrap_used)]

use super::{
    column_values::{read, write},
    deploy_effects::{Effects, Previous},
    entity::{application, tool},
    tests::{named, opened},
};
use hoistway_kit::db::execute_raw;
use hoistway_model::{
    Name, Operation, OperationId,
    tool::{
        ApiKeyLocation, AppliedTools, AuthType, BoundTool, Connection, IdentityProvider, ModelProvider, NewTool,
        OAuth2, Scheme, Tool, Upserted,
    },
};
use sea_orm::{ConnectionTrait, EntityTrait, QuerySelect};
use std::collections::BTreeMap;

const VERSION: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

const WITH_KEY: &str = r#"{"base_url":"https://api.stripe.example/v1","port":8443,"scheme":"HTTPS","auth_type":"APIKey","api_key":["Header","X-Key","Bearer "],"oauth2":null}"#;
const WITH_OAUTH2: &str = r#"{"base_url":"http://crm.example","port":80,"scheme":"HTTP","auth_type":"OAuth2","api_key":null,"oauth2":["https://login.example/token",["read","write"]]}"#;
const OPEN: &str =
    r#"{"base_url":"http://crm.example","port":80,"scheme":"HTTP","auth_type":"None","api_key":null,"oauth2":null}"#;

fn with_key() -> Connection {
    Connection {
        base_url: "https://api.stripe.example/v1".into(),
        port: 8443,
        scheme: Scheme::Https,
        auth_type: AuthType::ApiKey,
        api_key: Some(ApiKeyLocation {
            location: "Header".into(),
            name: "X-Key".into(),
            value_prefix: "Bearer ".into(),
        }),
        oauth2: None,
    }
}

fn open() -> Connection {
    Connection {
        base_url: "http://crm.example".into(),
        port: 80,
        scheme: Scheme::Http,
        auth_type: AuthType::None,
        api_key: None,
        oauth2: None,
    }
}

fn with_oauth2() -> Connection {
    let scopes = vec!["read".into(), "write".into()];
    let oauth2 = Some(OAuth2 { token_url: "https://login.example/token".into(), scopes });
    Connection { auth_type: AuthType::OAuth2, oauth2, ..open() }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), "pay".to_owned())])
}

fn version() -> OperationId {
    VERSION.parse().unwrap()
}

#[test]
fn connections_are_written_and_read() {
    for (value, text) in [(with_key(), WITH_KEY), (with_oauth2(), WITH_OAUTH2), (open(), OPEN)] {
        assert_eq!(write(&value).unwrap(), text);
        assert_eq!(read::<Connection>(text).unwrap(), value);
    }
    // From before there was OAuth 2.0.
    let older = |text: &str| read::<Connection>(&text.replace(r#","oauth2":null"#, "")).unwrap();
    assert_eq!((older(OPEN), older(WITH_KEY)), (open(), with_key()));
    for wrong in ["FTP", "HTTPX", ""] {
        let text = OPEN.replace(r#""HTTP""#, &format!("\"{wrong}\""));
        assert!(read::<Connection>(&text).is_err(), "{wrong}");
    }
}

#[test]
fn an_answer_with_a_tool_is_written_and_read() {
    let written = format!(
        r#"{{"name":"stripe","description":"Pays","connection":{WITH_KEY},"internal_url":"https://api.stripe.example:8443/v1","labels":{{"team":"pay"}},"has_credentials":true,"credentials_set_at":17,"version":"{VERSION}","created_at":11,"updated_at":12}}"#
    );
    let tool = Tool {
        name: named("stripe"),
        description: "Pays".into(),
        connection: with_key(),
        internal_url: "https://api.stripe.example:8443/v1".into(),
        labels: labels(),
        has_credentials: true,
        credentials_set_at: Some(17),
        version: version(),
        created_at: 11,
        updated_at: 12,
    };
    let answer = |text: &str| read::<Tool>(text).unwrap();
    assert_eq!(write(&tool).unwrap(), written);
    assert_eq!(answer(&written), tool);

    let older = written
        .replace(r#""credentials_set_at":17,"#, "")
        .replace(&format!(r#""version":"{VERSION}","#), "")
        .replace(r#","oauth2":null"#, "");
    let read = answer(&older);
    assert_eq!(read, Tool { credentials_set_at: None, version: read.version, ..tool });
    assert_ne!(read.version, answer(&older).version, "no tool has the version of an answer without one");
}

#[test]
fn an_answer_with_a_model_provider_is_written_and_read() {
    let prices = r#"{"gpt":{"input":"2.5","cached_input":"1.25","output":"10"}}"#;
    let written = format!(
        r#"{{"name":"azure","provider":"openai","endpoint":"https://llm.example","models":["gpt"],"prices":{prices},"timeout_seconds":30,"retries":2,"labels":{{"team":"pay"}},"credentials_set_at":17,"created_at":11,"updated_at":12}}"#
    );
    let provider = ModelProvider {
        name: named("azure"),
        provider: "openai".into(),
        endpoint: "https://llm.example".into(),
        models: vec!["gpt".into()],
        prices: read(prices).unwrap(),
        timeout_seconds: Some(30),
        retries: 2,
        labels: labels(),
        credentials_set_at: Some(17),
        created_at: 11,
        updated_at: 12,
    };
    assert_eq!(write(&provider).unwrap(), written);
    assert_eq!(read::<ModelProvider>(&written).unwrap(), provider);

    let upserted = Upserted { value: provider.clone(), created: true };
    let text = format!(r#"{{"value":{written},"created":true}}"#);
    assert_eq!(write(&upserted).unwrap(), text);
    assert_eq!(read::<Upserted<ModelProvider>>(&text).unwrap(), upserted);

    let older = r#"{"name":"azure","provider":"openai","endpoint":"https://llm.example","models":["gpt"],"labels":{"team":"pay"},"created_at":11}"#;
    let unsaid = ModelProvider {
        prices: BTreeMap::new(),
        timeout_seconds: None,
        retries: 0,
        credentials_set_at: None,
        updated_at: 0,
        ..provider
    };
    assert_eq!(read::<ModelProvider>(older).unwrap(), unsaid);
}

#[test]
fn an_answer_with_an_identity_provider_is_written_and_read() {
    let text = r#"{"value":{"name":"okta","host":"app.example:8443","issuer":"https://okta.example","jwks_uri":"","audiences":["app"],"user_id_claim":"sub","allowed_domains":["example.com"],"labels":{"team":"pay"},"created_at":11,"updated_at":12},"created":false}"#;
    let value = IdentityProvider {
        name: named("okta"),
        host: "app.example:8443".into(),
        issuer: "https://okta.example".into(),
        jwks_uri: String::new(),
        audiences: vec!["app".into()],
        user_id_claim: "sub".into(),
        allowed_domains: vec!["example.com".into()],
        labels: labels(),
        created_at: 11,
        updated_at: 12,
    };
    let upserted = Upserted { value, created: false };
    assert_eq!(write(&upserted).unwrap(), text);
    assert_eq!(read::<Upserted<IdentityProvider>>(text).unwrap(), upserted);
}

#[test]
fn an_answer_with_a_deploys_tools_is_written_and_read() {
    let text = r#"{"created":["stripe"],"tools":[{"name":"stripe","url":"https://api.stripe.example"},{"name":"later","url":null}]}"#;
    let tools = vec![
        BoundTool { name: named("stripe"), url: Some("https://api.stripe.example".into()) },
        BoundTool { name: named("later"), url: None },
    ];
    let applied = AppliedTools { created: vec![named("stripe")], tools };
    assert_eq!(write(&applied).unwrap(), text);
    assert_eq!(read::<AppliedTools>(text).unwrap(), applied);
    // Older versions wrote tools as arrays.
    let older = r#"{"created":["stripe"],"tools":[["stripe","https://api.stripe.example"],["later",null]]}"#;
    assert_eq!(read::<AppliedTools>(older).unwrap(), applied);
}

#[test]
fn deploy_effects_round_trip() {
    let text = format!(
        r#"{{"created":["stripe"],"updated":[{{"tool":"crm","description":"Customers","connection":{WITH_OAUTH2},"builtin":null,"written_by":"{VERSION}","without_credentials":true}},{{"tool":"echo-tool","description":"","connection":{OPEN},"builtin":"echo","written_by":"{VERSION}","without_credentials":false}}],"bound":true}}"#
    );
    let previous = |tool, description: &str, connection, builtin: Option<&str>, without_credentials| Previous {
        tool: named(tool),
        description: description.into(),
        connection,
        builtin: builtin.map(Into::into),
        written_by: version(),
        without_credentials,
    };
    let effects = Effects {
        created: vec![named("stripe")],
        updated: vec![
            previous("crm", "Customers", with_oauth2(), None, true),
            previous("echo-tool", "", open(), Some("echo"), false),
        ],
        bound: true,
    };
    assert_eq!(write(&effects).unwrap(), text);
    assert_eq!(read::<Effects>(&text).unwrap(), effects);
    assert_eq!(read::<Effects>(&text.replace(r#","oauth2":null"#, "")).unwrap(), effects);
}

#[tokio::test]
async fn stored_deploy_effects_can_be_undone() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(dir.path()).await;
    let applied = OperationId::mint();
    let new = NewTool {
        name: named("crm"),
        description: "New".into(),
        connection: open(),
        labels: BTreeMap::new(),
        credentials: BTreeMap::new(),
    };
    store.create_tool(&Operation { id: applied, ..Operation::new() }, &new).await.unwrap();
    let effects = format!(
        r#"{{"created":[],"updated":[{{"tool":"crm","description":"Customers","connection":{WITH_OAUTH2},"builtin":null,"written_by":"{VERSION}","without_credentials":true}}],"bound":false}}"#
    );
    let insert = format!("INSERT INTO applications VALUES ('{applied}', 'a', '{effects}', FALSE, 1)");
    store.db.write().execute_unprepared(&insert).await.unwrap();
    store.undo(applied).await.unwrap();
    let tool = store.get_tool(&named("crm")).await.unwrap();
    assert_eq!((tool.description.as_str(), tool.connection, tool.version), ("Customers", with_oauth2(), version()));
    assert!(application::Entity::find().one(store.db.read()).await.unwrap().is_none());
}

#[tokio::test]
async fn oauth2_settings_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(dir.path()).await;
    let new = |name: Name, connection: Connection| {
        let (labels, credentials) = (BTreeMap::new(), BTreeMap::new());
        NewTool { name, description: String::new(), connection, labels, credentials }
    };
    store.create_tool(&Operation::new(), &new(named("crm"), with_oauth2())).await.unwrap();
    let column = tool::Entity::find().select_only().column(tool::Column::Oauth2).into_tuple::<Option<String>>();
    let written = column.one(store.db.read()).await.unwrap().flatten();
    let text = r#"["https://login.example/token",["read","write"]]"#;
    assert_eq!(written.as_deref(), Some(text));

    store.create_tool(&Operation::new(), &new(named("older"), open())).await.unwrap();
    let older = format!("UPDATE tools SET auth_type = 'OAuth2', oauth2 = '{text}' WHERE name = 'older'");
    store.db.write().execute_unprepared(&older).await.unwrap();
    assert_eq!(store.get_tool(&named("older")).await.unwrap().connection, with_oauth2());
}

#[tokio::test]
async fn a_call_that_is_made_again_gets_the_answer_that_an_older_version_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(dir.path()).await;
    let (operation, name) = (Operation::new(), named("stripe"));
    let new = NewTool {
        name: name.clone(),
        description: "Pays".into(),
        connection: with_key(),
        labels: labels(),
        credentials: BTreeMap::new(),
    };
    store.create_tool(&operation, &new).await.unwrap();
    let answer = format!(
        r#"{{"name":"stripe","description":"Once","connection":{WITH_KEY},"internal_url":"https://x","labels":{{}},"has_credentials":false,"created_at":11,"updated_at":12}}"#
    );
    let values = [answer.into_bytes().into(), operation.id.to_string().into()];
    execute_raw(store.db.write(), "UPDATE operations SET response = $1 WHERE id = $2", values).await.unwrap();
    let again = store.create_tool(&operation, &new).await.unwrap();
    assert_eq!((again.description.as_str(), again.connection, again.created_at), ("Once", with_key(), 11));
}
