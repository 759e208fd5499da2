//! The audit log: every change and nothing else, with its caller, action, address and outcome.

use crate::test_gateway::{Answer, TestGateway, connection};
use hoistway_gateway::{access_control::AccessLimits, state::Limits};
use hoistway_kit::prune::Retention;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

fn tool(name: &str) -> Value {
    json!({"name": name, "base_url": "https://a.example", "auth_type": "APIKey", "credentials": {"api_key": "the-secret"}})
}

/// Returns action, target, outcome, status and code of each entry, newest first.
fn told(answer: &Answer) -> Vec<String> {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let entries = answer.json();
    let line = |e: &Value| ["action", "target", "outcome", "status", "code"].map(|key| text(&e[key])).join(" ");
    entries.as_array().unwrap().iter().map(line).collect()
}

#[tokio::test]
async fn every_change_has_an_entry_and_nothing_else_has() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    let (id, key) = gateway.make_key("ci", &["deploy"]).await;
    let headers =
        [("authorization", format!("Bearer {key}")), ("x-request-id", "req-7".into()), ("user-agent", "curl/8".into())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut body = tool("t");
    assert_eq!(gateway.call_as(&key, "POST", "/api/tools", body.to_string()).await.status, 403, "it has a credential");
    body.as_object_mut().unwrap().remove("credentials");
    assert_eq!(gateway.call_with("POST", "/api/tools", body.to_string(), &headers).await.status, 201);
    assert_eq!(gateway.call_as(&key, "POST", "/api/tools", r#"{"name": "T T"}"#).await.status, 400);
    assert_eq!(gateway.call_as(&key, "POST", "/api/tools", "{nope").await.status, 400);
    assert_eq!(gateway.call_as(&key, "DELETE", "/api/tools/t", "").await.status, 200);
    assert_eq!(gateway.call_as(&key, "DELETE", "/api/v1/agents/a", "").await.status, 200);
    assert_eq!(gateway.call_as(&key, "POST", "/api/starter-kit", "").await.status, 200);
    assert_eq!(gateway.call_as(&key, "POST", "/api/deploy", "{}").await.status, 400);
    // These requests change nothing.
    assert_eq!(gateway.call_as(&key, "GET", "/api/tools", "").await.status, 200);
    assert_eq!(gateway.call_as(&key, "POST", "/api/agents/a/invoke", "{}").await.status, 403);
    assert_eq!(gateway.call_as(&key, "POST", "/api/nothing", "").await.status, 404);
    assert_eq!(gateway.call_with("POST", "/api/tools", tool("x").to_string(), &[]).await.status, 401);
    // This one is an attempted change.
    assert_eq!(gateway.call_as(&key, "DELETE", "/api/keys/installation", "").await.status, 403);

    let log = gateway.get("/api/audit").await;
    assert_eq!(
        told(&log),
        [
            "key.revoke installation failure 403 permission_denied",
            "agent.deploy null failure 400 invalid_argument",
            "starter_kit.seed null success 200 null",
            "agent.delete a success 200 null",
            "tool.delete t success 200 null",
            "tool.create null failure 400 invalid_argument",
            "tool.create T T failure 400 invalid_argument",
            "tool.create t success 201 null",
            "tool.create t failure 403 permission_denied",
            &format!("key.create {id} success 201 null"),
        ]
    );
    assert!(!log.text.contains("the-secret") && !log.text.contains(&key), "{}", log.text);
    let entries = log.json();
    let made = &entries[7];
    assert_eq!(made["key"], json!({"id": id, "name": "ci"}));
    assert_eq!(
        (&made["request_id"], &made["user_agent"], &made["address"]),
        (&json!("req-7"), &json!("curl/8"), &json!("127.0.0.1"))
    );
    assert_eq!(entries[9]["key"], json!({"id": "installation", "name": "installation"}));

    let filtered = async |query: &str| told(&gateway.get(&format!("/api/audit?{query}")).await);
    assert_eq!(filtered("agent=a").await, ["agent.delete a success 200 null"]);
    assert_eq!(filtered("target=t&action=tool.delete").await, ["tool.delete t success 200 null"]);
    assert_eq!(filtered("action=tool.&limit=2").await.len(), 2);
    assert_eq!(filtered("key=installation").await.len(), 1);
    assert_eq!(filtered(&format!("key={id}&action=tool.create")).await.len(), 4);
    assert_eq!(filtered("agent=t").await, Vec::<String>::new());
    assert_eq!(gateway.get("/api/audit?before=x").await.error(), "400 invalid_argument before: is not an entry's id");
    let first = gateway.get("/api/audit?action=tool.&limit=3").await;
    let next = first.header("link").strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
    assert!(next.starts_with("/api/audit?action=tool.&limit=3&before="), "{next}");
    let oldest = ["tool.create t success 201 null", "tool.create t failure 403 permission_denied"];
    assert_eq!(told(&gateway.get(&next).await), oldest);
}

#[tokio::test]
async fn the_intent_is_written_before_the_change() {
    let gateway = TestGateway::start().await;
    let call = gateway.call("DELETE", "/api/model-providers/waits", "");
    let log = async || told(&gateway.get("/api/audit").await);
    tokio::select! {
        _ = call => panic!("it waits for ever"),
        () = until(async || log().await == ["model_provider.delete waits pending null null"]) => {}
    }
    // The caller has disconnected.
    until(async || log().await == ["model_provider.delete waits interrupted null null"]).await;
}

/// Waits until another task has made `done` true.
async fn until(done: impl AsyncFn() -> bool) {
    let waited = async {
        while !done().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), waited).await.unwrap();
}

#[tokio::test]
async fn the_address_comes_from_trusted_proxies_alone() {
    let trusted = AccessLimits {
        trusted_proxies: vec!["127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
        ..AccessLimits::default()
    };
    let proxied = TestGateway::with_access(Limits::default(), trusted).await;
    let direct = TestGateway::start().await;
    for (gateway, forwarded, seen) in [
        (&proxied, vec!["192.0.2.1"], "192.0.2.1"),
        (&proxied, vec!["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
        (&proxied, vec!["6.6.6.6", "192.0.2.1 , 10.0.0.1"], "192.0.2.1"),
        (&proxied, vec!["2001:db8::1"], "2001:db8::1"),
        (&proxied, vec!["192.0.2.1, nonsense"], "127.0.0.1"),
        (&proxied, vec![], "127.0.0.1"),
        (&direct, vec!["192.0.2.1"], "127.0.0.1"),
    ] {
        let key = format!("Bearer {}", gateway.key);
        let mut headers = vec![("authorization", key.as_str())];
        headers.extend(forwarded.iter().map(|value| ("x-forwarded-for", *value)));
        gateway.call_with("DELETE", "/api/tools/t", "", &headers).await;
        assert_eq!(gateway.get("/api/audit?limit=1").await.json()[0]["address"], seen, "{forwarded:?}");
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_the_change() {
    let gateway = TestGateway::start().await;
    assert_eq!(gateway.post("/api/tools", tool("t")).await.status, 201);
    let db = connection(gateway.dir.path()).await;
    // A recorded outcome cannot be changed even in the database.
    let changed = db.execute_unprepared("UPDATE audit SET outcome = 'failure'").await.unwrap_err().to_string();
    assert!(changed.contains("the audit log is append-only"), "{changed}");
    db.execute_unprepared("DROP TABLE audit").await.unwrap();
    assert_eq!(gateway.call("DELETE", "/api/tools/t", "").await.status, 500);
    assert_eq!(gateway.get("/api/tools/t").await.status, 200, "nothing was changed");
}

#[tokio::test]
async fn the_oldest_ended_entries_are_pruned() {
    let gateway = TestGateway::start().await;
    let call = gateway.call("DELETE", "/api/model-providers/waits", "");
    let log = async || told(&gateway.get("/api/audit").await);
    let work = async {
        until(async || log().await.len() == 1).await;
        for name in ["a", "b", "c", "d"] {
            assert_eq!(gateway.post("/api/tools", tool(name)).await.status, 201);
        }
        let audit = &gateway.state.access.audit;
        let keep = |count| Retention::new(std::time::Duration::from_secs(3600), count);
        audit.tidy(keep(4)).await.unwrap();
        assert_eq!(log().await.len(), 5);
        // Two entries may have the same millisecond, which may be the present one.
        until(async || {
            audit.tidy(keep(2)).await.unwrap();
            log().await.len() == 3
        })
        .await;
        let left = log().await;
        assert_eq!(left[2], "model_provider.delete waits pending null null", "{left:?}");
        assert!(left[0].starts_with("tool.create ") && left[1].starts_with("tool.create "), "{left:?}");
    };
    tokio::select! {
        _ = call => panic!("it waits for ever"),
        () = work => {}
    }
}
