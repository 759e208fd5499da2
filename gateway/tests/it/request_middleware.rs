//! Every request: ids, sizes, unknown paths, panics.

use crate::test_gateway::TestGateway;
use hoistway_gateway::state::Limits;
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn unknown_paths_are_404_and_methods_405() {
    let gateway = TestGateway::start().await;
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
    let gateway = TestGateway::start().await;
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
async fn a_panic_is_500_internal() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("panics");
    let answer = gateway.get("/api/agents").await;
    assert_eq!(answer.error(), "500 internal internal error while answering the request");
    assert_eq!(gateway.get("/api/tools").await.status, 200);
}

fn head(gateway: &TestGateway, more: &str) -> String {
    format!("POST /api/deploy HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{more}\r\n\r\n", gateway.key)
}

/// Sends everything before it reads anything, then reads the head of the answer.
async fn send_all(gateway: &TestGateway, head: &str, pieces: impl Iterator<Item = Vec<u8>>) -> String {
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
async fn an_announced_body_that_is_too_large_is_413_and_drained() {
    let gateway = TestGateway::start().await;
    let head = head(&gateway, &format!("content-length: {}", 80 * MIB));
    let answer = send_all(&gateway, &head, (0..80).map(|_| vec![b'a'; MIB])).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("the request body is larger than 33554432 bytes"), "{answer}");
}

#[tokio::test]
async fn a_chunked_body_that_is_too_large_is_413_and_drained() {
    let gateway = TestGateway::with(Limits { max_body: MIB, ..Limits::default() }).await;
    let chunk = [format!("{:x}\r\n", 64 << 10).into_bytes(), vec![b'a'; 64 << 10], b"\r\n".to_vec()].concat();
    let head = head(&gateway, "transfer-encoding: chunked");
    let pieces = (0..64).map(|_| chunk.clone()).chain([b"0\r\n\r\n".to_vec()]);
    let answer = send_all(&gateway, &head, pieces).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_413_before_it_sends() {
    let gateway = TestGateway::start().await;
    let head = head(&gateway, &format!("expect: 100-continue\r\ncontent-length: {}", 80 * MIB));
    let answer = send_all(&gateway, &head, std::iter::empty()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_wrong_key_is_401_after_a_long_body() {
    let gateway = TestGateway::start().await;
    let head = format!("POST /api/deploy HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 8 * MIB);
    let answer = send_all(&gateway, &head, (0..8).map(|_| vec![b'a'; MIB])).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_disturb_other_requests() {
    let gateway = TestGateway::start().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head(&gateway, "content-length: 100").as_bytes()).await.unwrap();
    stream.write_all(b"{\"agent_name\"").await.unwrap();
    drop(stream);
    assert_eq!(gateway.get("/api/agents").await.status, 200);
    assert_eq!(gateway.post("/api/deploy", json!({})).await.status, 400);
}

#[tokio::test]
async fn unsupported_routes_are_404_with_an_alternative() {
    let gateway = TestGateway::start().await;
    let policies =
        "404 not_found policies are not supported; instead, name the tools that an agent may use in required_tools";
    assert_eq!(gateway.get("/api/v1/policies").await.error(), policies);
    assert_eq!(gateway.post("/api/policies/translate", json!({})).await.error(), policies);
    assert!(gateway.post("/api/v1/analyze", json!({})).await.error().contains("deploy it"));
}
