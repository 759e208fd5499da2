//! `GET /api/status`.

use crate::test_gateway::TestGateway;
use serde_json::json;

#[tokio::test]
async fn the_status_shows_runtime_and_egress() {
    let gateway = TestGateway::start().await;
    let runtime = json!({"name": "process", "isolation": "not sandboxed", "network": "open", "limits": "none",
        "python": "3.11", "details": ["no namespaces for agents: it is a fake"]});
    assert_eq!(
        gateway.get("/api/status").await.json(),
        json!({
            "version": env!("CARGO_PKG_VERSION"), "namespace": "agent-system", "runtime": runtime,
            "egress": {"reachable": true, "complete": true, "connected": true, "tools": 2, "revisions": 1},
        })
    );
    gateway.egress.status.lock().unwrap().as_mut().unwrap().identities.connected = false;
    assert_eq!(gateway.get("/api/status").await.json()["egress"]["connected"], false);
    // An egress that does not answer is a state of the installation, not a failure of the answer.
    *gateway.egress.status.lock().unwrap() = None;
    assert_eq!(
        gateway.get("/api/status").await.json()["egress"],
        json!({"reachable": false, "complete": false, "connected": false, "tools": 0, "revisions": 0})
    );
}
