//! `/api/agents/{name}/budget`.

use crate::{fakes::name, test_gateway::TestGateway};
use hoistway_model::usage::{UsageReport, UsageRow, UsageSums};
use serde_json::json;

fn row(start: i64, model: &str, sums: UsageSums) -> UsageRow {
    UsageRow { start, agent: "a".into(), provider: "p".into(), model: model.into(), user: String::new(), sums }
}

#[tokio::test]
async fn models_without_a_price_are_listed() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    let sums = |priced_requests| UsageSums { requests: 2, priced_requests, ..UsageSums::default() };
    let rows = vec![row(0, "m", sums(2)), row(0, "n", sums(0)), row(0, "o", sums(1))];
    *gateway.egress.usage.lock().unwrap() = UsageReport { rows, ..UsageReport::default() };
    assert_eq!(gateway.get("/api/agents/a/budget").await.json()["unpriced_models"], json!(["n", "o"]));
    let asked = gateway.egress.usage_queries.lock().unwrap().pop().unwrap();
    assert_eq!((asked.agent.unwrap().as_str(), asked.group_by.model, asked.group_by.provider), ("a", true, false));
}

#[tokio::test]
async fn a_budget_is_set_by_administrators_and_outlives_its_agent() {
    let gateway = TestGateway::start().await;
    let path = "/api/agents/a/budget";
    let limits = r#"{"tokens_per_day": 1000, "cost_per_month": 2.5}"#;
    assert_eq!(gateway.get(path).await.status, 404);
    let early = gateway.call("PUT", path, limits).await;
    let warning = "there is no agent of this name now: the budget is in force when one is deployed";
    assert_eq!((early.status, &early.json()["warnings"]), (200, &json!([warning])), "{}", early.text);
    assert_eq!(gateway.call("PUT", "/api/agents/A%20b/budget", limits).await.status, 400);
    assert_eq!(gateway.call("DELETE", path, "").await.status, 200);
    gateway.agents.add("a");
    let none = gateway.get(path).await;
    assert_eq!((none.status, &none.json()["budget"], &none.json()["limits"]), (200, &json!({}), &json!([])));
    let none = gateway.call("DELETE", path, "").await;
    assert!(none.status == 404 && none.text.contains("PUT /api/agents/a/budget sets one"), "{}", none.text);
    let (_, deployer) = gateway.make_key("ci", &["deploy"]).await;
    assert_eq!(gateway.call_as(&deployer, "PUT", path, limits).await.status, 403);
    assert_eq!(gateway.call_as(&deployer, "DELETE", path, "").await.status, 403);

    let set = gateway.call("PUT", path, limits).await;
    let budget = json!({"tokens_per_day": 1000, "cost_per_month": "2.5"});
    assert_eq!((set.status, &set.json()["budget"]), (200, &budget));
    assert_eq!(set.json()["warnings"], json!(null));
    let shown = gateway.call_as(&deployer, "GET", path, "").await.json();
    let limit = json!({
        "limit": "tokens_per_day", "most": 1000, "used": 0, "share": 0.0, "resets_at": "1970-01-02T00:00:00.000Z",
    });
    assert_eq!((&shown["limits"][0], &shown["unpriced_models"]), (&limit, &json!(["m"])));
    let again = gateway.call("PUT", path, shown["budget"].to_string()).await;
    assert_eq!(again.json()["budget"], budget, "what is shown can be set");
    let wrong = gateway.call("PUT", path, r#"{"token_per_day": 1}"#).await;
    assert!(wrong.status == 400 && wrong.text.contains("did you mean"), "{}", wrong.text);

    let other = hoistway_model::budget::Budget::new([(hoistway_model::budget::BudgetLimit::TokensPerDay, 1)]).unwrap();
    gateway.egress.budgets.lock().unwrap().insert(name("gone"), other);
    assert_eq!(gateway.get("/api/agents/gone/budget").await.status, 200);
    assert_eq!(gateway.call("DELETE", "/api/agents/gone/budget", "").await.status, 200);
    assert_eq!(gateway.call("DELETE", "/api/agents/gone/budget", "").await.status, 404);
}
