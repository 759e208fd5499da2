//! Streams over lost connections: events and a build's lines while a deployment is watched, and the parts shared by
//! commands with `--follow`.

use super::{Api, Failure, Outcome, output};
use hoistway_kit::backoff::Backoff;
use reqwest::Method;
use serde_json::Value;
use std::{cmp::Ordering, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// The waits before a lost connection is retried.
pub const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), LONGEST_PAUSE);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The longest wait for a server that does not answer: it may be starting again.
pub const GONE: Duration = Duration::from_secs(60);
/// The longest wait for the events to begin.
const OPEN: Duration = Duration::from_secs(10);
/// The longest silence of the events: their heartbeat comes every 15 seconds, so three are missing.
pub const SILENCE: Duration = Duration::from_secs(45);
/// The maximum number of failed requests in a row for a build's log.
const TRIES: u32 = 5;
/// The maximum number of events, or lines of a build, that are queued.
const WAITING: usize = 256;

/// Paces the retries of a lost connection, until the server has been gone for too long.
#[derive(Debug, Default)]
pub struct Outage {
    /// The time of the loss and the waits before retries; none while there is a connection.
    began: Option<(Instant, Backoff)>,
}

impl Outage {
    /// Waits until the next retry, or returns the failure if there is to be none.
    pub async fn wait(&mut self, failure: Failure) -> Outcome<()> {
        let (since, backoff) = self.began.get_or_insert_with(|| {
            output::progress(&format!("lost    {}; asking again", failure.message()));
            (Instant::now(), BACKOFF)
        });
        if since.elapsed() >= GONE {
            return Err(failure);
        }
        sleep(backoff.pause()).await;
        Ok(())
    }

    /// Records that there is a connection again.
    pub const fn end(&mut self) {
        self.began = None;
    }
}

/// A change of the deployments of an agent.
#[derive(Debug)]
pub enum Change {
    /// An event arrived.
    Event(Value),
    /// The state is not known: the events begin here, some are missing, or none has come for a while (another gateway
    /// may do the work).
    Unknown,
}

/// Follows the events of an agent's deployments and builds. The first change is [`Change::Unknown`], and so is the
/// first one after a lost connection; where events are not available, it comes at intervals.
pub struct Changes {
    changes: mpsc::Receiver<Change>,
    task: JoinHandle<()>,
}

impl Changes {
    /// Follows the events of one agent.
    pub fn of(api: Api, agent: String) -> Self {
        let (send, changes) = mpsc::channel(WAITING);
        Self { changes, task: tokio::spawn(events(api, agent, send)) }
    }

    /// Returns the next change. An unknown one replaces everything queued behind it.
    pub async fn next(&mut self) -> Change {
        match self.changes.recv().await {
            Some(Change::Event(event)) => Change::Event(event),
            Some(Change::Unknown) => {
                while self.changes.try_recv().is_ok() {}
                Change::Unknown
            }
            None => {
                sleep(LONGEST_PAUSE).await;
                Change::Unknown
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn events(api: Api, agent: String, send: mpsc::Sender<Change>) {
    let query = [("agent", agent.as_str()), ("types", "deployment,build")];
    let mut backoff = BACKOFF;
    loop {
        if let Ok(Ok(mut lines)) = timeout(OPEN, api.stream(Method::GET, &["events"], &query, None)).await {
            let mut change = Some(Change::Unknown);
            loop {
                if let Some(change) = change
                    && send.send(change).await.is_err()
                {
                    return;
                }
                let Ok(Ok(Some(line))) = timeout(SILENCE, lines.next()).await else { break };
                change = change_of(&line);
                backoff.reset();
            }
        }
        if send.send(Change::Unknown).await.is_err() {
            return;
        }
        sleep(backoff.pause()).await;
    }
}

/// Parses a line of the events.
fn change_of(line: &str) -> Option<Change> {
    if line.starts_with(':') {
        return Some(Change::Unknown);
    }
    let event: Value = serde_json::from_str(line.strip_prefix("data:")?).ok()?;
    Some(if event["type"] == "reset" { Change::Unknown } else { Change::Event(event) })
}

/// The lines of a build, from its first one to its end, also over lost connections.
pub struct BuildLog {
    lines: mpsc::Receiver<String>,
    task: JoinHandle<()>,
}

impl BuildLog {
    /// Follows the build of one attempt.
    pub fn of(api: Api, attempt: String) -> Self {
        let (send, lines) = mpsc::channel(WAITING);
        Self { lines, task: tokio::spawn(lines_of(api, attempt, send)) }
    }

    /// Returns the next line; `None` when the build has ended, or its lines are not available.
    pub async fn next(&mut self) -> Option<String> {
        self.lines.recv().await
    }
}

impl Drop for BuildLog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn lines_of(api: Api, attempt: String, send: mpsc::Sender<String>) {
    let mut position = LogPosition::default();
    let mut backoff = BACKOFF;
    for _ in 0..TRIES {
        loop {
            let before = position.clone();
            let ended = match read(&api, &attempt, &mut position, &send).await {
                Read::Ended => log_has_ended(&api, "builds", &attempt).await.unwrap_or_else(|e| !e.is_transient()),
                Read::Lost => false,
                Read::Refused => true,
            };
            if ended {
                return;
            }
            if position == before {
                break;
            }
            backoff.reset();
        }
        sleep(backoff.pause()).await;
    }
}

/// Whether a log that reached its end is complete: its build has ended, or its agent is deleted.
pub async fn log_has_ended(api: &Api, kind: &str, name: &str) -> Outcome<bool> {
    match api.get(&[kind, name], &[]).await {
        Ok(it) => Ok(kind == "builds" && matches!(it["status"].as_str(), Some("SUCCEEDED" | "FAILED"))),
        Err(failure) if failure.is_not_found() => Ok(true),
        Err(failure) => Err(failure),
    }
}

enum Read {
    Ended,
    Lost,
    Refused,
}

/// Reads the log after `position`.
async fn read(api: &Api, attempt: &str, position: &mut LogPosition, send: &mpsc::Sender<String>) -> Read {
    let mut passed = position.passed();
    let mut query = vec![("follow", "true"), ("format", "ndjson")];
    query.extend(passed.since.as_deref().map(|since| ("since", since)));
    let mut lines = match api.stream(Method::GET, &["builds", attempt, "logs"], &query, None).await {
        Ok(lines) => lines,
        Err(failure) if failure.is_transient() => return Read::Lost,
        Err(_) => return Read::Refused,
    };
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Read::Ended,
            Err(_) => return Read::Lost,
        };
        let Some(line) = position.advance(&line, &mut passed) else { continue };
        if send.send(text_of(&line)).await.is_err() {
            return Read::Refused;
        }
    }
}

/// The position in a log: the latest time of its lines, and the number of lines with that time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPosition {
    time: String,
    lines: usize,
}

/// The lines that are repeated when reading resumes.
#[derive(Debug)]
pub struct PassedLines {
    /// The time to read from; none at the beginning.
    pub since: Option<String>,
    lines: usize,
}

impl LogPosition {
    /// Returns the query to resume reading from here.
    pub fn passed(&self) -> PassedLines {
        PassedLines { since: Some(self.time.clone()).filter(|time| !time.is_empty()), lines: self.lines }
    }

    /// Advances over a line, written as JSON; returns `None` for a repeated one.
    pub fn advance(&mut self, line: &str, passed: &mut PassedLines) -> Option<Value> {
        let line: Value = serde_json::from_str(line).ok()?;
        // A notice of missing lines has no time.
        let Some(time) = line["time"].as_str() else { return Some(line) };
        if passed.lines > 0 && passed.since.as_deref() == Some(time) {
            passed.lines -= 1;
            return None;
        }
        // Lines of two streams may precede lines of a slightly earlier time.
        match time.cmp(&self.time) {
            Ordering::Greater => *self = Self { time: time.to_owned(), lines: 1 },
            Ordering::Equal => self.lines += 1,
            Ordering::Less => {}
        }
        Some(line)
    }
}

/// Returns the text of a line, or the notice in place of missing ones.
pub fn text_of(line: &Value) -> String {
    match line["skipped"].as_u64() {
        Some(skipped) => format!("… {skipped} lines skipped: they came faster than they were read …"),
        None => line["text"].as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_that_may_be_missing_are_an_unknown_change() {
        for line in [": still here", r#"data: {"type":"reset","data":{}}"#] {
            assert!(matches!(change_of(line), Some(Change::Unknown)), "{line}");
        }
        for line in ["", "id: 1-2", "retry: 2000", "event: reset", "data: nonsense"] {
            assert!(change_of(line).is_none(), "{line}");
        }
        let told = change_of(r#"data: {"type":"build.started"}"#);
        assert!(matches!(told, Some(Change::Event(event)) if event["type"] == "build.started"));
    }

    #[test]
    fn a_log_is_read_on_where_it_broke_off() {
        let line = |time: &str, text: &str| format!(r#"{{"time":"{time}","stream":"stdout","text":"{text}"}}"#);
        let (a, b, c, d) = (line("1", "a"), line("2", "b"), line("2", "c"), line("2", "d"));
        let mut position = LogPosition::default();
        let mut read = |lines: &[&String]| -> Vec<String> {
            let mut passed = position.passed();
            lines.iter().filter_map(|line| position.advance(line, &mut passed)).map(|line| text_of(&line)).collect()
        };
        assert_eq!(read(&[&a, &b, &c]), ["a", "b", "c"]);
        assert_eq!(read(&[&b, &c, &d]), ["d"]);
        // A line with an earlier time does not move the position back.
        assert_eq!(read(&[&b, &c, &d, &a]), ["a"]);
        assert_eq!(read(&[&b, &c, &d]), [""; 0]);
        assert_eq!(position, LogPosition { time: "2".into(), lines: 3 });
        let gap = text_of(&serde_json::json!({"skipped": 7}));
        assert!(gap.contains("7 lines skipped"), "{gap}");
    }
}
