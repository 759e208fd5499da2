//! What agents used of models, as the API shows it.

use crate::{fakes::name, harness::Gateway};
use hoistway_model::usage::{UsagePeriod, UsageReport, UsageRow, UsageSums};
use serde_json::json;

fn row(start: i64, model: &str, sums: UsageSums) -> UsageRow {
    UsageRow { start, agent: "a".into(), provider: "p".into(), model: model.into(), user: String::new(), sums }
}

#[tokio::test]
async fn usage_is_shown_by_what_it_is_grouped_by_and_in_total() {
    let gateway = Gateway::start().await;
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
async fn the_usage_of_an_agent_that_never_was_is_not_found() {
    let gateway = Gateway::start().await;
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

#[tokio::test]
async fn models_without_a_price_are_named_without_a_budget_too() {
    let gateway = Gateway::start().await;
    gateway.agents.add("a");
    let sums = |priced_requests| UsageSums { requests: 2, priced_requests, ..UsageSums::default() };
    let rows = vec![row(0, "m", sums(2)), row(0, "n", sums(0)), row(0, "o", sums(1))];
    *gateway.egress.usage.lock().unwrap() = UsageReport { rows, ..UsageReport::default() };
    assert_eq!(gateway.get("/api/agents/a/budget").await.json()["unpriced_models"], json!(["n", "o"]));
    let asked = gateway.egress.usage_queries.lock().unwrap().pop().unwrap();
    assert_eq!((asked.agent.unwrap().as_str(), asked.group_by.model, asked.group_by.provider), ("a", true, false));
}

#[tokio::test]
async fn a_budget_is_set_by_administrators_for_the_names_of_agents_and_outlives_them() {
    let gateway = Gateway::start().await;
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
