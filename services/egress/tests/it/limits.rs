//! The limits of one agent and of one call.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, TestEgress, basic, exchange, get, post, tool},
};
use hoistway_egress::config::Limits;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn egress<const N: usize>(limits: Limits) -> (TestEgress, [Agent; N], MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let tools = std::array::from_fn(|_| vec![tool("api", "https://api.test")]);
    let configure = |config: &mut hoistway_egress::Config| (config.resolve, config.limits) = (resolve, limits);
    let (egress, agents) = TestEgress::start(&ca, tools, configure).await;
    (egress, agents, tool_server)
}

#[tokio::test]
async fn calls_above_the_agents_rate_are_refused() {
    let (egress, [a, b], _) = egress(Limits { agent_rate: 1, agent_burst: 2, ..Limits::default() }).await;
    // Time goes on while the test runs; sooner or later three come within a second.
    let refused = loop {
        let calls = (0..8).map(|_| egress.send(&a, get("/tools/api/x")));
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().any(|answer| answer.status == StatusCode::OK));
        if let Some(refused) = answers.into_iter().find(|answer| answer.status != StatusCode::OK) {
            break refused;
        }
    };
    assert_eq!((refused.status, refused.reason().as_str()), (StatusCode::TOO_MANY_REQUESTS, "rate_limited"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(egress.send(&b, get("/tools/api/x")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_agent_has_so_many_calls_at_once() {
    let (egress, [a, b], tool_server) = egress(Limits { agent_calls: 1, ..Limits::default() }).await;
    let pieces = tool_server.stream();
    let streaming = egress.send(&a, get("/tools/api/stream"));
    let meanwhile = async {
        // More than the channel holds: it has been asked for when they are gone.
        for _ in 0..8 {
            pieces.send("x".into()).await.unwrap();
        }
        assert_eq!(egress.send(&a, get("/tools/api/x")).await.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(egress.send(&b, get("/tools/api/x")).await.status, StatusCode::OK);
        drop(pieces);
    };
    let (streamed, ()) = tokio::join!(streaming, meanwhile);
    assert_eq!((streamed.status, streamed.body.len()), (StatusCode::OK, 8));
    while egress.send(&a, get("/tools/api/x")).await.status != StatusCode::OK {}
}

#[tokio::test]
async fn an_agent_has_so_many_tunnels() {
    let (egress, [a], _) = egress(Limits { agent_connections: 1, ..Limits::default() }).await;
    let held = egress.tunnel(&a, "api.test:443").await.unwrap();
    let head = egress.tunnel(&a, "api.test:443").await.unwrap_err();
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    drop(held);
    while egress.tunnel(&a, "api.test:443").await.is_err() {}
}

#[tokio::test]
async fn an_agent_has_so_many_connections_and_keeps_none_of_them_from_others() {
    let (egress, [a, b], _) = egress(Limits { agent_connections: 2, ..Limits::default() }).await;
    let mut held = Vec::new();
    for status in ["200", "200", "429"] {
        let mut stream = egress.connect().await;
        let head = format!("GET /tools/api/x HTTP/1.1\r\nHost: e\r\nProxy-Authorization: {}\r\n\r\n", basic(&a.token));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(std::str::from_utf8(&answer[9..]), Ok(status));
        held.push(stream);
    }
    assert_eq!(egress.send(&b, get("/tools/api/x")).await.status, StatusCode::OK);
    held.clear();
    while egress.send(&a, get("/tools/api/x")).await.status != StatusCode::OK {}
}

#[tokio::test]
async fn callers_that_nobody_knows_make_room_for_one_another_and_keep_no_agent_out() {
    let (egress, [agent], _) = egress(Limits::default()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(egress.connect().await);
    }
    assert_eq!(egress.send(&agent, get("/tools/api/x")).await.status, StatusCode::OK);
    assert!(!matches!(silent[0].read(&mut [0]).await, Ok(1..)), "the oldest one is closed");
}

#[tokio::test]
async fn headers_and_bodies_have_sizes() {
    let limits = Limits { header_size: 16 << 10, request_size: 1000, response_size: 4000, ..Limits::default() };
    let (egress, [agent], tool_server) = egress(limits).await;
    let auth = basic(&agent.token);
    let head = format!("POST /tools/api/x HTTP/1.1\r\nHost: e\r\nProxy-Authorization: {auth}\r\nConnection: close\r\n");
    let long = format!("{head}X: {}\r\n\r\n", "x".repeat(20 << 10));
    assert!(egress.raw(long).await.starts_with("HTTP/1.1 431 "));
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert!(egress.raw(format!("{head}{many}\r\n")).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(egress.send(&agent, post("/tools/api/x", vec![0; 1000])).await.status, StatusCode::OK);
    let answer = egress.send(&agent, post("/tools/api/x", vec![0; 1001])).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"));
    let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    let answer = exchange(egress.connect().await, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(tool_server.seen("/x").iter().filter(|seen| seen["length"].as_u64() > Some(1000)).count(), 0);

    let pieces = tool_server.stream();
    let feed = async { while pieces.send(vec![0; 1000].into()).await.is_ok() {} };
    let cut = format!(
        "GET /tools/api/stream HTTP/1.1\r\nHost: e\r\nProxy-Authorization: {auth}\r\nConnection: close\r\n\r\n"
    );
    let (answer, ()) = tokio::join!(egress.raw(cut), feed);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.len() < 6000 && !answer.ends_with("0\r\n\r\n"),
        "{}",
        answer.len()
    );
    let mut record = egress.record().await;
    while record.path != "/stream" {
        record = egress.record().await;
    }
    assert_eq!(record.broken, Some("response_too_large"));
    assert!(record.bytes_down <= 4000);
}

#[tokio::test]
async fn slow_tools_time_out() {
    let (egress, [agent], _) = self::egress(Limits { first_byte_ms: 200, ..Limits::default() }).await;
    let answer = egress.send(&agent, get("/tools/api/hang")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::GATEWAY_TIMEOUT, "timeout"));
    assert_eq!(egress.record().await.refused, Some("timeout"));
    let (egress, [agent], tool_server) = self::egress(Limits { idle_ms: 200, ..Limits::default() }).await;
    let pieces = tool_server.stream();
    pieces.send("begin".into()).await.unwrap();
    let auth = basic(&agent.token);
    let request = format!("GET /tools/api/stream HTTP/1.1\r\nHost: e\r\nProxy-Authorization: {auth}\r\n\r\n");
    let answer = egress.raw(request).await;
    assert!(answer.contains("begin") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(egress.record().await.broken, Some("idle_timeout"));
    drop(pieces);
}

#[tokio::test]
async fn a_client_has_its_time_too() {
    let (egress, [agent], _) = egress(Limits { header_ms: 200, ..Limits::default() }).await;
    for begun in ["", "H", "HOISTWAY-EGRESS/1 hwe_", "GET / HTTP/1.1\r\n"] {
        let answer = exchange(egress.connect().await, begun).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{begun} {answer}");
    }
    let mut tunnel = egress.tunnel(&agent, "api.test:443").await.unwrap();
    tunnel.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    assert_eq!(exchange(tunnel, "").await, "");
}
