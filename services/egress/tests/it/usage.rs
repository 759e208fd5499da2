//! The usage of calls of models: the provider's own numbers, and an estimate where they did not come.

use crate::{
    mock_tool::MockTool,
    models::{CHAT, chat, egress, model, server},
    test_egress::{Agent, SOON, TestEgress, basic, post},
};
use bytes::Bytes;
use hoistway_client::{EgressClient, Transport};
use hoistway_egress::policy::{ModelBackend, ModelPolicy};
use hoistway_kit::{
    invoke_statement::{InvokeStatement, InvokeStatementKey},
    time::now_ms,
};
use hoistway_model::{
    EgressService, ModelPrice,
    agent::LlmRole,
    budget::BudgetLimit,
    usage::{UsageGroups, UsageQuery, UsageSums},
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::time::timeout;

impl TestEgress {
    /// Sums of today, each with what it is of.
    pub async fn usage(&self) -> Vec<(String, UsageSums)> {
        let client = EgressClient::new(Transport::connect("egress", &self.grpc, &self.token).unwrap());
        let group_by = UsageGroups { agent: true, provider: true, model: true, user: true };
        let query = UsageQuery { from: now_ms() - 3_600_000, to: now_ms(), group_by, ..UsageQuery::default() };
        let rows = client.usage(query).await.unwrap().rows;
        rows.into_iter().map(|r| (format!("{}/{}/{}/{}", r.agent, r.provider, r.model, r.user), r.sums)).collect()
    }

    /// The one sum, as `requests failed estimated input cached output`.
    async fn used(&self) -> String {
        let usage = self.usage().await;
        let [(_, sums)] = &usage[..] else { panic!("{usage:?}") };
        format!(
            "{} {} {} {} {} {}",
            sums.requests,
            sums.failed_requests,
            sums.estimated_requests,
            sums.input_tokens,
            sums.cached_input_tokens,
            sums.output_tokens
        )
    }
}

/// Egress with a model `m` whose provider answers what `path` means.
async fn provider(path: &str) -> (TestEgress, Agent, MockTool) {
    egress(vec![model(LlmRole::Chat, "m", server("main", &format!("https://llm.test{path}")))]).await
}

/// An answer that comes in pieces, and the connection that it comes on.
async fn stream(egress: &TestEgress, agent: &Agent, body: &str) -> http::Response<Incoming> {
    let request = Request::post(CHAT).header("proxy-authorization", basic(&agent.token)).header("host", "egress");
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(egress.connect().await)).await.unwrap();
    tokio::spawn(connection);
    timeout(SOON, sender.send_request(request)).await.unwrap().unwrap()
}

const PIECE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const STREAM: &str = r#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "1234567890123456"}]}"#;

#[tokio::test]
async fn the_numbers_of_an_answer_are_kept_before_it_ends() {
    let (egress, agent, tool_server) = provider("/token").await;
    let details = json!({"cached_tokens": 30});
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": details});
    tool_server.tokens([(200, json!({"choices": [], "usage": usage}))]);
    let invoke = InvokeStatement { user: Some("ada".into()), ..InvokeStatement::default() };
    let key = InvokeStatementKey::new(&egress.token).unwrap();
    let user = key.issue(&agent.policy.agent, &invoke, now_ms() + 60_000).unwrap();
    let (mut parts, body) = post(CHAT, r#"{"model": "m"}"#).into_parts();
    parts.headers.insert("x-hoistway-end-user", user.parse().unwrap());
    parts.headers.insert("accept-encoding", "gzip, br".parse().unwrap());
    for n in 1..=3 {
        let request = Request::from_parts(parts.clone(), body.clone());
        assert_eq!(egress.send(&agent, request).await.json()["usage"], usage);
        assert_eq!(egress.used().await, format!("{n} 0 0 {} {} {}", n * 100, n * 30, n * 20));
    }
    assert_eq!(egress.usage().await[0].0, "a/main/m/ada");
    let sent = &tool_server.seen("/token/chat/completions")[0];
    assert_eq!(sent["headers"]["accept-encoding"], "identity", "what is compressed is hard to count");
    chat(&egress, &agent, json!({"model": "m"})).await;
    assert_eq!(egress.usage().await[0].0, "a/main/m/", "nobody was stated");
}

#[tokio::test]
async fn a_stream_is_made_to_say_its_usage_which_the_agent_does_not_get_unasked() {
    let (egress, agent, tool_server) = provider("/stream").await;
    for (body, expected) in [
        (STREAM.to_owned(), [PIECE, DONE].concat()),
        (STREAM.replace("true,", r#"true, "stream_options": {"include_usage": true},"#), [PIECE, USAGE, DONE].concat()),
    ] {
        let pieces = tool_server.stream();
        let response = stream(&egress, &agent, &body).await;
        for piece in [PIECE, USAGE, DONE] {
            pieces.send(Bytes::from(piece)).await.unwrap();
        }
        drop(pieces);
        let got = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        assert_eq!(got, expected);
    }
    assert_eq!(egress.used().await, "2 0 0 18 0 8");
}

#[tokio::test]
async fn the_count_is_kept_when_the_last_event_arrives() {
    let (egress, agent, tool_server) = provider("/stream").await;
    let pieces = tool_server.stream();
    let mut response = stream(&egress, &agent, STREAM).await;
    pieces.send(Bytes::from([USAGE, DONE].concat())).await.unwrap();
    let frame = timeout(SOON, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), DONE);
    assert_eq!(egress.used().await, "1 0 0 9 0 4", "while the provider has not ended the stream yet");
}

#[tokio::test]
async fn a_stream_with_an_error_in_it_has_failed() {
    let (egress, agent, tool_server) = provider("/stream").await;
    let pieces = tool_server.stream();
    let response = stream(&egress, &agent, STREAM).await;
    let error = "data: {\"error\":{\"message\":\"s3cret\",\"type\":\"server_error\"}}\n\n";
    for piece in [PIECE, error] {
        pieces.send(Bytes::from(piece)).await.unwrap();
    }
    drop(pieces);
    let got = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(got, [PIECE, error].concat());
    let record = egress.record().await;
    assert_eq!((record.status, record.broken), (Some(200), Some("provider_error")));
    assert_eq!(record.error.as_deref(), Some("the provider ended its answer with server_error"));
    assert_eq!(egress.used().await, "1 1 1 4 0 2");
}

#[tokio::test]
async fn a_stream_that_is_cut_costs_an_estimate() {
    let (egress, agent, tool_server) = provider("/stream").await;
    let pieces = tool_server.stream();
    let mut response = stream(&egress, &agent, STREAM).await;
    for _ in 0..2 {
        pieces.send(Bytes::from(PIECE)).await.unwrap();
        timeout(SOON, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
    }
    drop(response);
    assert_eq!(egress.record().await.broken, Some("agent_went_away"));
    while egress.usage().await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(egress.used().await, "1 0 1 4 0 4");
}

#[tokio::test]
async fn an_answer_that_is_none_reaches_the_agent_and_is_recorded_as_what_it_is() {
    for (kind, body, used) in [
        ("text/html", "<html>busy</html>", "1 1 0 0 0 0"),
        ("application/json", r#"{"choices": [{"message": {"content": "12345678"#, "1 1 1 0 0 2"),
    ] {
        let (egress, agent, tool_server) = provider("/canned").await;
        tool_server.cans(200, &[("content-type", kind)], body);
        let answer = chat(&egress, &agent, json!({"model": "m"})).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, body.as_bytes()));
        assert_eq!(egress.record().await.broken, Some("invalid_answer"));
        assert_eq!(egress.used().await, used, "{kind}");
    }
}

#[tokio::test]
async fn refused_requests_count_no_tokens() {
    let (egress, agent, _standin) = provider("/status/500").await;
    assert_eq!(chat(&egress, &agent, json!({"model": "m", "messages": []})).await.status.as_u16(), 500);
    let (away, other) = (model(LlmRole::Chat, "m", server("main", "https://away.test/v1")), "not reached at all");
    assert_eq!(egress.used().await, "1 1 0 0 0 0");
    let (egress, agent, _standin) = self::egress(vec![away]).await;
    assert_eq!(chat(&egress, &agent, json!({"model": "m"})).await.status, StatusCode::BAD_GATEWAY, "{other}");
    assert_eq!(egress.used().await, "1 1 0 0 0 0");
}

#[tokio::test]
async fn a_model_with_a_price_costs_what_the_price_says_exactly_and_stops_at_a_budget_of_money() {
    let amount = |text: &str| text.parse().unwrap();
    let price = ModelPrice { input: amount("2.5"), cached_input: amount("1.25"), output: amount("10") };
    let priced = model(LlmRole::Chat, "m", server("main", "https://llm.test/token"));
    let unpriced = model(LlmRole::Classify, "free", server("main", "https://llm.test/token"));
    let (egress, agent, tool_server) = self::egress(vec![ModelPolicy { price: Some(price), ..priced }, unpriced]).await;
    let details = json!({"cached_tokens": 30});
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": details});
    tool_server.tokens([(200, json!({"usage": usage}))]);
    let client = egress.set_budget(BudgetLimit::CostPerDay, 500_000_000).await;
    for model in ["free", "m", "free", "m"] {
        assert_eq!(chat(&egress, &agent, json!({"model": model})).await.status, StatusCode::OK);
    }
    // 70 fresh, 30 cached and 20 of the answer: 0.000175 + 0.0000375 + 0.0002, twice.
    let usage = egress.usage().await;
    let of = |at: usize| (usage[at].0.as_str(), usage[at].1.priced_requests, usage[at].1.cost.to_string());
    assert_eq!((of(0), of(1)), (("a/main/free/", 0, "0".into()), ("a/main/m/", 2, "0.000825".into())));
    assert_eq!(chat(&egress, &agent, json!({"model": "m"})).await.status, StatusCode::TOO_MANY_REQUESTS);
    let budget = client.budget(agent.policy.agent.clone()).await.unwrap().unwrap();
    assert_eq!((budget.limits[0].used, budget.unpriced_models), (825_000_000, vec!["free".to_owned()]));
}

#[tokio::test]
async fn unwritten_usage_is_reported() {
    let (egress, agent, tool_server) = provider("/token").await;
    let usage = json!({"usage": {"prompt_tokens": 3, "completion_tokens": 4}});
    tool_server.tokens([(200, usage.clone()), (200, usage)]);
    chat(&egress, &agent, json!({"model": "m"})).await;
    let held = crate::test_egress::lock(egress.dir.path()).await;
    chat(&egress, &agent, json!({"model": "m"})).await;
    assert_eq!(egress.used().await, "2 0 0 6 0 8");
    held.rollback().await.unwrap();
    // While it is committed, a report from another connection may have it twice.
    let counted = async { while egress.used().await != "2 0 0 6 0 8" {} };
    tokio::time::timeout(crate::test_egress::SOON, counted).await.unwrap();
}

#[tokio::test]
async fn the_playground_is_counted_as_well() {
    let playground = ModelBackend::Playground(crate::test_egress::name("playground-llm"));
    let (egress, agent, _standin) = self::egress(vec![model(LlmRole::Chat, "m", playground)]).await;
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "two words"}]});
    let usage = chat(&egress, &agent, body.clone()).await.json()["usage"].clone();
    assert_eq!(egress.used().await, format!("1 0 0 2 0 {}", usage["completion_tokens"]));
    body["stream"] = json!(true);
    let streamed = chat(&egress, &agent, body).await;
    assert!(!String::from_utf8_lossy(&streamed.body).contains("\"choices\":[]"), "{streamed:?}");
    let (_, sums) = &egress.usage().await[0];
    assert_eq!((sums.requests, sums.input_tokens, sums.estimated_requests), (2, 4, 0));
    let prompt = post("/v1/completions", r#"{"model": "m", "prompt": "one", "stream": true}"#);
    assert_eq!(egress.send(&agent, prompt).await.status, StatusCode::OK);
    let (_, sums) = &egress.usage().await[0];
    assert_eq!((sums.requests, sums.input_tokens, sums.estimated_requests), (3, 5, 0));
}
