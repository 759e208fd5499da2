//! `GET /metrics`.

use crate::test_gateway::TestGateway;
use serde_json::json;

#[tokio::test]
async fn metrics_need_a_key_and_have_bounded_labels() {
    let gateway = TestGateway::start().await;
    assert_eq!(gateway.call_with("GET", "/metrics", "", &[]).await.status, 401);
    for path in ["/api/agents", "/api/v1/agents", "/api/nothing", "/api/agents/none/logs", "/what"] {
        gateway.get(path).await;
    }
    gateway.call("BREW", "/api/agents", "").await;
    gateway.post("/api/agents/none/invoke", json!({"message": "x"})).await;
    let answer = gateway.get("/metrics").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text;
    for line in [
        "# TYPE hoistway_http_requests_total counter",
        "hoistway_http_requests_total{method=\"GET\",route=\"/api/agents\",status=\"200\"} 2",
        "hoistway_http_requests_total{method=\"GET\",route=\"unknown path\",status=\"404\"} 2",
        "hoistway_http_requests_total{method=\"other\",route=\"/api/agents\",status=\"405\"} 1",
        "hoistway_http_requests_total{method=\"GET\",route=\"/api/agents/{name}/logs\",status=\"404\"} 1",
        "hoistway_up{service=\"agent\"} 1",
        "hoistway_up{service=\"build\"} 0",
        "hoistway_up{service=\"egress\"} 1",
        "hoistway_egress_dropped_records_total 0",
        "hoistway_up{service=\"tool-registry\"} 1",
        "hoistway_agent_up{agent=\"a\"} 1",
        "hoistway_deployments{state=\"running\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!text.contains("hoistway_invokes_total{"), "what does not exist is no label");
    // The fake agent service is in this process, whose memory is counted once.
    assert_eq!(text.matches("process_resident_memory_bytes{").count(), 1);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && name.starts_with(['h', 'p']), "{line}");
    }
}
