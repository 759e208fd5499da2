//! What every request meets: the key, ids, sizes, unknown paths, panics.

use crate::harness::Gateway;
use hoistway_gateway::state::Limits;
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn nothing_opens_without_a_key() {
    let gateway = Gateway::start().await;
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
async fn the_probes_are_open() {
    let gateway = Gateway::start().await;
    let answer = gateway.call_with("GET", "/healthz", "", &[]).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"ok"}"#));
    let answer = gateway.call_with("GET", "/readyz", "", &[]).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"ready"}"#));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json() {
    let gateway = Gateway::start().await;
    for (path, want) in [
        ("/api/nothing", "404 not_found there is nothing at /api/nothing"),
        ("/nothing", "404 not_found there is nothing at /nothing"),
        ("/api/agents/no-such-agent", "404 not_found agent \"no-such-agent\" not found"),
        ("/api/agents/Bad%20Name!", "404 not_found agent \"Bad Name!\" not found"),
        ("/api/agents/%ff", "400 invalid_argument the path is not UTF-8"),
        ("/api/deployments/7", "404 not_found deployment \"7\" not found"),
        ("/api/builds/build-7", "404 not_found build \"build-7\" not found"),
    ] {
        assert_eq!(gateway.get(path).await.error(), want);
    }
    for (method, path, allow) in [("PUT", "/api/deploy", "POST"), ("PATCH", "/api/v1/agents/a", "GET,HEAD,DELETE")] {
        let answer = gateway.call(method, path, "").await;
        assert_eq!(
            answer.error(),
            format!("405 method_not_allowed {method} does not exist at {path}; see the Allow header")
        );
        assert_eq!(answer.header("allow"), allow);
    }
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let gateway = Gateway::start().await;
    let with = async |id: &str| {
        let answer = gateway.call_with("GET", "/healthz", "", &[("x-request-id", id)]).await;
        answer.header("x-request-id").to_owned()
    };
    assert_eq!(with("my-id/1.2").await, "my-id/1.2");
    for bad in ["", "has space", &"x".repeat(129)] {
        let made = with(bad).await;
        assert_eq!(made.len(), 36, "{made}");
    }
}

#[tokio::test]
async fn a_panic_is_a_plain_500() {
    let gateway = Gateway::start().await;
    gateway.agents.add("panics");
    let answer = gateway.get("/api/agents").await;
    assert_eq!(answer.error(), "500 internal internal error while answering the request");
    assert_eq!(gateway.get("/api/tools").await.status, 200);
}

fn head(gateway: &Gateway, more: &str) -> String {
    format!("POST /api/deploy HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{more}\r\n\r\n", gateway.key)
}

/// Sends everything before it reads anything, then reads the head of the answer.
async fn send_all(gateway: &Gateway, head: &str, pieces: impl Iterator<Item = Vec<u8>>) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in pieces {
        stream.write_all(&piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

const MIB: usize = 1 << 20;

#[tokio::test]
async fn an_announced_body_that_is_too_large_is_refused_and_swallowed() {
    let gateway = Gateway::start().await;
    let head = head(&gateway, &format!("content-length: {}", 80 * MIB));
    let answer = send_all(&gateway, &head, (0..80).map(|_| vec![b'a'; MIB])).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("the request body is larger than 33554432 bytes"), "{answer}");
}

#[tokio::test]
async fn so_is_a_chunked_one() {
    let gateway = Gateway::with(Limits { max_body: MIB, ..Limits::default() }).await;
    let chunk = [format!("{:x}\r\n", 64 << 10).into_bytes(), vec![b'a'; 64 << 10], b"\r\n".to_vec()].concat();
    let head = head(&gateway, "transfer-encoding: chunked");
    let pieces = (0..64).map(|_| chunk.clone()).chain([b"0\r\n\r\n".to_vec()]);
    let answer = send_all(&gateway, &head, pieces).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn who_asks_first_need_not_send() {
    let gateway = Gateway::start().await;
    let head = head(&gateway, &format!("expect: 100-continue\r\ncontent-length: {}", 80 * MIB));
    let answer = send_all(&gateway, &head, std::iter::empty()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_refused_key_is_told_after_a_long_body_too() {
    let gateway = Gateway::start().await;
    let head = format!("POST /api/deploy HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 8 * MIB);
    let answer = send_all(&gateway, &head, (0..8).map(|_| vec![b'a'; MIB])).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_breaks_off_harms_nobody() {
    let gateway = Gateway::start().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head(&gateway, "content-length: 100").as_bytes()).await.unwrap();
    stream.write_all(b"{\"agent_name\"").await.unwrap();
    drop(stream);
    assert_eq!(gateway.get("/api/agents").await.status, 200);
    assert_eq!(gateway.post("/api/deploy", json!({})).await.status, 400);
}
