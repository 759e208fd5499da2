//! Budgets: how far an agent comes with one, and what it is told at its end.

use crate::{
    models::{chat, egress, model, server},
    test_egress::{Agent, TestEgress, name, post},
};
use futures_util::StreamExt;
use hoistway_client::{EgressClient, Transport};
use hoistway_model::{
    EgressService,
    agent::LlmRole,
    budget::{Budget, BudgetLimit, LimitUse},
    egress::{CallTarget, CallUpdate},
};
use serde_json::json;
use std::sync::Arc;

const TOKENS: u64 = 10;
const CALLERS: u64 = 32;

impl TestEgress {
    pub async fn set_budget(&self, limit: BudgetLimit, most: u128) -> EgressClient {
        let client = EgressClient::new(Transport::connect("egress", &self.grpc, &self.token).unwrap());
        client.set_budget(name("a"), Some(Budget::new([(limit, most)]).unwrap())).await.unwrap();
        client
    }
}

/// Egress with a provider that uses ten tokens in each call.
async fn spending() -> (TestEgress, Agent, crate::mock_tool::MockTool) {
    let (egress, agent, tool_server) =
        egress(vec![model(LlmRole::Chat, "m", server("main", "https://llm.test/token"))]).await;
    tool_server.tokens([(200, json!({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}))]);
    (egress, agent, tool_server)
}

#[tokio::test]
async fn many_callers_at_once_use_no_more_than_the_calls_in_flight_beyond_a_budget() {
    let (egress, agent, tool_server) = spending().await;
    let client = egress.set_budget(BudgetLimit::TokensPerDay, 1_000).await;
    let mut updates = client.watch_calls(None).await.unwrap();
    let egress = Arc::new(egress);
    let callers = (0..CALLERS).map(|_| {
        let (egress, agent) = (Arc::clone(&egress), agent.clone());
        tokio::spawn(async move {
            let mut answered = 0;
            loop {
                let answer = chat(&egress, &agent, json!({"model": "m"})).await;
                match answer.status.as_u16() {
                    200 => answered += 1,
                    429 => return (answered, answer),
                    other => panic!("{other}: {answer:?}"),
                }
            }
        })
    });
    let ended = futures_util::future::join_all(callers).await;
    let (answered, refused): (Vec<u64>, Vec<_>) = ended.into_iter().map(Result::unwrap).unzip();
    let used = answered.iter().sum::<u64>() * TOKENS;
    assert!((1_000..=1_000 + CALLERS * TOKENS).contains(&used), "{used}");
    assert_eq!(tool_server.seen("/token/chat/completions").len() as u64 * TOKENS, used, "nobody is asked after that");

    let last = refused.last().unwrap();
    let error = &last.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!("budget_exceeded"), &json!("insufficient_quota")));
    let text = error["message"].as_str().unwrap();
    assert!(text.contains("of 1000 tokens_per_day") && text.contains("PUT /api/agents/a/budget"), "{text}");
    assert_eq!(last.headers["x-should-retry"], "false");
    assert!(last.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 86_400);
    let limits = client.budget(name("a")).await.unwrap().unwrap().limits;
    let [LimitUse { used: counted, most: 1_000, .. }] = limits[..] else { panic!("{limits:?}") };
    assert_eq!(counted, u128::from(used));

    let mut told = Vec::new();
    while told.len() < 2 {
        if let CallUpdate::Budget(notice) = updates.next().await.unwrap().unwrap() {
            told.push((notice.limit.used, notice.is_exceeded));
        }
    }
    assert_eq!(told, [(800, false), (1_000, true)], "each mark once");

    // A client of Anthropic is told in its own words.
    let answer = egress.send(&agent, post("/v1/messages", r#"{"model": "m"}"#)).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    client.set_budget(name("a"), None).await.unwrap();
    assert_eq!(chat(&egress, &agent, json!({"model": "m"})).await.status, 200);
}

#[tokio::test]
async fn requests_in_a_minute_are_limited_as_rates_are() {
    let (egress, agent, _standin) = spending().await;
    egress.set_budget(BudgetLimit::RequestsPerMinute, 2).await;
    let mut last = None;
    // The minute may end meanwhile, once.
    for _ in 0..5 {
        last = Some(chat(&egress, &agent, json!({"model": "m"})).await);
    }
    let last = last.unwrap();
    assert_eq!((last.status.as_u16(), &last.json()["error"]["code"]), (429, &json!("rate_limited")));
    assert!(last.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 60);
    assert!(last.headers.get("x-should-retry").is_none());
    let refused = loop {
        let record = egress.record().await;
        if record.refused.is_some() {
            break record;
        }
    };
    assert_eq!(refused.target, Some(CallTarget::ModelProvider(name("main"))), "it is a call of that provider");
}
