//! The echo tool over HTTP.

use hoistway_kit::ports::listen_loopback;
use hoistway_model::Result;
use hoistway_tool_registry::echo;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

struct Echo {
    addrs: Vec<SocketAddr>,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<()>>,
}

impl Echo {
    fn start() -> Self {
        let listeners = listen_loopback(0).unwrap();
        let (addrs, shutdown) = (listeners.addrs(), CancellationToken::new());
        Self { addrs, serving: tokio::spawn(echo::serve(listeners, shutdown.clone())), shutdown }
    }

    /// Head and body of the answer; each connection carries one.
    async fn send(&self, addr: SocketAddr, head: &str, body: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // A body that is too large may be refused before all of it was sent.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.to_ascii_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn the_echo_tool_returns_its_input() {
    let echo = Echo::start();
    for &addr in &echo.addrs {
        let (head, body) = echo.send(addr, "POST /echo", "{\"message\": \"hällo\"}".as_bytes()).await;
        assert!(head.starts_with("http/1.1 200 ") && head.contains("content-type: application/json"), "{head}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer, serde_json::json!({ "reply": "hällo", "message": "hällo" }));
    }
    let (head, body) = echo.send(echo.addrs[0], "GET /healthz", b"").await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(body, r#"{"status":"ok"}"#);
}

#[tokio::test]
async fn every_error_is_json() {
    let echo = Echo::start();
    let long = format!("{{\"message\": \"{}\"}}", "x".repeat(1 << 20));
    for (request, body, status, answer) in [
        ("POST /echo", "{}", 400, r#"{"code":"invalid_argument","error":"message: is required"}"#),
        ("POST /echo", "{\"message\":null}", 400, r#"{"code":"invalid_argument","error":"message: is required"}"#),
        ("POST /echo", "{\"message\":1}", 400, r#"{"code":"invalid_argument","error":"message: must be a string"}"#),
        (
            "POST /echo",
            "[]",
            400,
            r#"{"code":"invalid_argument","error":"the body must be an object with the member \"message\""}"#,
        ),
        (
            "POST /echo",
            "",
            400,
            r#"{"code":"invalid_argument","error":"the body is not JSON: EOF while parsing a value at line 1 column 0"}"#,
        ),
        ("POST /echo", &long, 413, r#"{"code":"payload_too_large","error":"the body is larger than 1048576 bytes"}"#),
        ("GET /echo", "", 405, r#"{"code":"method_not_allowed","error":"GET is not allowed on /echo"}"#),
        ("GET /", "", 404, r#"{"code":"not_found","error":"nothing is at /; try POST /echo"}"#),
    ] {
        let (head, text) = echo.send(echo.addrs[0], request, body.as_bytes()).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request}: {head}");
        assert_eq!(text, answer);
        if status == 405 {
            assert!(head.contains("allow: post"), "{head}");
        }
    }
}

#[tokio::test]
async fn the_echo_tool_stops_on_shutdown() {
    let echo = Echo::start();
    let mut unfinished = TcpStream::connect(echo.addrs[0]).await.unwrap();
    unfinished.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n").await.unwrap();
    echo.send(echo.addrs[0], "GET /healthz", b"").await;
    echo.shutdown.cancel();
    unfinished.write_all(b"{\"message\":\"m\"}").await.unwrap();
    let mut answer = String::new();
    unfinished.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    echo.serving.await.unwrap().unwrap();
    TcpStream::connect(echo.addrs[0]).await.unwrap_err();
}
