//! Rate limits of keys and addresses, and the number of concurrent requests.

use crate::test_gateway::TestGateway;
use hoistway_gateway::{
    access_control::AccessLimits,
    rate_limits::{Rate, Rates},
    state::Limits,
};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn rates() -> Rates {
    Rates { requests: Rate::new(12, HOUR, 4), invokes: Rate::new(1, HOUR, 2), failures: Rate::new(60, HOUR, 2) }
}

async fn limited() -> TestGateway {
    TestGateway::with_access(Limits::default(), AccessLimits { rates: rates(), ..AccessLimits::default() }).await
}

#[tokio::test]
async fn each_key_has_its_own_rate() {
    let gateway = limited().await;
    let (_, key) = gateway.make_key("k", &["admin"]).await;
    for left in [3, 2, 1, 0] {
        let answer = gateway.call_as(&key, "GET", "/api/agents", "").await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("ratelimit").starts_with(&format!("\"requests\";r={left};t=")), "{:?}", answer.headers);
        assert_eq!(answer.header("ratelimit-policy"), "\"requests\";q=4;w=1200");
    }
    let answer = gateway.call_as(&key, "DELETE", "/api/agents/a", "").await;
    assert_eq!(
        answer.error(),
        "429 resource_exhausted this API key sends too many requests (setting requests_per_second)"
    );
    let wait: u32 = answer.header("retry-after").parse().unwrap();
    assert!((290..=300).contains(&wait), "a token comes every 300 s: {wait}");
    assert_eq!(answer.header("ratelimit"), format!("\"requests\";r=0;t={wait}"));

    // Invokes have a separate bucket, and so has every key.
    for status in [404, 404, 429] {
        assert_eq!(gateway.call_as(&key, "POST", "/api/agents/a/invoke", r#"{"message": "x"}"#).await.status, status);
    }
    assert_eq!(gateway.get("/api/agents").await.status, 200);
    // So have scrapes, which are limited too.
    for left in [3, 2, 1, 0] {
        let answer = gateway.call_as(&key, "GET", "/metrics", "").await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("ratelimit").starts_with(&format!("\"scrapes\";r={left};t=")), "{:?}", answer.headers);
    }
    assert_eq!(gateway.call_as(&key, "GET", "/metrics", "").await.status, 429);
    // A request over the rate is not an attempted change.
    assert_eq!(gateway.get("/api/audit?action=agent.").await.text, "[]");
    // The probes need no key and have no rate.
    for _ in 0..10 {
        let answer = gateway.call_with("GET", "/healthz", "", &[]).await;
        assert_eq!((answer.status, answer.header("ratelimit")), (200, ""));
    }
}

#[tokio::test]
async fn wrong_keys_are_throttled_and_right_ones_never() {
    let gateway = limited().await;
    let wrong = format!("hw_{}", "A".repeat(43));
    for status in [401, 401, 429, 429] {
        assert_eq!(gateway.call_as(&wrong, "GET", "/api/agents", "").await.status, status);
    }
    let answer = gateway.call_as(&wrong, "GET", "/api/agents", "").await;
    assert_eq!(
        answer.error(),
        "429 resource_exhausted too many wrong API keys or tokens came from this address (setting failed_auth_per_minute)"
    );
    let wait: u32 = answer.header("retry-after").parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(gateway.get("/api/agents").await.status, 200);
    assert_eq!(gateway.call_with("GET", "/api/agents", "", &[]).await.status, 401);
}

#[tokio::test]
async fn concurrent_requests_are_limited_except_for_administrators() {
    let gateway =
        TestGateway::with_access(Limits::default(), AccessLimits { max_requests: 1, ..AccessLimits::default() }).await;
    let (id, key) = gateway.make_key("reader", &["read"]).await;
    let taken = gateway.state.access.requests.clone().acquire_owned().await.unwrap();
    let answer = gateway.call_as(&key, "GET", "/api/agents", "").await;
    let text = "1 requests are being answered already, which is the limit (setting max_requests)";
    assert_eq!(answer.error(), format!("429 resource_exhausted {text}"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(gateway.call_with("GET", "/healthz", "", &[]).await.status, 200);
    assert_eq!(
        gateway.call("DELETE", &format!("/api/keys/{id}"), "").await.status,
        200,
        "whoever takes all is shut out"
    );
    assert_eq!(gateway.state.access.reserved_requests.available_permits(), 32);
    drop(taken);
    for _ in 0..3 {
        assert_eq!(gateway.get("/api/agents").await.status, 200);
    }
}
