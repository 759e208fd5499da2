//! `GET /api/agents/{name}/logs`.

use crate::{streams::chunk, test_gateway::TestGateway};
use hoistway_model::{
    RevisionId,
    log::{LogLine, LogPiece, LogQuery, LogStream},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};

fn line(stream: LogStream, text: &str) -> LogLine {
    LogLine { time_ms: 1_500, stream, revision: None, text: text.into() }
}

#[tokio::test]
async fn the_query_selects_the_lines() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    let asked = async |query: &str| {
        let answer = gateway.get(&format!("/api/agents/a/logs{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        gateway.agents.log_query.lock().unwrap().take().unwrap()
    };
    assert_eq!(asked("").await, LogQuery::default());
    let revision = RevisionId::mint();
    let query = format!("?tail=5&since=1970-01-01T00:00:02Z&stream=STDERR&revision={revision}&follow=false");
    let stream = Some(LogStream::Stderr);
    let expected = LogQuery { since_ms: Some(2_000), stream, revision: Some(revision), ..LogQuery::last(5) };
    assert_eq!(asked(&query).await, expected);
    let now = hoistway_kit::time::now_ms();
    let since = asked("?since=10m&follow").await;
    assert!(since.follow && (now - 600_000..now - 500_000).contains(&since.since_ms.unwrap()), "{since:?}");

    for (query, why) in [
        (
            "?since=yesterday",
            "since: \"yesterday\" is neither a time such as 2026-11-23T15:04:05Z nor a span such as 10m",
        ),
        ("?stream=stdin", "stream: \"stdin\" is not one of stdout, stderr, platform"),
        ("?revision=1", "revision: \"1\" is not an id"),
        ("?format=xml", "format: \"xml\" is not one of text, json, ndjson"),
        ("?tail=-1", "tail: \"-1\" is not a whole number from 0 to 100000"),
    ] {
        let answer = gateway.get(&format!("/api/agents/a/logs{query}")).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {why}"));
    }
    assert_eq!(gateway.get("/api/agents/b/logs?follow=true").await.status, 404);
    assert_eq!(gateway.get("/api/builds/build-1/logs?tail=2").await.text, "two\nthree\n");
}

#[tokio::test]
async fn lines_are_text_or_json() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    let pieces = async |query: &str, headers: &[(&str, &str)]| {
        let log = gateway.log();
        let lines = vec![line(LogStream::Stdout, "one"), line(LogStream::Stderr, "two \"2\"")];
        log.send(LogPiece::Lines(lines)).await.unwrap();
        log.send(LogPiece::Skipped(7)).await.unwrap();
        drop(log);
        let body = gateway.stream(&format!("/api/agents/a/logs{query}"), headers).await;
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    let gap = "… 7 lines skipped: they came faster than they were read …\n";
    assert_eq!(pieces("", &[]).await, format!("one\ntwo \"2\"\n{gap}"));
    let time = "1970-01-01T00:00:01.500Z";
    assert_eq!(pieces("?timestamps", &[]).await, format!("{time} one\n{time} two \"2\"\n{gap}"));
    let expected = [
        json!({"time": time, "stream": "stdout", "text": "one"}),
        json!({"time": time, "stream": "stderr", "text": "two \"2\""}),
        json!({"skipped": 7}),
    ];
    for text in [pieces("?format=json", &[]).await, pieces("", &[("accept", "application/x-ndjson")]).await] {
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, expected);
    }
}

#[tokio::test]
async fn followed_lines_arrive_at_once_and_end_at_shutdown() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    let log = gateway.log();
    let mut body = gateway.stream("/api/agents/a/logs?follow=true", &[]).await;
    for text in ["one", "two"] {
        log.send(LogPiece::Lines(vec![line(LogStream::Stdout, text)])).await.unwrap();
        assert_eq!(chunk(&mut body).await.unwrap(), format!("{text}\n"));
    }
    let mut events = gateway.stream("/api/events", &[]).await;
    chunk(&mut events).await.unwrap();
    gateway.stop();
    assert_eq!((chunk(&mut body).await, chunk(&mut events).await), (None, None));
    log.closed().await;
}
