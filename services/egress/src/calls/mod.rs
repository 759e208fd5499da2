//! The record of each outbound call, and the queue in which it waits for whoever keeps it. A call never waits for
//! its record: when the queue is full the record is dropped and counted.
pub mod call_entry;
pub mod metrics;
pub mod refusal_log;

use crate::calls::metrics::CallMetrics;
use async_trait::async_trait;
use hoistway_model::{Name, RevisionId, egress::CallTarget};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The number of records that are handed over at once.
const BATCH: usize = 256;
/// The longest path, and the longest text of a refusal, that is kept, in characters.
pub(crate) const MAX_TEXT: usize = 512;

/// One outbound call, carried out or refused. Never a body, a header or a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallRecord {
    /// When it began; milliseconds since the epoch.
    pub at: i64,
    /// The agent; absent when nobody could be recognised.
    pub agent: Option<Name>,
    /// Its revision.
    pub revision: Option<RevisionId>,
    /// The target of the call; absent when it was refused before that was known.
    pub target: Option<CallTarget>,
    /// The method.
    pub method: String,
    /// `SCHEME://HOST:PORT` as it was understood; empty when it was not.
    pub origin: String,
    /// The path, without a query, cut at 512 characters.
    pub path: String,
    /// The status that the agent got.
    pub status: Option<u16>,
    /// Milliseconds until the response's header.
    pub first_byte_ms: u64,
    /// Milliseconds until the end.
    pub duration_ms: u64,
    /// Bytes of the request's body.
    pub bytes_up: u64,
    /// Bytes of the response's body.
    pub bytes_down: u64,
    /// Why egress refused the call or could not carry it out, in one word; absent when the tool answered.
    pub refused: Option<&'static str>,
    /// The message about it that the agent got.
    pub error: Option<String>,
    /// Why it ended early after the response had begun, in one word.
    pub broken: Option<&'static str>,
}

/// Whoever keeps records.
#[async_trait]
pub trait CallRecords: fmt::Debug + Send + Sync + 'static {
    /// Keeps some records, oldest first. What it cannot keep it drops and counts itself.
    async fn keep(&self, records: Vec<CallRecord>);
}

/// Writes records to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogCallRecords;

#[async_trait]
impl CallRecords for LogCallRecords {
    async fn keep(&self, records: Vec<CallRecord>) {
        for record in records {
            let CallRecord { method, origin, path, status, duration_ms, bytes_up, bytes_down, .. } = &record;
            tracing::info!(
                agent = record.agent.as_ref().map(tracing::field::display),
                revision = record.revision.as_ref().map(tracing::field::display),
                tool = match &record.target {
                    Some(CallTarget::Tool(name) | CallTarget::ModelProvider(name)) =>
                        Some(tracing::field::display(name)),
                    None => None,
                },
                status,
                duration_ms,
                bytes_up,
                bytes_down,
                refused = record.refused,
                error = record.error,
                broken = record.broken,
                "{method} {origin}{path}"
            );
        }
    }
}

/// The end of the queue where records go in.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<CallRecord>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A queue of so many records. What comes out is for [`keep`].
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<CallRecord>) {
        let (queue, out) = mpsc::channel(capacity.max(1));
        (Self { queue, dropped: Arc::default() }, out)
    }

    pub(crate) fn record(&self, record: CallRecord) {
        if self.queue.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of records that were dropped so far. Whoever reads it does not keep the queue open.
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

/// Counts records and hands them over until nobody can make another one. When `out_of_time` comes first, what is left
/// is lost, and said.
pub(crate) async fn keep(
    mut queue: mpsc::Receiver<CallRecord>,
    metrics: Arc<CallMetrics>,
    sink: Arc<dyn CallRecords>,
    out_of_time: CancellationToken,
) {
    let mut batch = Vec::new();
    while out_of_time.run_until_cancelled(queue.recv_many(&mut batch, BATCH)).await.is_some_and(|count| count > 0) {
        batch.iter().for_each(|record| metrics.count(record));
        let count = batch.len();
        if out_of_time.run_until_cancelled(sink.keep(std::mem::take(&mut batch))).await.is_none() {
            let records = count + queue.len();
            tracing::error!(
                records,
                "lost: {records} records of calls, since the database could not be written before the shutdown's end"
            );
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let record = CallRecord { method: "GET".into(), path: "/".into(), ..CallRecord::default() };
        let (recorder, mut out) = Recorder::new(2);
        for _ in 0..5 {
            recorder.record(record.clone());
        }
        assert_eq!(recorder.dropped().load(Ordering::Relaxed), 3);
        drop(recorder);
        let mut got = Vec::new();
        assert_eq!(out.recv_many(&mut got, 9).await, 2);
    }
}
