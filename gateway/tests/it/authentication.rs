//! API keys of requests: the headers, wrong keys, the routes that need none.

use crate::test_gateway::TestGateway;

#[tokio::test]
async fn a_request_without_a_valid_key_is_401() {
    let gateway = TestGateway::start().await;
    let missing =
        "401 unauthenticated an API key is needed, as \"Authorization: Bearer KEY\" or \"X-RunAgents-API-Key: KEY\"";
    for (method, path) in
        [("GET", "/api/agents"), ("GET", "/api/nothing"), ("PUT", "/api/deploy"), ("POST", "/api/v1/deploy")]
    {
        let answer = gateway.call_with(method, path, "{nope", &[]).await;
        assert_eq!(answer.error(), missing);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let key = gateway.key.as_str();
    for (name, value, status) in [
        ("authorization", format!("Bearer {key}"), 200),
        ("authorization", format!("bearer  {key}"), 200),
        ("x-runagents-api-key", key.to_owned(), 200),
        ("authorization", format!("Bearer {key}x"), 401),
        ("authorization", format!("Basic {key}"), 401),
        ("authorization", key.to_owned(), 401),
        ("x-runagents-api-key", "wrong".into(), 401),
    ] {
        let answer = gateway.call_with("GET", "/api/agents", "", &[(name, &value)]).await;
        assert_eq!(answer.status, status, "{name}: {value}");
    }
    let both = [("authorization", "Bearer wrong"), ("x-runagents-api-key", key)];
    assert_eq!(gateway.call_with("GET", "/api/agents", "", &both).await.status, 200);
}

#[tokio::test]
async fn probes_need_no_key() {
    let gateway = TestGateway::start().await;
    let answer = gateway.call_with("GET", "/healthz", "", &[]).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"ok"}"#));
    let answer = gateway.call_with("GET", "/readyz", "", &[]).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"ready"}"#));
}

#[tokio::test]
async fn a_key_is_accepted_in_each_header_and_spelling() {
    let gateway = TestGateway::start().await;
    let (_, key) = gateway.make_key("k", &["read"]).await;
    let wrong = format!("hw_{}", "A".repeat(43));
    let many = "x".repeat(20_000);
    let bearer = |key: &str| format!("Bearer {key}");
    let table: Vec<(Vec<(&str, String)>, u16)> = vec![
        (vec![("authorization", format!("bEaReR \t{key}  "))], 200),
        (vec![("authorization", bearer(&wrong)), ("authorization", bearer(&key))], 200),
        (vec![("authorization", "Basic eDp5".into()), ("x-runagents-api-key", key.clone())], 200),
        (vec![("authorization", String::new()), ("x-runagents-api-key", key.clone())], 200),
        (vec![("x-runagents-api-key", wrong.clone()), ("x-runagents-api-key", key.clone())], 200),
        (vec![("authorization", "Bearer".into())], 401),
        (vec![("authorization", "Bearer ".into())], 401),
        (vec![("authorization", bearer(&format!("{key},{key}")))], 401),
        (vec![("authorization", bearer(&key.to_uppercase()))], 401),
        (vec![("authorization", bearer(&key[..45]))], 401),
        (vec![("authorization", bearer(&format!("{key}\u{e9}")))], 401),
        (vec![("authorization", bearer(&many))], 401),
        (vec![("x-runagents-api-key", "' OR 1=1 --".into())], 401),
        (vec![("x-runagents-api-key", format!("{}%", &key[..11]))], 401),
        // The number of keys that are tried for one request is limited.
        (
            (0..9)
                .map(|_| ("x-runagents-api-key", wrong.clone()))
                .chain([("x-runagents-api-key", key.clone())])
                .collect(),
            401,
        ),
        (vec![("cookie", format!("key={key}"))], 401),
    ];
    for (headers, status) in table {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = gateway.call_with("GET", "/api/agents", "", &headers).await;
        assert_eq!(answer.status, status, "{:?}", headers.last());
        assert!(!answer.text.contains(&key));
    }
    // A key in the query could end up in logs: it is not accepted.
    assert_eq!(gateway.call_with("GET", &format!("/api/agents?api_key={key}"), "", &[]).await.status, 401);
}
