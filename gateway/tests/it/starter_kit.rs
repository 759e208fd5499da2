//! `POST /api/starter-kit`.

use crate::test_gateway::TestGateway;
use serde_json::json;

#[tokio::test]
async fn no_body_is_needed() {
    let gateway = TestGateway::start().await;
    for _ in 0..2 {
        let answer = gateway.call("POST", "/api/starter-kit", "").await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"status": "ok", "message": "Starter kit resources created"}))
        );
    }
    let mut bound = gateway.agents.bound.subscribe();
    let seen = bound.wait_for(|bound| bound.len() == 2).await.unwrap().clone();
    assert_eq!(seen[0].name.as_str(), "echo-tool");
}
