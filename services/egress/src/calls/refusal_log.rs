//! Refused calls in the logs of the agents that made them: an agent whose own code fails because a host is not its tool
//! should find the reason where it looks first.

use crate::calls::{CallRecord, CallRecords};
use async_trait::async_trait;
use hoistway_model::{AgentIdentities, RevisionId, egress::RefusedCall};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// Refused calls that wait for being written; more are left out.
const QUEUE: usize = 1024;
/// The number of calls that are taken at once.
const BATCH: usize = 256;
/// Within so much time each line of a revision is written once, and so many different ones at most.
const WINDOW: Duration = Duration::from_secs(10);
const LINES: usize = 20;

/// Hands records on, and writes those of refused calls into their agents' logs. A call never waits for that.
#[derive(Debug)]
pub(crate) struct RefusalLog {
    records: Arc<dyn CallRecords>,
    queue: mpsc::Sender<RefusedCall>,
}

impl RefusalLog {
    pub(crate) fn new(records: Arc<dyn CallRecords>, queue: mpsc::Sender<RefusedCall>) -> Self {
        Self { records, queue }
    }
}

/// Writes lines into the logs of agents, until nobody can send another one. Inside the runtime only.
pub(crate) fn start(agents: Arc<dyn AgentIdentities>) -> mpsc::Sender<RefusedCall> {
    let (queue, refused) = mpsc::channel(QUEUE);
    tokio::spawn(write(refused, agents));
    queue
}

#[async_trait]
impl CallRecords for RefusalLog {
    async fn keep(&self, records: Vec<CallRecord>) {
        for refused in records.iter().filter_map(refused_call) {
            // A full queue means that the same is written already, or that the agent service is lost.
            let _ = self.queue.try_send(refused);
        }
        self.records.keep(records).await;
    }
}

/// The line about a call, if it was refused and it is known whose it was.
fn refused_call(record: &CallRecord) -> Option<RefusedCall> {
    record.refused?;
    let (revision, CallRecord { method, origin, path, .. }) = (record.revision?, record);
    let (status, error) = (record.status.unwrap_or_default(), record.error.as_deref().unwrap_or_default());
    Some(RefusedCall { revision, text: format!("egress answered {status} to {method} {origin}{path}: {error}") })
}

async fn write(mut refused: mpsc::Receiver<RefusedCall>, agents: Arc<dyn AgentIdentities>) {
    let mut windows = Windows::default();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = refused.recv_many(&mut batch, BATCH);
        let received = match windows.next_end() {
            Some(end) => timeout_at(end, received).await.ok(),
            None => Some(received.await),
        };
        if received == Some(0) {
            return;
        }
        let lines = windows.lines(Instant::now(), batch.drain(..));
        if !lines.is_empty()
            && let Err(e) = agents.log_refused_calls(lines).await
        {
            tracing::warn!(cause = e.chain(), "refused calls are missing in the logs of their agents: {e}");
        }
    }
}

/// The lines that were written lately, of each revision.
#[derive(Debug, Default)]
struct Windows(HashMap<RevisionId, Window>);

#[derive(Debug)]
struct Window {
    end: Instant,
    written: HashSet<String>,
    left_out: u64,
}

impl Windows {
    fn next_end(&self) -> Option<Instant> {
        self.0.values().map(|window| window.end).min()
    }

    /// The lines to write at `now` when these calls have been refused.
    fn lines(&mut self, now: Instant, refused: impl Iterator<Item = RefusedCall>) -> Vec<RefusedCall> {
        let ended = self.0.extract_if(|_, window| window.end <= now).filter(|(_, window)| window.left_out > 0);
        let mut lines: Vec<RefusedCall> = ended
            .map(|(revision, window)| {
                let calls = if window.left_out == 1 { "call was" } else { "calls were" };
                RefusedCall { revision, text: format!("{} more {calls} answered by egress so", window.left_out) }
            })
            .collect();
        for call in refused {
            let window = self.0.entry(call.revision).or_insert_with(|| Window {
                end: now + WINDOW,
                written: HashSet::new(),
                left_out: 0,
            });
            if window.written.len() < LINES && window.written.insert(call.text.clone()) {
                lines.push(call);
            } else {
                window.left_out += 1;
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_in_a_while_and_the_rest_is_counted() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        let (a, b) = (RevisionId::mint(), RevisionId::mint());
        let call = |revision, text: &str| RefusedCall { revision, text: text.to_owned() };
        let calls = [call(a, "x"), call(a, "x"), call(a, "y"), call(b, "x"), call(a, "x")];
        let lines = windows.lines(start, calls.into_iter());
        assert_eq!(lines, [call(a, "x"), call(a, "y"), call(b, "x")]);
        assert_eq!(windows.next_end(), Some(start + WINDOW));

        let lines = windows.lines(start + WINDOW, [call(a, "x")].into_iter());
        assert_eq!(lines, [call(a, "2 more calls were answered by egress so"), call(a, "x")]);
        assert_eq!(windows.0.len(), 1, "those that have ended are forgotten");

        let many = (0..100).map(|n| call(b, &n.to_string()));
        assert_eq!(windows.lines(start + WINDOW, many).len(), LINES);
        let rest = windows.lines(start + 3 * WINDOW, std::iter::empty());
        assert_eq!(rest, [call(b, "80 more calls were answered by egress so")]);
        assert_eq!(windows.next_end(), None);
    }
}
