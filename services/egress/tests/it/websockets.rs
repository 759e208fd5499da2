//! Connections whose protocol is switched.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, SOON, TestEgress, header_key, tool},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

const KEY: &str = "sk_test_planted_9f27";

/// A tool that speaks HTTP/2 too, which WebSocket does not go over.
async fn start() -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let mut api = tool("api", "https://api.test");
    api.credential = header_key("authorization", "Bearer ", KEY);
    let (egress, [agent]) = TestEgress::start(&ca, [vec![api]], |config| config.resolve = resolve).await;
    (egress, agent, tool_server)
}

/// Sends a handshake and returns the head of its answer.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, protocol: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: api.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(read).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_websocket_gets_the_key_and_its_bytes_go_both_ways_until_its_end() {
    let (egress, agent, tool_server) = start().await;
    let tunnel = egress.tunnel(&agent, "api.test:443").await.unwrap();
    let mut stream = egress.tls(tunnel, "api.test", &["http/1.1"]).await.unwrap();
    let head = ask(&mut stream, "/websocket", "WebSocket").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: "), "{head}");
    let seen = &tool_server.seen("/websocket")[0];
    assert_eq!(seen["headers"]["authorization"], format!("Bearer {KEY}"));

    for message in [&b"ping"[..], &[0; 100_000]] {
        stream.write_all(message).await.unwrap();
        let mut echo = vec![1; message.len()];
        timeout(SOON, stream.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(echo, message);
    }
    stream.shutdown().await.unwrap();
    let record = egress.record().await;
    assert_eq!((record.status, record.path.as_str(), record.refused), (Some(101), "/websocket", None));
    assert_eq!((record.bytes_up, record.bytes_down, record.broken), (100_004, 100_004, None));
}

#[tokio::test]
async fn other_protocols_are_not_asked_of_the_tool_and_none_is_accepted_unasked() {
    let (egress, agent, tool_server) = start().await;
    for (path, protocol, status) in [("/x", "h2c", "200"), ("/websocket", "h2c", "502"), ("/x", "websocket", "200")] {
        let tunnel = egress.tunnel(&agent, "api.test:443").await.unwrap();
        let mut stream = egress.tls(tunnel, "api.test", &["http/1.1"]).await.unwrap();
        let head = ask(&mut stream, path, protocol).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path} {protocol}: {head}");
        let asked = tool_server.seen(path).last().unwrap()["headers"].get("upgrade").cloned();
        assert_eq!(asked.is_some(), protocol == "websocket", "{asked:?}");
    }
}
