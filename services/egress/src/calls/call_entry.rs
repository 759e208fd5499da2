//! One call's record while the call goes on. It is written when the call ends, however it ends.

use crate::{
    agent_limits::Permit,
    call_span::CallSpan,
    calls::{CallRecord, MAX_TEXT, Recorder},
    forward::refusal::Refusal,
};
use hoistway_kit::{invoke_statement::InvokeStatement, time::now_ms};
use hoistway_model::{Name, RevisionId, egress::CallTarget, usage::UsageSums};
use http::{HeaderMap, Method};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The longest method that is kept, in characters.
const MAX_METHOD: usize = 32;

/// The progress of a request: how much was sent, and when something of it went last.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    moved_ms: AtomicU64,
    sent: AtomicU64,
    too_large: AtomicBool,
    /// Whether a model provider's answer was none.
    invalid_answer: AtomicBool,
    /// The type of the error that a model provider said within its answer.
    provider_error: OnceLock<String>,
    /// The usage of a call of a model, once it is counted.
    used: OnceLock<UsageSums>,
}

impl Progress {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            started: Instant::now(),
            moved_ms: zero(),
            sent: zero(),
            too_large: AtomicBool::new(false),
            invalid_answer: AtomicBool::new(false),
            provider_error: OnceLock::new(),
            used: OnceLock::new(),
        }
    }

    pub(crate) fn moved(&self) {
        self.moved_ms.store(ms(self.started.elapsed()), Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn is_too_large(&self) {
        self.too_large.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    /// Notes that a model provider's answer is no answer of a model, or only a part of one.
    pub(crate) fn answer_is_invalid(&self) {
        self.invalid_answer.store(true, Ordering::Relaxed);
    }

    /// A model provider's answer has an error in it, of this type; empty where it named none.
    pub(crate) fn provider_failed(&self, kind: &str) {
        self.provider_error.get_or_init(|| kind.to_owned());
    }

    /// The call of a model used this. The first word counts.
    pub(crate) fn used(&self, sums: UsageSums) {
        let _ = self.used.set(sums);
    }

    pub(crate) fn last_moved(&self) -> Instant {
        self.started + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A call's record, and what the call holds while it goes on.
#[derive(Debug)]
pub(crate) struct CallEntry {
    recorder: Recorder,
    record: CallRecord,
    progress: Arc<Progress>,
    span: CallSpan,
    /// The user for whom the agent calls.
    user: Option<String>,
    permit: Option<Permit>,
    complete: bool,
    silent: bool,
}

impl CallEntry {
    pub(crate) fn new(recorder: &Recorder, method: &Method, path: &str) -> Self {
        let record = CallRecord {
            at: now_ms(),
            method: method.as_str().chars().take(MAX_METHOD).collect(),
            path: path.chars().take(MAX_TEXT).collect(),
            ..CallRecord::default()
        };
        let (recorder, progress) = (recorder.clone(), Arc::new(Progress::new()));
        let span = CallSpan::default();
        Self { recorder, record, progress, span, user: None, permit: None, complete: false, silent: false }
    }

    /// The agent calls with these headers, within this invoke.
    pub(crate) fn within(&mut self, invoke: InvokeStatement, headers: &HeaderMap) {
        self.span = CallSpan::begin(headers, &invoke);
        self.user = invoke.user;
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn span(&mut self) -> &mut CallSpan {
        &mut self.span
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    pub(crate) fn by(&mut self, agent: &Name, revision: RevisionId) {
        self.record.agent = Some(agent.clone());
        self.record.revision = Some(revision);
    }

    pub(crate) fn to(&mut self, origin: String) {
        self.record.origin = origin;
    }

    pub(crate) fn path(&mut self, path: &str) {
        self.record.path = path.chars().take(MAX_TEXT).collect();
    }

    pub(crate) fn tool(&mut self, name: &Name) {
        self.record.target = Some(CallTarget::Tool(name.clone()));
        self.span.tool(name.as_str());
    }

    pub(crate) fn model_provider(&mut self, name: &Name) {
        self.record.target = Some(CallTarget::ModelProvider(name.clone()));
    }

    /// Holds this until the end of the call.
    pub(crate) fn hold(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// The end of a call that went no further.
    pub(crate) fn refused(mut self, refusal: &Refusal) {
        self.record.refused = Some(refusal.word);
        self.record.error = Some(refusal.message.chars().take(MAX_TEXT).collect());
        self.answered(refusal.status.as_u16());
        self.complete = true;
    }

    /// There is nothing to record.
    pub(crate) fn discard(mut self) {
        self.silent = true;
    }

    /// The header of the response is there.
    pub(crate) fn answered(&mut self, status: u16) {
        self.record.status = Some(status);
        self.record.first_byte_ms = ms(self.progress.started.elapsed());
    }

    pub(crate) fn received(&mut self, bytes: u64) {
        self.record.bytes_down += bytes;
    }

    pub(crate) fn broken(&mut self, word: &'static str) {
        self.record.broken.get_or_insert(word);
    }

    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for CallEntry {
    fn drop(&mut self) {
        if self.silent {
            return;
        }
        let provider_error = self.progress.provider_error.get().filter(|kind| !kind.is_empty()).cloned();
        if self.progress.provider_error.get().is_some() {
            self.broken("provider_error");
            self.record.error =
                provider_error.as_ref().map(|kind| format!("the provider ended its answer with {kind}"));
        }
        if !self.complete {
            self.broken("agent_went_away");
        }
        if self.progress.invalid_answer.load(Ordering::Relaxed) {
            self.broken("invalid_answer");
        }
        self.record.bytes_up = self.progress.sent.load(Ordering::Relaxed);
        self.record.duration_ms = ms(self.progress.started.elapsed());
        self.span.end(&self.record, provider_error, self.progress.used.get());
        self.recorder.record(self.record.clone());
    }
}
