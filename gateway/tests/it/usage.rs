//! `GET /api/usage`.

use crate::test_gateway::TestGateway;
use hoistway_model::usage::{UsagePeriod, UsageReport, UsageRow, UsageSums};
use serde_json::json;

fn row(start: i64, model: &str, sums: UsageSums) -> UsageRow {
    UsageRow { start, agent: "a".into(), provider: "p".into(), model: model.into(), user: String::new(), sums }
}

#[tokio::test]
async fn usage_is_summed_by_group_and_in_total() {
    let gateway = TestGateway::start().await;
    let priced = UsageSums {
        requests: 3,
        failed_requests: 1,
        estimated_requests: 1,
        priced_requests: 3,
        input_tokens: 100,
        cached_input_tokens: 40,
        output_tokens: 20,
        cost: "0.0125".parse().unwrap(),
    };
    let unpriced = UsageSums { requests: 1, output_tokens: 5, ..UsageSums::default() };
    let rows = vec![row(0, "m", priced), row(86_400_000, "n", unpriced)];
    *gateway.egress.usage.lock().unwrap() = UsageReport { rows, ..UsageReport::default() };

    let shown = gateway.get("/api/usage?agent=a&from=1970-01-01&to=1970-01-02&per=day&group_by=model").await.json();
    let first = json!({
        "start": "1970-01-01T00:00:00.000Z", "model": "m", "requests": 3, "failed_requests": 1, "estimated_requests": 1,
        "unpriced_requests": 0, "input_tokens": 100, "cached_input_tokens": 40, "output_tokens": 20, "total_tokens": 120,
        "cost": "0.0125",
    });
    assert_eq!((&shown["usage"][0], &shown["usage"][1]["cost"]), (&first, &json!(null)));
    assert_eq!(
        (&shown["from"], &shown["to"]),
        (&json!("1970-01-01T00:00:00.000Z"), &json!("1970-01-03T00:00:00.000Z"))
    );
    let total = &shown["total"];
    assert_eq!(
        (&total["requests"], &total["total_tokens"], &total["cost"]),
        (&json!(4), &json!(125), &json!("0.0125"))
    );
    let asked = gateway.egress.usage_queries.lock().unwrap().pop().unwrap();
    assert_eq!((asked.agent.unwrap().as_str(), asked.per, asked.group_by.model), ("a", UsagePeriod::Day, true));

    let all = gateway.get("/api/v1/usage?group_by=agent,user").await.json();
    assert_eq!((&all["usage"][0]["agent"], &all["usage"][0]["user"]), (&json!("a"), &json!("")));
    for (query, field) in [("since=1d", "since"), ("per=week", "per"), ("from=x", "from"), ("agent=A%20b", "agent")] {
        let wrong = gateway.get(&format!("/api/usage?{query}")).await;
        let text = wrong.json()["error"].as_str().unwrap().to_owned();
        assert!(wrong.status == 400 && text.starts_with(&format!("{field}: ")), "{query}: {text}");
    }
}

#[tokio::test]
async fn an_unknown_agent_is_404() {
    let gateway = TestGateway::start().await;
    let missing = gateway.get("/api/usage?agent=nope").await;
    assert!(missing.status == 404 && missing.text.contains("nope"), "{}", missing.text);
    assert_eq!(gateway.get("/api/usage").await.status, 200, "nobody is asked for");
    gateway.agents.add("idle");
    assert_eq!(gateway.get("/api/usage?agent=idle").await.status, 200);
    let twice = gateway.get("/api/usage?agent=idle&agent=nope").await;
    assert!(twice.status == 400 && twice.text.contains("agent: is given twice"), "{}", twice.text);
    let rows = vec![row(0, "m", UsageSums { requests: 1, ..UsageSums::default() })];
    *gateway.egress.usage.lock().unwrap() = UsageReport { rows, ..UsageReport::default() };
    assert_eq!(gateway.get("/api/usage?agent=gone").await.status, 200, "what it used outlives it");
}
