//! The program, and the operator's proxy on its way out.

use crate::{
    egress_process::EgressProcess,
    mock_tool::{MockTool, TestCa},
    test_egress::SOON,
};
use hoistway_client::{EgressClient, Transport};
use hoistway_kit::token::ServiceToken;
use hoistway_model::{EgressService, RevisionId, egress::CallQuery};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::process::Stdio;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    time::timeout,
};

/// A proxy that leads every tunnel to one address and tells the heads of what it was asked.
async fn proxy(to: std::net::SocketAddr) -> (std::net::SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let is_tunnel = head.starts_with("CONNECT ");
                sender.send(head).await.unwrap();
                if !is_tunnel {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").await.unwrap();
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut onward = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn the_program_goes_through_the_operators_proxy() {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let direct = MockTool::plain().await;
    let (proxy, mut asked) = proxy(tool_server.address).await;
    let dir = tempfile::tempdir().unwrap();
    let policies = json!({"agents": [{"agent": "a", "revision": RevisionId::mint(), "tools": [
        {"name": "api", "base_url": "https://api.test", "credential": {"header": {"name": "x-key", "value": "s3cret"}}},
        {"name": "plain", "base_url": "http://plain.test/p"},
        {"name": "private", "base_url": "http://10.0.0.1"},
        {"name": "direct", "base_url": format!("http://localhost:{}", direct.address.port()), "allow_private": true},
    ]}]});
    let roots = dir.path().join("tools.pem");
    std::fs::write(&roots, &ca.pem).unwrap();
    let proxy = format!("http://op:pw@{proxy}");
    let variables = [
        ("SSL_CERT_FILE", roots.to_str().unwrap()),
        ("NO_PROXY", "localhost"),
        ("HTTP_PROXY", &proxy),
        ("HTTPS_PROXY", &proxy),
    ];
    let program = EgressProcess::start(dir.path(), &policies, &variables).await;
    let (address, token) = (program.address.clone(), program.token.expose().to_owned());
    let ask = async |path: &str| {
        let stream = TcpStream::connect(&address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = crate::test_egress::get(path);
        let auth = crate::test_egress::basic(&hoistway_model::Secret::new(&*token));
        request.headers_mut().insert("proxy-authorization", auth.parse().unwrap());
        crate::test_egress::read(timeout(SOON, sender.send_request(request)).await.unwrap().unwrap()).await
    };
    let answer = ask("/tools/api/x").await;
    assert_eq!(answer.json()["headers"]["x-key"], "s3cret");
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("CONNECT api.test:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("proxy-authorization: basic b3a6chc="), "{head}");
    assert!(!head.contains("s3cret"));

    assert_eq!(ask("/tools/plain/x?y=1").await.body, "plain");
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("GET http://plain.test/p/x?y=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(head.to_lowercase().matches("proxy-authorization: basic b3a6chc=").count(), 1, "{head}");
    assert!(!head.contains(&token));

    assert_eq!(ask("/tools/private/x").await.reason(), "private_address");
    assert_eq!(ask("/tools/direct/x").await.json()["path"], "/x");
    assert!(asked.try_recv().is_err());

    let all = program.stop().await;
    assert!(all.contains("GET https://api.test/x") && all.contains("private_address"), "{all}");
    assert!(!all.contains("s3cret") && !all.contains(&token) && !all.contains("op:pw"), "{all}");
}

#[tokio::test]
async fn a_record_that_was_listed_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (http, grpc) = (free(), free());
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hoistway-egress"));
        command.env_clear().env("HOISTWAY_EGRESS_DATA_DIR", dir.path()).env("HOISTWAY_EGRESS_LISTEN", &http);
        command.env("HOISTWAY_EGRESS_GRPC_LISTEN", &grpc).kill_on_drop(true);
        command.envs(hoistway_testing::database_url(dir.path()).map(|url| ("HOISTWAY_EGRESS_DATABASE__URL", url)));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let token = ServiceToken::load_or_create(&dir.path().join("service-token")).unwrap();
    let client = EgressClient::new(Transport::connect("egress", &format!("http://{grpc}"), &token).unwrap());
    // The calls, once it answers and has some.
    let listed = async || loop {
        let calls = client.calls(CallQuery { limit: 10, ..CallQuery::default() }).await.unwrap_or_default();
        if !calls.is_empty() {
            break calls;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let mut child = start();
    let connected = async {
        loop {
            match TcpStream::connect(&http).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    let stream = timeout(SOON, connected).await.unwrap();
    let answer = crate::test_egress::send(stream, crate::test_egress::get("/tools/x/y")).await;
    assert_eq!(answer.reason(), "identity_missing");
    let before = timeout(SOON, listed()).await.unwrap();
    assert_eq!((before[0].path.as_str(), before[0].refused.as_deref()), ("/tools/x/y", Some("identity_missing")));
    child.kill().await.unwrap();
    let _again = start();
    assert_eq!(timeout(SOON, listed()).await.unwrap(), before);
}

#[tokio::test]
async fn a_count_that_cannot_be_written_is_told_and_named_when_the_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let tool_server = MockTool::plain().await;
    let usage = json!({"usage": {"prompt_tokens": 3, "completion_tokens": 4}});
    tool_server.tokens([(200, usage.clone()), (200, usage.clone()), (200, usage)]);
    let endpoint = format!("http://{}/token", tool_server.address);
    let policies = json!({"agents": [{"agent": "a", "revision": RevisionId::mint(), "tools": [], "models": [
        {"model": "m", "provider": "main", "endpoint": endpoint, "api_key": "sk-x", "allow_private": true},
    ]}]});
    let mut program = EgressProcess::start(dir.path(), &policies, &[]).await;
    let ask = async |program: &EgressProcess| {
        let stream = TcpStream::connect(&program.address).await.unwrap();
        let mut request = crate::test_egress::post(crate::models::CHAT, r#"{"model": "m"}"#);
        request.headers_mut().insert("proxy-authorization", crate::test_egress::basic(&program.token).parse().unwrap());
        assert_eq!(crate::test_egress::send(stream, request).await.status, 200);
    };
    // It listens before its database is open.
    ask(&program).await;
    let held = crate::test_egress::lock(dir.path()).await;
    ask(&program).await;
    program.says("the database cannot be written: 1 requests of models (7 tokens) wait in memory").await;
    held.rollback().await.unwrap();
    program.says("the database can be written again; 1 requests of models (7 tokens) that waited are kept").await;

    let held = crate::test_egress::lock(dir.path()).await;
    ask(&program).await;
    ask(&program).await;
    let log = program.stop().await;
    drop(held);
    assert!(log.contains("lost: 2 requests of models (14 tokens)"), "{log}");
}
