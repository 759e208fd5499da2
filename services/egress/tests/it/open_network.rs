//! Agents with an open network: egress adds keys for their tools and passes everything else on as it is.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, SOON, TestEgress, get, header_key, name, send, tool},
};
use hoistway_egress::{AgentPolicy, policy::static_policy::FixedPolicies};
use hoistway_kit::egress_auth::EgressKey;
use hoistway_model::RevisionId;
use http::StatusCode;
use std::sync::Arc;
use tokio::time::timeout;

async fn egress(open_network: bool) -> (TestEgress, Agent, MockTool, MockTool) {
    let ca = TestCa::new();
    let (api, other) = (MockTool::tls(&ca, "api.test").await, MockTool::plain().await);
    let mut policy = tool("api", "https://api.test");
    policy.credential = header_key("authorization", "Bearer ", "s3cret");
    let (key, revision) = (EgressKey::generate().unwrap(), RevisionId::mint());
    let policy = AgentPolicy {
        agent: name("a"),
        revision,
        tools: vec![policy],
        models: Vec::new(),
        own_key_origins: Vec::new(),
        open_network,
    };
    let agent = Agent { token: key.mint(revision), policy: policy.clone() };
    let policies = Arc::new(FixedPolicies::new([policy]));
    let resolve = vec![format!("api.test:443={}", api.address), format!("other.test:80={}", other.address)];
    let egress = TestEgress::with_policies(&ca, key, policies, |config| config.resolve = resolve).await;
    (egress, agent, api, other)
}

#[tokio::test]
async fn hosts_that_are_no_tool_are_passed_on_unchanged_and_recorded() {
    let (egress, agent, api, other) = egress(true).await;
    let answer = egress.call(&agent, "api.test", get("/v1")).await;
    assert_eq!(answer.json()["headers"]["authorization"], "Bearer s3cret");
    assert!(egress.record().await.target.is_some());

    let mut plain = get("http://other.test/x?y=1");
    plain.headers_mut().insert("authorization", "Bearer own".parse().unwrap());
    let answer = egress.send(&agent, plain).await;
    assert_eq!((answer.status, answer.json()["query"].as_str()), (StatusCode::OK, Some("y=1")));
    assert_eq!(answer.json()["headers"]["authorization"], "Bearer own");
    assert!(answer.json()["headers"].get("proxy-authorization").is_none(), "{answer:?}");
    let record = egress.record().await;
    assert_eq!((record.origin.as_str(), record.path.as_str()), ("http://other.test", "/x"));
    assert_eq!((record.status, record.refused, record.target), (Some(200), None, None));

    let stream = egress.tunnel(&agent, "other.test:80").await.unwrap();
    let mut inside = get("/inside");
    inside.headers_mut().insert("host", "other.test".parse().unwrap());
    inside.headers_mut().insert("connection", "close".parse().unwrap());
    let answer = timeout(SOON, send(stream, inside)).await.unwrap();
    assert_eq!((answer.status, answer.json()["path"].as_str()), (StatusCode::OK, Some("/inside")));
    let record = egress.record().await;
    assert_eq!((record.method.as_str(), record.origin.as_str()), ("CONNECT", "https://other.test:80"));
    assert_eq!((record.agent, record.status, record.refused), (Some(name("a")), Some(200), None));
    assert!(record.bytes_up > 0 && record.bytes_down > 0);
    assert_eq!((api.connections(), other.connections()), (1, 2));
}

#[tokio::test]
async fn metadata_addresses_are_for_no_agent_and_other_hosts_for_none_with_a_closed_network() {
    let (open, agent, ..) = egress(true).await;
    let answer = open.send(&agent, get("http://169.254.169.254/latest")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "private_address"));
    let refused = open.tunnel(&agent, "169.254.169.254:80").await.unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");

    let (closed, agent, _, other) = egress(false).await;
    let answer = closed.send(&agent, get("http://other.test/")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "host_not_allowed"));
    let refused = closed.tunnel(&agent, "other.test:80").await.unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert_eq!(other.connections(), 0);
}
