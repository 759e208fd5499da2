//! `/api/keys`.

use crate::test_gateway::{TestGateway, database};
use hoistway_gateway::{
    access_control::{Access, AccessLimits},
    keys::{NewKey, Scope, Scopes},
    state::Limits,
};
use hoistway_kit::{time::now_ms, token::ApiKey};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

#[tokio::test]
async fn a_key_is_created_used_and_revoked() {
    let gateway = TestGateway::start().await;
    let body =
        json!({"name": " ci ", "scopes": ["DEPLOY", "invoke"], "expires_at": "2999-01-01T00:00:00+01:00", "x": 1});
    let made = gateway.post("/api/keys", body).await;
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"));
    let mut view = made.json();
    let key = view["key"].take().as_str().unwrap().to_owned();
    let id = view["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/api/keys/{id}"));
    assert!(key.starts_with("hw_") && key.len() == 46);
    assert_eq!((&view["name"], &view["prefix"]), (&json!("ci"), &json!(key[..11])));
    assert_eq!((&view["scopes"], &view["created_by"]), (&json!(["deploy", "invoke"]), &json!("installation")));
    assert_eq!(view["expires_at"], "2998-12-31T23:00:00.000Z");
    assert_eq!(view["warnings"], json!(["unknown field \"x\" is ignored"]));
    assert_eq!((&view["last_used_at"], &view["revoked_at"]), (&Value::Null, &Value::Null));

    for (name, value) in [("authorization", format!("Bearer {key}")), ("x-runagents-api-key", key.clone())] {
        assert_eq!(gateway.call_with("GET", "/api/agents", "", &[(name, &value)]).await.status, 200);
    }
    let seen = gateway.get(&format!("/api/keys/{id}")).await;
    let used = seen.json()["last_used_at"].as_str().unwrap().to_owned();
    assert!(used.ends_with(":00.000Z"), "to the minute: {used}");
    let list = gateway.get("/api/v1/keys").await;
    let ids: Vec<_> = list.json().as_array().unwrap().iter().map(|k| k["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [id.as_str(), "installation"]);
    for text in [&seen.text, &list.text] {
        assert!(!text.contains(&key) && !text.contains("hash"), "{text}");
    }

    for _ in 0..2 {
        let revoked = gateway.call("DELETE", &format!("/api/keys/{id}"), "").await;
        assert_eq!((revoked.status, revoked.text.as_str()), (200, r#"{"status":"deleted"}"#));
    }
    let refused = gateway.call_as(&key, "GET", "/api/agents", "").await;
    assert_eq!(refused.error(), "401 unauthenticated the API key has been revoked");
    let kept = gateway.get(&format!("/api/keys/{id}")).await.json();
    assert!(kept["revoked_at"].is_string() && kept["name"] == "ci");
    for path in ["/api/keys/7", "/api/keys/01a2092d-b570-76eb-887a-3ce8dec8c3e1"] {
        let id = path.rsplit('/').next().unwrap();
        assert_eq!(gateway.get(path).await.error(), format!("404 not_found key \"{id}\" not found"));
        assert_eq!(gateway.call("DELETE", path, "").await.status, 404);
    }
}

#[tokio::test]
async fn the_installations_key_is_replaced_by_its_file_alone() {
    let gateway = TestGateway::start().await;
    let refused = gateway.call("DELETE", "/api/keys/installation", "").await.error();
    assert!(
        refused.starts_with("409 conflict this is the key in the installation's file: to replace it, stop"),
        "{refused}"
    );
    let seen = gateway.get("/api/keys/installation").await.json();
    assert_eq!((&seen["scopes"], &seen["prefix"]), (&json!(["admin"]), &json!(gateway.key[..11])));
}

#[tokio::test]
async fn wrong_bodies_are_refused_with_the_field() {
    let gateway = TestGateway::start().await;
    let scopes = json!(["read"]);
    for (body, message) in [
        (json!({}), "name: is required"),
        (json!({"name": " ", "scopes": scopes}), "name: is required"),
        (json!({"name": "x".repeat(101), "scopes": scopes}), "name: must be at most 100 characters on one line"),
        (json!({"name": "a\nb", "scopes": scopes}), "name: must be at most 100 characters on one line"),
        (json!({"name": "a"}), "scopes: is required: any of read, deploy, invoke, admin"),
        (json!({"name": "a", "scopes": []}), "scopes: is required: any of read, deploy, invoke, admin"),
        (json!({"name": "a", "scopes": "read"}), "scopes: must be a list, not a string"),
        (
            json!({"name": "a", "scopes": ["read", "root"]}),
            "scopes[1]: \"root\" is not one of read, deploy, invoke, admin",
        ),
        (
            json!({"name": "a", "scopes": scopes, "expires_at": "tomorrow"}),
            "expires_at: \"tomorrow\" is not a time such as \"2031-01-01T00:00:00Z\"",
        ),
        (json!({"name": "a", "scopes": scopes, "expires_at": 1}), "expires_at: must be a string, not a number"),
        (
            json!({"name": "a", "scopes": scopes, "expires_at": "1999-12-31T23:59:59Z"}),
            "expires_at: \"1999-12-31T23:59:59Z\" has passed",
        ),
    ] {
        assert_eq!(gateway.post("/api/keys", body).await.error(), format!("400 invalid_argument {message}"));
    }
    assert_eq!(gateway.get("/api/keys").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn each_scope_opens_its_routes_alone() {
    let gateway = TestGateway::start().await;
    let table = [
        ("GET", "/api/agents", "read"),
        ("HEAD", "/api/v1/tools", "read"),
        ("POST", "/api/deploy", "deploy"),
        ("DELETE", "/api/agents/a", "deploy"),
        ("POST", "/api/tools", "deploy"),
        ("POST", "/api/starter-kit", "deploy"),
        ("POST", "/api/agents/a/invoke", "invoke"),
        ("POST", "/api/v1/agents/a/invoke/stream", "invoke"),
        ("PUT", "/api/tools/a", "deploy"),
        ("PUT", "/api/tools/a/credentials", "admin"),
        ("DELETE", "/api/tools/a/credentials", "admin"),
        ("POST", "/api/tools/a/check", "admin"),
        ("POST", "/api/model-providers", "deploy"),
        ("PUT", "/api/model-providers/a/credentials", "admin"),
        ("DELETE", "/api/v1/model-providers/a/credentials", "admin"),
        ("POST", "/api/model-providers/a/check", "admin"),
        ("GET", "/api/identity-providers", "read"),
        ("POST", "/api/identity-providers", "admin"),
        ("PUT", "/api/identity-providers/a", "admin"),
        ("DELETE", "/api/identity-providers/a", "admin"),
        ("PUT", "/api/agents/a/budget", "admin"),
        ("DELETE", "/api/agents/a/budget", "admin"),
        ("GET", "/api/keys", "admin"),
        ("POST", "/api/keys", "admin"),
        ("DELETE", "/api/keys/installation", "admin"),
        ("GET", "/api/audit", "admin"),
        // An undeclared route is for administrators only.
        ("PUT", "/api/deploy", "admin"),
    ];
    for (scope, also) in
        [("read", vec![]), ("deploy", vec!["read"]), ("invoke", vec![]), ("admin", vec!["read", "deploy", "invoke"])]
    {
        let (_, key) = gateway.make_key(&format!("the {scope} key"), &[scope]).await;
        for (method, path, needed) in table {
            let answer = gateway.call_as(&key, method, path, "").await;
            let allowed = scope == needed || also.contains(&needed);
            assert_eq!(answer.status != 403, allowed, "{method} {path} with {scope}: {}", answer.text);
            if !allowed && method != "HEAD" {
                let text =
                    format!("the API key \"the {scope} key\" does not have the scope \"{needed}\", which this needs");
                assert_eq!(answer.error(), format!("403 permission_denied {text}"));
            }
        }
        // Every key may learn that a path does not exist.
        assert_eq!(gateway.call_as(&key, "GET", "/api/nothing", "").await.status, 404);
    }
    let (_, key) = gateway.make_key("both", &["read", "invoke"]).await;
    assert_eq!(gateway.call_as(&key, "GET", "/api/agents", "").await.status, 200);
    assert_eq!(gateway.call_as(&key, "POST", "/api/agents/a/invoke", "{}").await.status, 404);
    assert_eq!(gateway.call_as(&key, "POST", "/api/starter-kit", "").await.status, 403);
}

#[tokio::test]
async fn an_expired_key_is_401() {
    let gateway = TestGateway::start().await;
    let keys = &gateway.state.access.keys;
    let maker = keys.authenticate(&gateway.key).await.unwrap();
    let scopes = Scopes::from_iter([Scope::Admin]);
    let make = async |expires_at| {
        let new = NewKey { name: "k".into(), scopes, expires_at };
        keys.create(new, &maker).await.unwrap().1.expose().to_owned()
    };
    let (past, future) = (make(Some(now_ms() - 1)).await, make(Some(now_ms() + 60_000)).await);
    let refused = gateway.call_as(&past, "GET", "/api/agents", "").await;
    assert_eq!(refused.error(), "401 unauthenticated the API key has expired");
    assert_eq!(gateway.call_as(&future, "GET", "/api/agents", "").await.status, 200);
}

#[tokio::test]
async fn a_revoked_key_is_401_from_the_answer_on() {
    let gateway = Arc::new(TestGateway::start().await);
    let (id, key) = gateway.make_key("k", &["read"]).await;
    let revoked = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, key, revoked) = (gateway.clone(), key.clone(), revoked.clone());
            tokio::spawn(async move {
                loop {
                    let was_revoked = revoked.load(Ordering::SeqCst);
                    let status = gateway.call_as(&key, "GET", "/api/agents", "").await.status;
                    assert!(status == 401 || status == 200 && !was_revoked, "{status} after the revocation");
                    if status == 401 {
                        return;
                    }
                }
            })
        })
        .collect();
    assert_eq!(gateway.call("DELETE", &format!("/api/keys/{id}"), "").await.status, 200);
    revoked.store(true, Ordering::SeqCst);
    for user in users {
        user.await.unwrap();
    }
}

#[tokio::test]
async fn another_process_on_the_same_database_sees_keys_and_revocations_at_once() {
    let gateway = TestGateway::start().await;
    let location = database(gateway.dir.path()).await;
    let other = Access::open(&location, ApiKey::generate().unwrap(), AccessLimits::default()).await.unwrap();
    let (id, key) = gateway.make_key("k", &["read"]).await;
    assert_eq!(&*other.keys.authenticate(&key).await.unwrap().name, "k");
    // Each process has its own installation key.
    assert!(other.keys.authenticate(&gateway.key).await.is_err());
    other.keys.revoke(&id).await.unwrap();
    assert_eq!(gateway.call_as(&key, "GET", "/api/agents", "").await.status, 401);
}

#[tokio::test]
async fn last_uses_are_written_and_old_keys_forgotten() {
    let gateway = TestGateway::start().await;
    let keys = &gateway.state.access.keys;
    let (used, key) = gateway.make_key("used", &["read"]).await;
    let (unused, _) = gateway.make_key("unused", &["read"]).await;
    assert_eq!(gateway.call_as(&key, "GET", "/api/agents", "").await.status, 200);
    keys.write_last_uses().await.unwrap();
    let location = database(gateway.dir.path()).await;
    let later = Access::open(&location, ApiKey::generate().unwrap(), AccessLimits::default()).await.unwrap();
    assert!(later.keys.get(&used).await.unwrap().last_used_at.is_some());
    assert_eq!(later.keys.get(&unused).await.unwrap().last_used_at, None);

    keys.revoke(&used).await.unwrap();
    keys.purge(now_ms() - 60_000).await.unwrap();
    assert!(keys.get(&used).await.is_ok());
    keys.purge(now_ms() + 60_000).await.unwrap();
    assert!(keys.get(&used).await.is_err() && keys.get(&unused).await.is_ok());
}

#[tokio::test]
async fn invalid_keys_are_pruned_to_the_number_of_valid_ones() {
    let access = AccessLimits { max_keys: 2, ..AccessLimits::default() };
    let gateway = TestGateway::with_access(Limits::default(), access).await;
    let keys = &gateway.state.access.keys;
    let (valid, _) = gateway.make_key("valid", &["read"]).await;
    let mut revoked = Vec::new();
    for _ in 0..5 {
        let (id, _) = gateway.make_key("revoked", &["read"]).await;
        keys.revoke(&id).await.unwrap();
        revoked.push(id);
    }
    // Expiry times have milliseconds.
    let now = now_ms();
    while now_ms() == now {
        tokio::task::yield_now().await;
    }
    keys.purge(0).await.unwrap();
    assert!(keys.get(&valid).await.is_ok());
    for (n, id) in revoked.iter().enumerate() {
        assert_eq!(keys.get(id).await.is_ok(), n >= 3, "{n}");
    }
}

#[tokio::test]
async fn a_key_beyond_the_limit_is_refused() {
    let gateway =
        TestGateway::with_access(Limits::default(), AccessLimits { max_keys: 2, ..AccessLimits::default() }).await;
    let (first, _) = gateway.make_key("a", &["read"]).await;
    gateway.make_key("b", &["read"]).await;
    let third = json!({"name": "c", "scopes": ["read"]});
    assert_eq!(
        gateway.post("/api/keys", third.clone()).await.error(),
        "409 conflict there are 2 API keys, and the limit (setting max_keys) is 2: revoke some first"
    );
    gateway.call("DELETE", &format!("/api/keys/{first}"), "").await;
    assert_eq!(gateway.post("/api/keys", third).await.status, 201);
}

#[tokio::test]
async fn keys_are_paged() {
    let gateway = TestGateway::start().await;
    for name in ["a", "b", "c"] {
        gateway.make_key(name, &["read"]).await;
    }
    let (mut path, mut pages) = ("/api/v1/keys?limit=2".to_owned(), Vec::new());
    loop {
        let page = gateway.get(&path).await;
        let names: Vec<_> =
            page.json().as_array().unwrap().iter().map(|k| k["name"].as_str().unwrap().to_owned()).collect();
        pages.push(names.join(" "));
        let Some(next) = page.header("link").strip_suffix(">; rel=\"next\"") else { break };
        path = next.trim_start_matches('<').to_owned();
        assert!(path.starts_with("/api/v1/keys?limit=2&before="), "{path}");
    }
    assert_eq!(pages, ["c b", "a installation"]);
    assert_eq!(gateway.get("/api/keys?limit=1&before=installation").await.text, "[]");
    assert_eq!(gateway.get("/api/keys?limit=0").await.status, 400);
}
