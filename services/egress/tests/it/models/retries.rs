//! The time that egress waits for a provider's answer, and the retries of a call.

use super::*;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const MESSAGE: &str = r#"{"model": "m", "messages": [{"role": "user", "content": "hello"}]}"#;
const FAILING: &str = "/failing/chat/completions";

/// Egress with a model `m`, whose provider answers what `path` means.
async fn provider(
    protocol: Protocol,
    path: &str,
    timeout: Option<Duration>,
    retries: u32,
) -> (TestEgress, Agent, MockTool) {
    let ModelBackend::Server(server) = server_of(protocol, "main", &format!("https://llm.test{path}")) else {
        panic!()
    };
    let server = ModelServer { timeout, retries, ..(*server).clone() };
    egress(vec![model(LlmRole::Chat, "m", ModelBackend::Server(Arc::new(server)))]).await
}

async fn failing(retries: u32) -> (TestEgress, Agent, MockTool) {
    provider(Protocol::OpenAi, "/failing", None, retries).await
}

async fn call(egress: &TestEgress, agent: &Agent) -> Answer {
    egress.send(agent, post(CHAT, MESSAGE)).await
}

#[tokio::test]
async fn a_call_is_made_again_as_it_was_until_it_is_answered_and_counts_once() {
    let (egress, agent, tool_server) = failing(3).await;
    tool_server.fails([Some((503, "0")), Some((429, "1")), None]);
    let answer = call(&egress, &agent).await;
    assert_eq!((answer.status, answer.headers.get("retry-after")), (StatusCode::OK, None));
    let seen = tool_server.seen(FAILING);
    assert_eq!(seen.len(), 4);
    for attempt in seen {
        assert_eq!(attempt["json"], serde_json::from_str::<Value>(MESSAGE).unwrap());
        assert_eq!(attempt["headers"]["authorization"], "Bearer sk-of-main");
    }
    let record = egress.record().await;
    assert_eq!((record.status, record.refused, record.broken), (Some(200), None, None));
    let [(_, sums)] = &egress.usage().await[..] else { panic!() };
    assert_eq!((sums.requests, sums.failed_requests), (1, 0));
}

#[tokio::test]
async fn without_retries_an_error_passes_on_and_with_them_the_last_one() {
    for (retries, made) in [(0, 1), (1, 2)] {
        let (egress, agent, tool_server) = failing(retries).await;
        tool_server.fails([Some((503, "0")); 6]);
        let answer = call(&egress, &agent).await;
        assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap()), (503, "0"));
        assert_eq!(answer.json()["path"], FAILING);
        assert!(answer.headers.get("x-hoistway-egress").is_none());
        assert_eq!(tool_server.seen(FAILING).len(), made);
    }
}

#[tokio::test]
async fn client_errors_and_long_waits_are_not_retried() {
    for failure in [(429, "60"), (400, "0"), (401, "0")] {
        let (egress, agent, tool_server) = failing(5).await;
        tool_server.fails([Some(failure)]);
        assert_eq!(call(&egress, &agent).await.status.as_u16(), failure.0);
        assert_eq!(tool_server.seen(FAILING).len(), 1, "{failure:?}");
    }
}

#[tokio::test]
async fn a_provider_that_closes_connections_is_named_with_the_number_of_attempts() {
    let (egress, agent, tool_server) = failing(1).await;
    tool_server.fails([None, None]);
    let answer = call(&egress, &agent).await;
    let text = "the model provider \"main\" closed the connection without an answer; made 2 attempts";
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (StatusCode::BAD_GATEWAY, Some(text)));
    assert_eq!(tool_server.seen(FAILING).len(), 2);
    assert_eq!(egress.record().await.error.as_deref(), Some(text));
}

#[tokio::test]
async fn a_translated_call_is_made_again_too() {
    let (egress, agent, tool_server) = provider(Protocol::Anthropic, "/failing", None, 1).await;
    tool_server.fails([Some((529, "0")); 2]);
    let answer = call(&egress, &agent).await;
    assert_eq!((answer.status.as_u16(), answer.json()["error"]["type"].as_str()), (529, Some("api_error")));
    assert_eq!(tool_server.seen("/failing/v1/messages").len() + tool_server.seen("/failing/messages").len(), 2);
}

#[tokio::test]
async fn a_provider_has_its_own_time_which_is_not_given_twice() {
    let (egress, agent, tool_server) = provider(Protocol::OpenAi, "/hang", Some(Duration::from_secs(1)), 3).await;
    let answer = call(&egress, &agent).await;
    let text = "the model provider \"main\" did not answer within 1 s: its timeout_seconds";
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (StatusCode::GATEWAY_TIMEOUT, Some(text)));
    assert_eq!(tool_server.connections(), 1);
    assert_eq!(egress.record().await.refused, Some("timeout"));
}

#[tokio::test]
async fn a_stream_that_has_begun_is_not_made_again() {
    let (egress, agent, tool_server) = provider(Protocol::OpenAi, "/stream", None, 3).await;
    let events = tool_server.stream();
    events.send(Bytes::from("data: 1\n\n")).await.unwrap();
    drop(events);
    let answer = call(&egress, &agent).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"data: 1\n\n"[..]));
    assert_eq!(tool_server.connections(), 1);
}

#[tokio::test]
async fn an_agent_that_goes_away_ends_the_wait_for_the_next_attempt() {
    let (egress, agent, tool_server) = failing(5).await;
    tool_server.fails([Some((503, "30")); 6]);
    assert!(timeout(Duration::from_secs(1), call(&egress, &agent)).await.is_err());
    let record = timeout(SOON, egress.record()).await.unwrap();
    assert_eq!(record.broken, Some("agent_went_away"));
    assert!(tool_server.seen(FAILING).len() <= 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_provider_closed_is_replaced_once_whatever_the_retries() {
    let (egress, agent, tool_server) = failing(0).await;
    tool_server.fails([None]);
    assert_eq!(call(&egress, &agent).await.status, StatusCode::BAD_GATEWAY, "a new connection was not closed before");
    assert_eq!((tool_server.seen(FAILING).len(), tool_server.connections()), (1, 1));
    assert_eq!(call(&egress, &agent).await.status, StatusCode::OK);
    tool_server.fails([None]);
    assert_eq!(call(&egress, &agent).await.status, StatusCode::OK);
    assert_eq!((tool_server.seen(FAILING).len(), tool_server.connections()), (4, 3));
    let usage = egress.usage().await;
    assert_eq!((usage[0].1.requests, usage[0].1.failed_requests), (3, 1));
    call(&egress, &agent).await;
    tool_server.fails([None, None]);
    let answer = call(&egress, &agent).await;
    let text = "the model provider \"main\" closed the connection without an answer";
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (StatusCode::BAD_GATEWAY, Some(text)));
    assert_eq!(tool_server.seen(FAILING).len(), 7);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_within_an_answer_is_not_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let ModelBackend::Server(server) = server("main", &url) else { panic!() };
    let server = ModelServer { allow_private: true, ..(*server).clone() };
    let (egress, agent, _standin) =
        egress(vec![model(LlmRole::Chat, "m", ModelBackend::Server(Arc::new(server)))]).await;
    let provider = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 2"] {
            let mut read = Vec::new();
            while !read.ends_with(MESSAGE.as_bytes()) {
                read.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        drop(stream);
        listener.accept().await.unwrap();
    };
    let calls = async {
        assert_eq!(call(&egress, &agent).await.body, "{}");
        assert_eq!(call(&egress, &agent).await.status, StatusCode::BAD_GATEWAY);
    };
    tokio::select! {
        () = calls => {}
        () = provider => panic!("another connection was made"),
    }
}
