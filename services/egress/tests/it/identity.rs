//! Who calls.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{TestEgress, basic, exchange, get, send, tool},
};
use hoistway_kit::egress_auth::{EgressKey, Flavour};
use hoistway_model::{RevisionId, Secret};
use http::StatusCode;
use std::sync::atomic::Ordering;

async fn start() -> (TestEgress, [crate::test_egress::Agent; 2], MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::plain().await;
    let resolve = vec![format!("api.test:80={}", tool_server.address)];
    let tools = [vec![tool("api", "http://api.test")], vec![]];
    let (egress, agents) = TestEgress::start(&ca, tools, |config| config.resolve = resolve).await;
    (egress, agents, tool_server)
}

#[tokio::test]
async fn without_a_token_nothing_is_called() {
    let (egress, [agent, _], tool_server) = start().await;
    let answer = send(egress.connect().await, get("http://api.test/x")).await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::PROXY_AUTHENTICATION_REQUIRED, "identity_missing")
    );
    assert_eq!(answer.headers["proxy-authenticate"], "Basic realm=\"hoistway\"");
    let record = egress.record().await;
    assert_eq!((record.agent, record.refused, record.status), (None, Some("identity_missing"), Some(407)));

    let answer = send(egress.connect().await, get("/tools/api/x")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    egress.record().await;

    let foreign = EgressKey::generate().unwrap().mint(agent.policy.revision);
    let unknown = egress.key.mint(RevisionId::mint());
    for bad in [Secret::new(""), Secret::new("hwe_x"), foreign, unknown] {
        let mut request = get("http://api.test/x");
        request.headers_mut().insert("proxy-authorization", basic(&bad).parse().unwrap());
        let answer = send(egress.connect().await, request).await;
        assert_eq!(answer.status, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
        assert_eq!(egress.record().await.refused, Some("identity_unknown"));
        let line = format!(
            "CONNECT api.test:80 HTTP/1.1\r\nHost: api.test:80\r\nProxy-Authorization: {}\r\nConnection: close\r\n\r\n",
            basic(&bad)
        );
        assert!(egress.raw(line).await.starts_with("HTTP/1.1 407 "));
        egress.record().await;
    }
    for value in ["Bearer x", "Basic", "Basic !", "Basic eA=="] {
        let mut request = get("http://api.test/x");
        request.headers_mut().insert("proxy-authorization", value.parse().unwrap());
        assert_eq!(send(egress.connect().await, request).await.status, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    }
    assert_eq!(tool_server.connections(), 0);
}

#[tokio::test]
async fn a_token_is_good_for_its_own_agent_only() {
    let (egress, [a, b], tool_server) = start().await;
    let answer = egress.send(&a, get("http://api.test/x")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = egress.send(&b, get("http://api.test/x")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "host_not_allowed"));
    let text = answer.json();
    assert_eq!(text["code"], "egress_denied");
    assert_eq!(
        text["error"],
        "http://api.test is the tool \"api\", which this agent does not require: add it to required_tools"
    );
    assert_eq!(tool_server.connections(), 1);
    let (first, second) = (egress.record().await, egress.record().await);
    assert_eq!((first.agent.unwrap().as_str(), second.agent.unwrap().as_str()), ("a", "b"));
    assert_eq!((first.refused, second.refused), (None, Some("host_not_allowed")));
    assert_eq!(first.revision, Some(a.policy.revision));
}

#[tokio::test]
async fn while_policies_cannot_be_looked_up_nothing_is_called() {
    let (egress, [agent, _], tool_server) = start().await;
    egress.policies_are_lost.store(true, Ordering::SeqCst);
    let answer = egress.send(&agent, get("http://api.test/x")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "policy_unavailable"));
    assert_eq!(answer.headers["retry-after"], "1");
    egress.policies_are_lost.store(false, Ordering::SeqCst);
    assert_eq!(egress.send(&agent, get("http://api.test/x")).await.status, StatusCode::OK);
    assert_eq!(tool_server.connections(), 1);
}

#[tokio::test]
async fn a_preface_says_who_calls() {
    let (egress, [agent, _], _) = start().await;
    for request in [get("http://api.test/x"), get("http://127.0.0.1:3128/tools/api/x"), get("/tools/api/x")] {
        let stream = egress.prefaced(&agent.token, Flavour::Proxy, 3128).await;
        let answer = send(stream, request).await;
        assert_eq!((answer.status, answer.json()["path"].as_str()), (StatusCode::OK, Some("/x")));
    }
    let stream = egress.prefaced(&Secret::new("hwe_x"), Flavour::Proxy, 3128).await;
    assert_eq!(send(stream, get("/tools/api/x")).await.status, StatusCode::UNAUTHORIZED);
    for broken in ["HOISTWAY-EGRESS/1 x\nGET / HTTP/1.1\r\n\r\n", &format!("HOISTWAY-EGRESS/1 {}", "x".repeat(400))] {
        assert_eq!(exchange(egress.connect().await, broken).await, "");
    }
    // One that begins like a preface and is none.
    let head = "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(egress.raw(head).await.starts_with("HTTP/1.1 200 "));
}
