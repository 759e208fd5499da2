//! What goes on in the background while a deployment is watched: events, and a build's lines.

use super::Api;
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long to wait before a lost connection is tried again, at first and at most.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long the events may take to begin.
const OPEN: Duration = Duration::from_secs(10);
/// The events' heartbeat comes every 15 seconds: after three that are missing nobody is there.
pub const SILENCE: Duration = Duration::from_secs(45);
/// How often in a row a build's log is asked for in vain.
const TRIES: u32 = 5;
/// Events, and lines of a build, that may wait to be told.
const WAITING: usize = 256;

/// News of the deployments of an agent.
#[derive(Debug)]
pub enum Change {
    /// Something happened.
    Event(Value),
    /// What happened is not known: the events begin here, some are missing, or none has come for a while (another
    /// gateway may do the work).
    Unknown,
}

/// Follows the events of an agent's deployments and builds. The first change is [`Change::Unknown`], and so is the
/// first one after a lost connection; where events cannot be had at all, it comes as time passes.
pub struct Changes {
    changes: mpsc::Receiver<Change>,
    task: JoinHandle<()>,
}

impl Changes {
    /// Of one agent.
    pub fn of(api: Api, agent: String) -> Self {
        let (send, changes) = mpsc::channel(WAITING);
        Self { changes, task: tokio::spawn(events(api, agent, send)) }
    }

    /// Returns the next change. An unknown one stands for everything that waits behind it.
    pub async fn next(&mut self) -> Change {
        match self.changes.recv().await {
            Some(Change::Event(event)) => Change::Event(event),
            Some(Change::Unknown) => {
                while self.changes.try_recv().is_ok() {}
                Change::Unknown
            }
            None => {
                sleep(BACKOFF.1).await;
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
    let mut backoff = BACKOFF.0;
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
                backoff = BACKOFF.0;
            }
        }
        if send.send(Change::Unknown).await.is_err() {
            return;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// What a line of the events says.
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
    /// Of one attempt.
    pub fn of(api: Api, attempt: String) -> Self {
        let (send, lines) = mpsc::channel(WAITING);
        Self { lines, task: tokio::spawn(lines_of(api, attempt, send)) }
    }

    /// The next line; `None` when the build has ended, or its lines cannot be had.
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
    let mut mark = Mark::default();
    let mut backoff = BACKOFF.0;
    for _ in 0..TRIES {
        loop {
            let before = mark.clone();
            let ended = match read(&api, &attempt, &mut mark, &send).await {
                Read::Ended => match api.get(&["builds", &attempt], &[]).await {
                    Ok(build) => matches!(build["status"].as_str(), Some("SUCCEEDED" | "FAILED")),
                    Err(failure) => !failure.is_transient(),
                },
                Read::Lost => false,
                Read::Refused => true,
            };
            if ended {
                return;
            }
            if mark == before {
                break;
            }
            backoff = BACKOFF.0;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

enum Read {
    Ended,
    Lost,
    Refused,
}

/// Reads on after `mark`.
async fn read(api: &Api, attempt: &str, mark: &mut Mark, send: &mpsc::Sender<String>) -> Read {
    let since = mark.time.clone();
    let mut query = vec![("follow", "true"), ("format", "json")];
    if !since.is_empty() {
        query.push(("since", &since));
    }
    let mut lines = match api.stream(Method::GET, &["builds", attempt, "logs"], &query, None).await {
        Ok(lines) => lines,
        Err(failure) if failure.is_transient() => return Read::Lost,
        Err(_) => return Read::Refused,
    };
    let mut known = mark.lines;
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Read::Ended,
            Err(_) => return Read::Lost,
        };
        let Some(text) = mark.pass(&line, &since, &mut known) else { continue };
        if send.send(text).await.is_err() {
            return Read::Refused;
        }
    }
}

/// Where a log was read to: the time of the last line, and how many lines of that very time there were.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Mark {
    time: String,
    lines: usize,
}

impl Mark {
    /// A line as JSON; `None` if it is one of the `known` ones of the time `since`.
    fn pass(&mut self, line: &str, since: &str, known: &mut usize) -> Option<String> {
        let line: Value = serde_json::from_str(line).ok()?;
        if let Some(skipped) = line["skipped"].as_u64() {
            return Some(format!("… {skipped} lines skipped: they came faster than they were read …"));
        }
        let (time, text) = (line["time"].as_str()?, line["text"].as_str()?);
        if time == since && *known > 0 {
            *known -= 1;
            return None;
        }
        if self.time != time {
            *self = Self { time: time.to_owned(), lines: 0 };
        }
        self.lines += 1;
        Some(text.to_owned())
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
        let mut mark = Mark::default();
        let first: Vec<_> = [&a, &b, &c].iter().filter_map(|line| mark.pass(line, "", &mut 0)).collect();
        assert_eq!(first, ["a", "b", "c"]);
        let (since, mut known) = (mark.time.clone(), mark.lines);
        let again: Vec<_> = [&b, &c, &d].iter().filter_map(|line| mark.pass(line, &since, &mut known)).collect();
        assert_eq!(again, ["d"]);
        assert_eq!(mark, Mark { time: "2".into(), lines: 3 });
    }
}
