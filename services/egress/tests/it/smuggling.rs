//! Requests that mean two things.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, TestEgress, basic, exchange, get, h2, read, send, tool},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;

async fn start() -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let plain = MockTool::plain().await;
    let resolve = vec![format!("api.test:443={}", tool_server.address), format!("plain.test:80={}", plain.address)];
    let tools =
        vec![tool("api", "https://api.test"), tool("other", "https://other.test"), tool("plain", "http://plain.test")];
    let (egress, [agent]) = TestEgress::start(&ca, [tools], |config| config.resolve = resolve).await;
    (egress, agent, plain)
}

#[tokio::test]
async fn requests_with_two_lengths_do_not_get_through_as_two() {
    let (egress, agent, plain) = start().await;
    let auth = basic(&agent.token);
    let head = format!(
        "POST http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: {auth}\r\nConnection: close\r\n"
    );
    for bad in [
        "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "Content-Length: 3, 4\r\n\r\nabcd",
        "Content-Length: +3\r\n\r\nabc",
        "Content-Length: -1\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "X: a\rb\r\n\r\n",
        "X: a\r\n b\r\n\r\n",
        "X : a\r\n\r\n",
        " X: a\r\n\r\n",
        "X: a\0b\r\n\r\n",
        "Host: evil.test\r\n\r\n",
    ] {
        let answer = egress.raw(format!("{head}{bad}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?} {answer}");
    }
    assert_eq!(plain.seen("/x").len(), 0);
    // Where both are there the length is ignored, taken away, and what follows is no request of its own.
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET http://plain.test/smuggled HTTP/1.1\r\n\r\n";
    let answer = egress.raw(format!("{head}{both}")).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let seen = plain.seen("/x");
    assert!(
        seen.len() <= 1 && seen.iter().all(|seen| seen["length"] == 3 && seen["headers"]["content-length"].is_null())
    );
    assert_eq!(plain.seen("/smuggled").len(), 0);
}

#[tokio::test]
async fn a_request_names_one_host() {
    let (egress, agent, plain) = start().await;
    let auth = basic(&agent.token);
    for head in [
        "GET http://plain.test/x HTTP/1.1\r\nHost: other.test\r\n",
        "GET http://plain.test/x HTTP/1.1\r\nHost: plain.test:81\r\n",
        "GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nHost: plain.test\r\n",
        "GET http://u:p@plain.test/x HTTP/1.1\r\nHost: plain.test\r\n",
        "GET ftp://plain.test/x HTTP/1.1\r\nHost: plain.test\r\n",
        "CONNECT api.test:443 HTTP/1.1\r\nHost: other.test:443\r\n",
        "CONNECT http://api.test/ HTTP/1.1\r\nHost: api.test\r\n",
    ] {
        let answer = egress.raw(format!("{head}Proxy-Authorization: {auth}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head} {answer}");
    }
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn a_tunnel_is_for_the_host_that_it_was_made_for() {
    let (egress, agent, _) = start().await;
    let tunnel = async || egress.tunnel(&agent, "api.test:443").await.unwrap();
    for (host, uri, status) in [
        ("api.test", "/x", 200),
        ("API.test:443", "/x", 200),
        ("api.test", "https://api.test/x", 200),
        ("other.test", "/x", 421),
        ("api.test:8443", "/x", 421),
        ("api.test", "https://other.test/x", 421),
        ("api.test", "http://api.test:443/x", 421),
        ("other.test", "https://api.test/x", 421),
        ("", "/x", 400),
    ] {
        let tls = egress.tls(tunnel().await, "api.test", &["http/1.1"]).await.unwrap();
        let mut request = get(uri);
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = send(tls, request).await;
        assert_eq!(answer.status.as_u16(), status, "{host} {uri}");
    }
    let tls = egress.tls(tunnel().await, "api.test", &["http/1.1"]).await.unwrap();
    let answer = exchange(tls, "GET /x HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let tls = egress.tls(tunnel().await, "api.test", &["http/1.1"]).await.unwrap();
    let nested = "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\nConnection: close\r\n\r\n";
    assert!(exchange(tls, nested).await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn http2_is_held_to_the_same() {
    let (egress, agent, _) = start().await;
    let stream = egress.tunnel(&agent, "api.test:443").await.unwrap();
    let tls = egress.tls(stream, "api.test", &["h2"]).await.unwrap();
    let mut sender = h2(tls).await;
    let mut ask = async |uri: &str, host: Option<&str>| {
        let mut request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        sender.ready().await.unwrap();
        read(sender.send_request(request).await.unwrap()).await.status
    };
    assert_eq!(ask("https://api.test/x", None).await, StatusCode::OK);
    assert_eq!(ask("https://api.test/x", Some("api.test")).await, StatusCode::OK);
    assert_eq!(ask("https://other.test/x", None).await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(ask("https://api.test/x", Some("other.test")).await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(ask("http://api.test:443/x", None).await, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn tls_names_the_host_of_the_tunnel() {
    let (egress, agent, _) = start().await;
    let stream = egress.tunnel(&agent, "api.test:443").await.unwrap();
    let e = egress.tls(stream, "other.test", &[]).await.unwrap_err();
    assert!(e.to_string().contains("UnrecognisedName"), "{e}");
    let record = egress.record().await;
    assert_eq!((record.refused, record.agent.unwrap().as_str()), (Some("misdirected"), "a"));
}
