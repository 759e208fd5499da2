//! The logs of agents.

use super::*;
use futures_util::StreamExt;
use hoistway_agent::runtime::LogLimits;
use hoistway_kit::log_collect;
use hoistway_model::log::{LogLine, LogPiece, LogPieces, LogQuery, LogStream};

impl Stage {
    pub async fn logs(&self, agent: &Name, count: u32) -> Vec<LogLine> {
        log_collect::lines(self.runtime.logs(agent, LogQuery::last(count)).await.unwrap()).await.unwrap()
    }

    async fn follow(&self, agent: &Name, query: LogQuery) -> LogPieces {
        self.runtime.logs(agent, LogQuery { follow: true, ..query }).await.unwrap()
    }
}

/// The texts that come until one is `last`; nothing may be skipped.
async fn texts_until(pieces: &mut LogPieces, last: &str) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != last) {
        match tokio::time::timeout(LIMIT, pieces.next()).await.unwrap().unwrap().unwrap() {
            LogPiece::Lines(lines) => texts.extend(lines.into_iter().map(|line| line.text)),
            LogPiece::Skipped(count) => panic!("{count} lines skipped"),
        }
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_kept_masked_and_outlive_the_instance() {
    let stage = Stage::new().await;
    let source = "import os, sys
print('loaded')
def handle(line):
    print('got', line, 'with', os.environ['STRIPE_KEY'])
    print('trouble', CONFIG['token'], file=sys.stderr, end='')
    return line";
    let (instance, started) = stage.ready(source).await;
    ask(&started, "hello").await;
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let lines = stage.logs(&instance.agent, 100).await;
    let of = |stream| lines.iter().filter(|l| l.stream == stream).map(|l| &*l.text).collect::<Vec<_>>();
    assert_eq!(of(LogStream::Stdout), ["loaded", "got hello with ********"]);
    assert_eq!(of(LogStream::Stderr), ["trouble ********"]);
    assert!(lines.iter().all(|l| l.revision == Some(instance.revision) && l.time_ms > 1_600_000_000_000));
    assert_eq!(stage.logs(&instance.agent, 1).await.len(), 1);

    stage.runtime.forget(&instance.agent).await.unwrap();
    assert_eq!(stage.logs(&instance.agent, 100).await, []);
    assert!(!stage.dir.path().join("data/logs/test-agent").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_bounded_and_loses_no_line_in_between() {
    let stage = Stage::with(|config| config.logs = LogLimits { bytes: 400_000, ..LogLimits::default() }).await;
    let source = "def handle(line):
    for n in range(20000): print('line', n)
    return line";
    let (instance, started) = stage.ready(source).await;
    assert_eq!(ask(&started, "flood").await, "flood");
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let lines = stage.logs(&instance.agent, 100_000).await;
    let first: usize = lines[0].text.strip_prefix("line ").unwrap().parse().unwrap();
    assert!(lines.len() > 2000, "{}", lines.len());
    assert!(lines.iter().enumerate().all(|(n, l)| l.text == format!("line {}", first + n)));
    assert_eq!(lines.last().unwrap().text, "line 19999");
    let size: u64 = std::fs::read_dir(stage.dir.path().join("data/logs/test-agent"))
        .unwrap()
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= 400_000, "{size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_every_line_once_over_rotation_and_revisions() {
    let stage = Stage::with(|config| config.logs = LogLimits { bytes: 20_000, ..LogLimits::default() }).await;
    let source = "def handle(line):
    first, count = map(int, line.split())
    for n in range(first, first + count): print('line', n)
    return line";
    let (one, started) = stage.ready(source).await;
    ask(&started, "0 500").await;
    // The answer may overtake the lines.
    texts_until(&mut stage.follow(&one.agent, LogQuery::last(1)).await, "line 499").await;
    let mut pieces = stage.follow(&one.agent, LogQuery::last(100)).await;
    let mut texts = Vec::new();
    for first in (500..1500).step_by(50) {
        // No more at a time than is kept for a follower.
        ask(&started, &format!("{first} 50")).await;
        texts.extend(texts_until(&mut pieces, &format!("line {}", first + 49)).await);
    }
    let expected: Vec<_> = (400..1500).map(|n| format!("line {n}")).collect();
    assert_eq!(texts, expected);

    let (two, newer) = stage.ready(source).await;
    stage.runtime.remove(&one.revision, GRACE).await.unwrap();
    let of_two = LogQuery { revision: Some(two.revision), stream: Some(LogStream::Stdout), ..LogQuery::default() };
    let mut only_two = stage.follow(&one.agent, of_two).await;
    ask(&newer, "1500 10").await;
    let expected: Vec<_> = (1500..1510).map(|n| format!("line {n}")).collect();
    assert_eq!(texts_until(&mut pieces, "line 1509").await, expected);
    assert_eq!(texts_until(&mut only_two, "line 1509").await, expected);

    stage.runtime.remove(&two.revision, GRACE).await.unwrap();
    stage.runtime.forget(&one.agent).await.unwrap();
    assert!(pieces.next().await.is_none(), "it ends with the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_log_readers_use_little_memory_and_see_a_gap() {
    let stage = Stage::new().await;
    let source = "def handle(line):
    for n in range(200000): print('a line of some length to be written', n)
    return line";
    let (instance, started) = stage.ready(source).await;
    let mut pieces = stage.follow(&instance.agent, LogQuery::last(0)).await;
    assert_eq!(ask(&started, "flood").await, "flood", "nobody waits for a reader");
    let (mut seen, mut skipped) = (0, 0);
    // The last lines may still be on their way when the agent has answered.
    while seen + skipped < 200_000 {
        match tokio::time::timeout(LIMIT, pieces.next()).await.unwrap().unwrap().unwrap() {
            LogPiece::Lines(lines) => seen += lines.len() as u64,
            LogPiece::Skipped(count) => skipped += count,
        }
    }
    assert_eq!(seen + skipped, 200_000);
    assert!(skipped > 0);
    // Many more than may follow: the rest are told so, and a place that is given up can be had again.
    let mut others = Vec::new();
    let refused = loop {
        match stage.runtime.logs(&instance.agent, LogQuery { follow: true, ..LogQuery::last(0) }).await {
            Ok(pieces) => others.push(pieces),
            Err(e) => break e,
        }
    };
    assert_eq!((refused.code, others.len()), (hoistway_model::Code::ResourceExhausted, 127));
}
