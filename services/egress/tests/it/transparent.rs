//! Clients that ignore proxy variables, led here by a name that means loopback in their network.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{TestEgress, exchange, get, header_key, send, tool},
};
use hoistway_kit::egress_auth::Flavour;
use hoistway_model::Secret;
use http::StatusCode;

#[tokio::test]
async fn tls_and_http_find_their_tool_by_name() {
    let ca = TestCa::new();
    let (tls, plain) = (MockTool::tls(&ca, "api.test").await, MockTool::plain().await);
    let resolve = vec![format!("api.test:443={}", tls.address), format!("plain.test:8080={}", plain.address)];
    let mut api = tool("api", "https://api.test");
    api.credential = header_key("x-api-key", "", "s3cret");
    let tools = [vec![api, tool("plain", "http://plain.test:8080")]];
    let (egress, [agent]) = TestEgress::start(&ca, tools, |config| config.resolve = resolve).await;

    let stream = egress.prefaced(&agent.token, Flavour::Tls, 443).await;
    let stream = egress.tls(stream, "api.test", &["http/1.1"]).await.unwrap();
    let mut request = get("/x");
    request.headers_mut().insert("host", "api.test".parse().unwrap());
    let answer = send(stream, request).await;
    assert_eq!((answer.status, answer.json()["headers"]["x-api-key"].as_str()), (StatusCode::OK, Some("s3cret")));
    egress.record().await;

    for (host, port) in [("other.test", 443), ("api.test", 8443)] {
        let stream = egress.prefaced(&agent.token, Flavour::Tls, port).await;
        let e = egress.tls(stream, host, &[]).await.unwrap_err();
        assert!(e.to_string().contains("UnrecognisedName"), "{e}");
        let record = egress.record().await;
        assert_eq!((record.refused, record.agent.unwrap().as_str()), (Some("host_not_allowed"), "a"));
    }
    let stream = egress.prefaced(&Secret::new("hwe_x"), Flavour::Tls, 443).await;
    assert!(egress.tls(stream, "api.test", &[]).await.is_err());

    let ask = async |host: &str| {
        let stream = egress.prefaced(&agent.token, Flavour::Http, 8080).await;
        let answer = exchange(stream, format!("GET /y HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask("plain.test:8080").await, "200");
    assert_eq!(ask("plain.test").await, "200");
    assert_eq!(ask("plain.test:80").await, "421");
    assert_eq!(ask("other.test:8080").await, "403");
    assert_eq!((tls.connections(), plain.seen("/y").len()), (1, 2));
}
