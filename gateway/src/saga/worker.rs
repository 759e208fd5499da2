//! Runs one deployment from the position in its log to its end.

use super::{
    Inner, LARGE_SOURCE,
    agent_queue::Job,
    progress_of,
    record::Record,
    steps::{
        Context, Position,
        saga_log::{SagaLog, State},
        switch_route,
    },
};
use crate::deploy::{Progress, kind::DeploymentKind};
use hoistway_kit::{
    telemetry::{self, TraceParent},
    time::now_ms,
};
use hoistway_model::{Code, Error, Result, redact::Masker};
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

/// The least time for which a step is retried.
const GRACE: Duration = Duration::from_secs(30);

/// The process is shutting down; the journal contains the remaining work.
pub struct Stopped;

/// Runs `job` to its end and returns the progress for its waiters. Every event is in the journal before the next one
/// happens.
pub async fn run(inner: &Inner, job: &Job) -> Result<Progress, Stopped> {
    let mut record = job.record.lock().await;
    let (span, request_id) = (span(&record), record.log.request_id.clone());
    let work = run_record(inner, job, &mut record).instrument(span.clone());
    let ran = match request_id {
        Some(id) => telemetry::with_request_id(id, work).await,
        None => work.await,
    };
    if let Some(failure) = &record.failure {
        telemetry::set_error(&span, Code::parse(&failure.code).unwrap_or(Code::Internal).as_str());
    }
    ran
}

/// Returns the span of a deployment, in the trace of the request that it was accepted with: that may have been answered
/// already, and by an earlier process. A deployment that nobody requested is a trace of its own.
fn span(record: &Record) -> Span {
    let span = info_span!(
        parent: None,
        "deployment",
        deployment = %record.id,
        agent = %record.agent,
        hoistway.deployment.kind = record.log.reason.as_str(),
        request_id = record.log.request_id,
    );
    record.log.traceparent.as_deref().map(TraceParent::parse).unwrap_or_default().adopt(&span);
    span
}

async fn run_record(inner: &Inner, job: &Job, record: &mut Record) -> Result<Progress, Stopped> {
    let mut permit = None;
    let begun = job.begin();
    if begun.is_none()
        && record.log.step == Position::PLAN
        && let Some(why) = job.cancel.at(Position::PLAN)
    {
        fail(inner, record, &why).await?;
        return Ok(progress_of(record));
    }
    let mut work = match begun {
        Some(work) => work,
        None => {
            let size = journalled(inner, record).await?;
            if size > LARGE_SOURCE && record.log.step.needs_source() {
                permit = large_source_permit(inner, job).await?;
            }
            match read(inner, record).await? {
                Some(work) => work,
                None => return Ok(progress_of(record)),
            }
        }
    };
    loop {
        if !record.log.step.needs_source() {
            // A log of an earlier version has no fingerprint, which is still to be computed from the source.
            if record.log.fingerprint.is_some() {
                work.forget_source();
            }
            drop(permit.take());
        }
        match record.state {
            State::Running => forward(inner, job, &work, record).await?,
            State::Undoing => backward(inner, &work, record).await?,
            State::Succeeded | State::Failed => return Ok(progress_of(record)),
        }
    }
}

/// The size of a deployment's journalled request, in bytes.
async fn journalled(inner: &Inner, record: &Record) -> Result<usize, Stopped> {
    let mut retry = Retry::default();
    loop {
        match inner.journal.request_bytes(record.id).await {
            Ok(bytes) => return Ok(bytes),
            Err(e) => tracing::error!(cause = e.chain(), "the journal cannot be read: {e}"),
        }
        retry.wait(&inner.shutdown).await?;
    }
}

/// Waits for the permit of a large source; `None` when the deployment is cancelled meanwhile, and is only undone.
async fn large_source_permit<'a>(inner: &'a Inner, job: &Job) -> Result<Option<SemaphorePermit<'a>>, Stopped> {
    tokio::select! {
        () = inner.shutdown.cancelled() => Err(Stopped),
        _ = job.cancel.of(Position::PLAN) => Ok(None),
        permit = inner.large.acquire() => permit.map(Some).map_err(|_| Stopped),
    }
}

/// Reads the request of a deployment that has waited. A deployment whose request is unreadable fails, so that it does
/// not block its queue.
async fn read(inner: &Inner, record: &mut Record) -> Result<Option<DeploymentKind>, Stopped> {
    let mut retry = Retry::default();
    let sealed = loop {
        match inner.journal.request(record.id).await {
            Ok(sealed) => break sealed.unwrap_or_default(),
            Err(e) => tracing::error!(cause = e.chain(), "the journal cannot be read: {e}"),
        }
        retry.wait(&inner.shutdown).await?;
    };
    match inner.unseal(record, sealed).await {
        Ok(work) => Ok(Some(work)),
        Err(e) => {
            tracing::error!(cause = e.chain(), "a journalled request is unreadable");
            fail(inner, record, &unreadable()).await?;
            Ok(None)
        }
    }
}

/// Returns the failure of a deployment whose request is unreadable.
pub fn unreadable() -> Error {
    Error::new(Code::Internal, "its journalled request cannot be read; deploy again")
}

/// Performs one step, and the commit that ends it and intends the next.
async fn forward(inner: &Inner, job: &Job, work: &DeploymentKind, record: &mut Record) -> Result<(), Stopped> {
    match attempt(inner, job, work, record).await? {
        Ok(log) => {
            record.log = log;
            if record.log.step == Position::DONE {
                record.finish(State::Succeeded, now_ms());
            }
        }
        Err(error) => {
            // A source line in it may contain the value of a variable.
            let secrets = work.secrets();
            let masked = tokio::task::spawn_blocking(move || Masker::new(&secrets).error(error)).await;
            let error = masked.unwrap_or_else(|e| Error::internal("hiding secrets in an error", e));
            tracing::warn!(step = record.log.step.name(), code = %error.code, cause = error.chain(), "{error}");
            record.fail(&error);
            record.state = State::Undoing;
        }
    }
    save(inner, record).await?;
    if record.state == State::Running {
        job.publish(progress_of(record));
    }
    Ok(())
}

/// Undoes the deployment's effects, last step first. The failed step is among them: its effects are unknown. Each undo
/// is repeated until it succeeds.
async fn backward(inner: &Inner, work: &DeploymentKind, record: &mut Record) -> Result<(), Stopped> {
    let log = record.log.clone();
    let ctx = Context { services: &inner.services, key: &inner.key, id: record.id, work, log: &log };
    let mut retry = Retry::default();
    while let Err(error) = undo_all(&ctx).await {
        if error.code == Code::Conflict && log.step.may_have_committed() {
            // The switch did happen, whatever its answer was: the deployment can only go on.
            tracing::warn!("the revision is the agent's already: the deployment goes on");
            while let Err(e) = switch_route::drop_earlier_bindings(&ctx).await {
                tracing::info!(cause = e.chain(), "will be tried again: {e}");
                retry.wait(&inner.shutdown).await?;
            }
            record.failure = None;
            record.state = State::Running;
            record.log.advance(now_ms());
            if record.log.step == Position::DONE {
                record.finish(State::Succeeded, now_ms());
            }
            return save(inner, record).await;
        }
        tracing::warn!(code = %error.code, cause = error.chain(), "undo will be tried again: {error}");
        retry.wait(&inner.shutdown).await?;
    }
    record.finish(State::Failed, now_ms());
    save(inner, record).await
}

async fn undo_all(ctx: &Context<'_>) -> Result<()> {
    for step in ctx.log.step.undone(ctx.log) {
        let span = info_span!("deployment.undo", otel.name = format!("undo {}", step.name()));
        telemetry::within(span, step.undo(ctx)).await?;
    }
    Ok(())
}

/// Performs the intended step, and retries it after transient failures while there is time.
async fn attempt(inner: &Inner, job: &Job, work: &DeploymentKind, record: &Record) -> Result<Result<SagaLog>, Stopped> {
    let spent = Duration::from_millis(u64::try_from(now_ms() - record.created_at).unwrap_or(0));
    // A deployment that was recovered after a long pause gets some time nevertheless: the services may be starting as
    // well.
    let deadline = tokio::time::Instant::now() + inner.limits.deadline.saturating_sub(spent).max(GRACE);
    // A requested switch may have happened: then the deployment can only go on.
    let may_give_up = !record.log.step.may_have_committed();
    let mut retry = Retry::default();
    let cancelled = job.cancel.of(record.log.step);
    tokio::pin!(cancelled);
    loop {
        let performed = tokio::select! {
            biased;
            () = inner.shutdown.cancelled() => return Err(Stopped),
            why = &mut cancelled => return Ok(Err(why)),
            performed = perform(inner, work, record) => performed,
        };
        match performed {
            Err(e) if e.code.is_transient() && !(may_give_up && tokio::time::Instant::now() >= deadline) => {
                tracing::info!(step = record.log.step.name(), cause = e.chain(), "will be tried again: {e}");
                tokio::select! {
                    biased;
                    why = &mut cancelled => return Ok(Err(why)),
                    waited = retry.wait(&inner.shutdown) => waited?,
                }
            }
            other => return Ok(other),
        }
    }
}

/// Performs the intended step once; returns the log after it.
async fn perform(inner: &Inner, work: &DeploymentKind, record: &Record) -> Result<SagaLog> {
    let mut log = record.log.clone();
    let ctx = Context { services: &inner.services, key: &inner.key, id: record.id, work, log: &record.log };
    if let Some(step) = record.log.step.step() {
        let span = info_span!("deployment.step", otel.name = format!("step {}", step.name()));
        telemetry::within(span, step.run(&ctx, &mut log)).await?;
    }
    log.advance(now_ms());
    Ok(log)
}

/// Ends a deployment that has nothing to undo.
pub async fn fail(inner: &Inner, record: &mut Record, error: &Error) -> Result<(), Stopped> {
    record.fail(error);
    record.finish(State::Failed, now_ms());
    save(inner, record).await
}

/// Writes the record; goes on only once it is written.
async fn save(inner: &Inner, record: &Record) -> Result<(), Stopped> {
    let mut retry = Retry::default();
    while let Err(error) = inner.journal.update(record).await {
        tracing::error!(cause = error.chain(), "the journal cannot be written: {error}");
        retry.wait(&inner.shutdown).await?;
    }
    Ok(())
}

/// Exponential backoff with jitter, from 100 ms to 10 s.
#[derive(Default)]
pub struct Retry(u32);

impl Retry {
    /// Waits for the next attempt, unless the process shuts down meanwhile.
    pub async fn wait(&mut self, shutdown: &CancellationToken) -> Result<(), Stopped> {
        let base = Duration::from_millis(100 << self.0.min(6)).min(Duration::from_secs(10));
        self.0 += 1;
        // Half fixed, half varied by the clock's last digits: enough to spread replicas.
        let spread = (now_ms().unsigned_abs() % 100) as u32;
        let pause = base / 2 + base / 200 * spread;
        tokio::select! {
            () = shutdown.cancelled() => Err(Stopped),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}
