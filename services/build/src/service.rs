//! The build service: at most one build for the same inputs, at most so many at a time, each bounded in time and
//! cancelled when nobody wants it any more.

use crate::{
    events::EventLog,
    image_retention::ImageRetention,
    log::BuildLog,
    metrics::BuildMetrics,
    pipeline::Pipeline,
    store::{Attempt, Store},
};
use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use hoistway_kit::{
    telemetry::{self, TraceParent},
    time::now_ms,
};
use hoistway_model::{
    BuildAttemptId, BuildService, Code, Digest, Error, Operation, OperationId, Result,
    build::{Build, BuildEvents, BuildQuery, BuildRequest, BuildStatus, BuiltImage, Collected, RebuildRequest},
    image::StoredImage,
    limits::MAX_LOOK_UP,
    log::{LogPieces, LogQuery},
    metric::Metrics,
    redact::Masker,
};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, info_span};

/// Bounds of the service.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Builds that run at a time.
    pub concurrency: usize,
    /// Builds that may wait.
    pub queue: usize,
    /// The time that one may run.
    pub timeout: Duration,
}

/// The build service. Clones share it.
#[derive(Clone)]
pub struct Builder(Arc<Inner>);

struct Inner {
    pipeline: Pipeline,
    images: ImageRetention,
    store: Store,
    limits: Limits,
    slots: Semaphore,
    running: Mutex<HashMap<BuildKey, Running>>,
    events: EventLog,
    metrics: Arc<BuildMetrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

type Outcome = Shared<BoxFuture<'static, Result<BuiltImage, Arc<Error>>>>;

/// The relation of an attempt to the builds that run.
enum Joined {
    /// It is a build of its own.
    New(Outcome),
    /// It is the one that runs already.
    Same(Outcome),
    /// The one that runs was cancelled and is about to end.
    Ending(Outcome),
}

/// The key by which two builds are one while they run: the same inputs, resolved in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct BuildKey {
    inputs: Digest,
    refresh: bool,
}

impl BuildKey {
    fn of(attempt: &Attempt, request: &BuildRequest) -> Self {
        Self { inputs: attempt.inputs, refresh: request.refresh }
    }
}

/// Whether an error may repeat lines of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// The values that must not be shown are masked.
    Masked,
    /// They are not known, and a line may have one of them.
    Never,
}

/// A build that waits or runs.
struct Running {
    build: Build,
    log: BuildLog,
    waiting: Arc<AtomicBool>,
    /// The operations that want it; the last one that is undone cancels it.
    wanted_by: HashSet<OperationId>,
    cancel: CancellationToken,
    outcome: Outcome,
}

impl Running {
    /// The build as it is after its end.
    fn ended(self, outcome: &Result<BuiltImage>) -> Build {
        let (status, image, error) = match outcome {
            Ok(image) => (BuildStatus::Succeeded, Some(image.clone()), None),
            Err(error) => (BuildStatus::Failed, None, Some(error.message.clone())),
        };
        let id = image.as_ref().map_or(self.build.id, |image| image.build_id.clone());
        Build { id, status, image, error, completed_at: Some(now_ms()), steps: self.log.steps(), ..self.build }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Builder")
    }
}

impl Builder {
    /// A service over a pipeline.
    pub fn new(
        pipeline: Pipeline,
        images: ImageRetention,
        store: Store,
        limits: Limits,
        metrics: BuildMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            events: EventLog::new(),
            metrics: Arc::new(metrics),
            pipeline,
            images,
            store,
            limits,
            slots: Semaphore::new(limits.concurrency.max(1)),
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown,
        }))
    }

    /// Ends everybody who follows builds, so that calls can drain. Logs end with their builds, which the shutdown
    /// cancels.
    pub fn close(&self) {
        self.0.events.close();
    }

    /// Waits until no build runs any more; call it after the shutdown token was cancelled.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<BuildKey, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running build of these inputs, or a new one that writes to `log`.
    fn join_or_start(
        self: &Arc<Self>,
        attempt: &Attempt,
        request: &BuildRequest,
        quotes: Quotes,
        log: &BuildLog,
    ) -> Result<Joined> {
        let work = BuildKey::of(attempt, request);
        let mut running = self.lock();
        match running.get_mut(&work) {
            // One that has ended and is still here has panicked.
            Some(ended) if ended.outcome.peek().is_some() => {}
            // Nobody else wants it any more, and it cannot be had back.
            Some(same) if same.cancel.is_cancelled() => return Ok(Joined::Ending(same.outcome.clone())),
            Some(same) => {
                same.wanted_by.insert(attempt.operation);
                self.metrics.reused();
                return Ok(Joined::Same(same.outcome.clone()));
            }
            None => {}
        }
        if running.len() >= self.limits.concurrency + self.limits.queue {
            let (at_a_time, waiting) = (self.limits.concurrency, self.limits.queue);
            let text = format!(
                "{} builds are running or waiting, the limits (settings concurrency and queue of the build service) are \
                 {at_a_time} and {waiting}",
                running.len()
            );
            return Err(Error::new(Code::ResourceExhausted, text));
        }
        let (log, cancel, waiting) = (log.clone(), self.shutdown.child_token(), Arc::new(AtomicBool::new(true)));
        log.step("queue");
        let span = span(attempt);
        let task = {
            let (inner, attempt, request) = (self.clone(), attempt.clone(), request.clone());
            let (log, cancel, waiting) = (log.clone(), cancel.clone(), waiting.clone());
            // A task of its own: the build goes on when its caller goes away.
            let work = async move {
                let outcome = inner.run(&attempt, &request, quotes, &log, &cancel, &waiting).await;
                log.end();
                if let Ok(image) = &outcome {
                    tracing::info!(build = image.build_id, "built in {} ms", now_ms() - attempt.created_at);
                }
                let ended = inner.lock().remove(&work).map(|running| running.ended(&outcome));
                if let Some(build) = ended {
                    inner.metrics.ended(&build, &log);
                    inner.events.push(&build);
                }
                outcome
            };
            self.tasks.spawn(async move { telemetry::within(span, work).await.map_err(Arc::new) })
        };
        let outcome = async move { task.await.unwrap_or_else(|e| Err(Arc::new(Error::internal("building", e)))) };
        let outcome = outcome.boxed().shared();
        let build = Build {
            id: attempt.public_id(),
            agent: attempt.agent.clone(),
            status: BuildStatus::Building,
            image: None,
            error: None,
            created_at: attempt.created_at,
            completed_at: None,
            attempt: attempt.id,
            request_id: attempt.request_id.clone(),
            steps: Vec::new(),
        };
        self.events.push(&Build { status: BuildStatus::Pending, ..build.clone() });
        let wanted_by = HashSet::from([attempt.operation]);
        let entry = Running { build, log, waiting, wanted_by, cancel, outcome: outcome.clone() };
        running.insert(work, entry);
        Ok(Joined::New(outcome))
    }

    /// Cancels the build that an operation waits for if nobody else does.
    fn release(&self, operation: OperationId) {
        for build in self.lock().values_mut() {
            if build.wanted_by.remove(&operation) && build.wanted_by.is_empty() {
                build.cancel.cancel();
            }
        }
    }

    async fn run(
        &self,
        attempt: &Attempt,
        request: &BuildRequest,
        quotes: Quotes,
        log: &BuildLog,
        cancel: &CancellationToken,
        waiting: &AtomicBool,
    ) -> Result<BuiltImage> {
        if let Some(image) = self.store.answer(attempt).await? {
            return Ok(image);
        }
        let work = async {
            let slot = self.slots.acquire().instrument(info_span!("build.queue")).await;
            let _slot = slot.map_err(|e| Error::internal("waiting for a build slot", e))?;
            waiting.store(false, Ordering::Relaxed);
            let build = self.pipeline.run(attempt, request, log);
            tokio::time::timeout(self.limits.timeout, build).await.unwrap_or_else(|_| {
                let text = format!("the build took longer than {} s", self.limits.timeout.as_secs());
                Err(Error::new(Code::BuildFailed, text).with_details(last_lines(log)))
            })
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::new(
                if self.shutdown.is_cancelled() { Code::Unavailable } else { Code::Cancelled },
                "the build was cancelled",
            )),
            outcome = work => outcome,
        };
        let error = match outcome {
            Ok(image) => return Ok(image),
            Err(error) if quotes == Quotes::Never && error.code == Code::SyntaxError => error.with_details([]),
            Err(error) => log.masked(error),
        };
        if error.code == Code::Internal {
            tracing::error!(agent = %attempt.agent, cause = error.chain(), "a build failed: {error}");
        }
        log.write_line(format!("failed: {error}"));
        log.write_line(error.details.join("\n"));
        self.store.fail(attempt, &error.message, &log.kept(attempt.request_id.clone())).await?;
        Err(error)
    }
}

/// Returns the span of a build, a child of the call that began it. That may be cancelled while the build goes on for
/// others.
fn span(attempt: &Attempt) -> Span {
    let span = info_span!(
        parent: None,
        "build",
        agent = %attempt.agent,
        hoistway.build.attempt = %attempt.id,
        request_id = attempt.request_id,
    );
    TraceParent::current().adopt(&span);
    span
}

fn last_lines(log: &BuildLog) -> Vec<String> {
    let lines = log.lines();
    lines[lines.len().saturating_sub(20)..].to_vec()
}

impl Builder {
    /// Builds, or answers with what was built of the same inputs.
    pub(crate) async fn answer(
        &self,
        operation: Operation,
        request: BuildRequest,
        quotes: Quotes,
    ) -> Result<BuiltImage> {
        let inner = &self.0;
        let inputs = inner.pipeline.inputs(&request).await?;
        let attempt = Attempt {
            id: request.attempt,
            operation: operation.id,
            agent: request.agent.clone(),
            inputs,
            created_at: now_ms(),
            request_id: telemetry::request_id().map(|id| id.to_string()),
        };
        if !request.refresh
            && let Some(image) = inner.store.image_of(inputs).await?
            && inner.pipeline.is_whole(&image).await?
            && let Some(image) = inner.store.reuse(&attempt, image).await?
        {
            inner.metrics.reused();
            telemetry::set_attribute(&Span::current(), "hoistway.build.reused", true);
            return Ok(image);
        }
        inner.images.check_space().await?;
        // Before the builds are locked, since large secrets take a while.
        let mask = request.mask.clone();
        let masker = tokio::task::spawn_blocking(move || Masker::new(&mask)).await;
        let log = BuildLog::new(masker.map_err(|e| Error::internal("reading what to hide", e))?);
        loop {
            return match inner.join_or_start(&attempt, &request, quotes, &log)? {
                // Its place is free once it has ended.
                Joined::Ending(ending) => {
                    let _ = ending.await;
                    continue;
                }
                Joined::New(outcome) => outcome.await.map_err(|e| e.public()),
                Joined::Same(outcome) => match outcome.await {
                    // Whoever began it took it back before it ran.
                    Err(e) if e.code == Code::Aborted => continue,
                    Err(e) => Err(e.public()),
                    Ok(image) => {
                        inner.store.reuse(&attempt, image.clone()).await?;
                        Ok(image)
                    }
                },
            };
        }
    }
}

#[async_trait]
impl BuildService for Builder {
    async fn build(&self, operation: Operation, request: BuildRequest) -> Result<BuiltImage> {
        self.answer(operation, request, Quotes::Masked).await
    }

    async fn rebuild(&self, operation: Operation, request: RebuildRequest) -> Result<BuiltImage> {
        let RebuildRequest { attempt, agent, digest, mask } = request;
        let source = self.0.pipeline.source_of(&agent, digest).await?;
        let request = BuildRequest { attempt, agent, source, refresh: false, mask };
        self.answer(operation, request, Quotes::Never).await
    }

    async fn undo_build(&self, built: OperationId) -> Result<()> {
        self.0.store.undo(built).await?;
        self.0.release(built);
        Ok(())
    }

    async fn get_build(&self, id: String) -> Result<Build> {
        if let Some(build) = self.0.running_builds().into_iter().find(|build| build.has_id(&id)) {
            return Ok(build);
        }
        Ok(self.0.store.get(&id).await?.ok_or_else(|| Error::not_found("build", &id))?.0)
    }

    async fn list_builds(&self, query: BuildQuery) -> Result<Vec<Build>> {
        let limit = query.limit.clamp(1, MAX_LOOK_UP);
        let before = match query.before {
            Some(before) => Some(self.0.attempt_of(before).await?),
            None => None,
        };
        let wanted = |build: &Build| {
            query.agent.as_ref().is_none_or(|agent| build.agent == *agent)
                && before.is_none_or(|before| build.attempt < before)
        };
        let running = self.0.running_builds().into_iter().filter(wanted);
        let mut builds: Vec<Build> = running.collect();
        builds.extend(self.0.store.list(query.agent.as_ref(), before, limit).await?);
        // One that ended in between is in both; what is stored comes after and is not the one to be left out.
        builds.reverse();
        builds.sort_by_key(|build| std::cmp::Reverse(build.attempt));
        builds.dedup_by_key(|build| build.attempt);
        builds.truncate(limit as usize);
        Ok(builds)
    }

    async fn build_logs(&self, id: String, query: LogQuery) -> Result<LogPieces> {
        let live = self.0.lock().values().find(|r| r.build.has_id(&id)).map(|r| r.log.clone());
        if let Some(log) = live {
            return Ok(log.read(query));
        }
        let (build, kept) = self.0.store.get(&id).await?.ok_or_else(|| Error::not_found("build", &id))?;
        Ok(kept.read(&query, build.completed_at.unwrap_or(build.created_at)))
    }

    async fn build_events(&self) -> Result<BuildEvents> {
        Ok(self.0.events.follow())
    }

    async fn build_metrics(&self) -> Result<Metrics> {
        let waiting = self.0.lock().values().filter(|r| r.waiting.load(Ordering::Relaxed)).count();
        let (running, metrics) = (self.0.lock().len().saturating_sub(waiting), self.0.metrics.clone());
        let database = self.0.store.db().size().await.ok();
        let read = tokio::task::spawn_blocking(move || metrics.all(running, waiting, database));
        read.await.map_err(|e| Error::internal("reading what was measured", e))
    }

    async fn keep_images(&self, images: Vec<StoredImage>) -> Result<()> {
        self.0.images.keep(images).await
    }

    async fn collect_images(&self, in_use: Vec<StoredImage>) -> Result<Collected> {
        self.0.images.collect(in_use).await
    }
}

impl Inner {
    fn running_builds(&self) -> Vec<Build> {
        let status = |running: &Running| match running.waiting.load(Ordering::Relaxed) {
            true => BuildStatus::Pending,
            false => BuildStatus::Building,
        };
        let build = |r: &Running| Build { status: status(r), steps: r.log.steps(), ..r.build.clone() };
        self.lock().values().map(build).collect()
    }

    /// The attempt of an attempt's or a build's id.
    async fn attempt_of(&self, id: String) -> Result<BuildAttemptId> {
        if let Ok(attempt) = id.parse() {
            return Ok(attempt);
        }
        let running = self.lock().values().find(|r| r.build.id == id).map(|r| r.build.attempt);
        let found = match running {
            Some(attempt) => Some(attempt),
            None => self.store.get(&id).await?.map(|(build, _)| build.attempt),
        };
        found.ok_or_else(|| Error::field("before", format!("there is no build \"{id}\"")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        python::{Indexes, Interpreter},
        tests::{Service, request},
    };

    // On one thread, nothing of a build happens between two lines without an await.
    #[tokio::test]
    async fn a_build_is_joined_unless_it_is_being_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
        let inner = Service::open(dir.path(), Indexes::default(), python).await.builder.0;
        let join = |operation: OperationId| {
            let request = request("", false);
            let attempt = Attempt {
                id: request.attempt,
                operation,
                agent: request.agent.clone(),
                inputs: Digest::of(b"inputs"),
                created_at: 0,
                request_id: None,
            };
            inner.join_or_start(&attempt, &request, Quotes::Masked, &BuildLog::new(Masker::new(&[]))).unwrap()
        };

        let [one, other] = [OperationId::mint(), OperationId::mint()];
        let Joined::New(outcome) = join(one) else { panic!("there was none to join") };
        assert!(matches!(join(other), Joined::Same(_)));
        inner.release(one);
        assert!(matches!(join(other), Joined::Same(_)), "somebody wants it still");
        inner.release(other);
        assert!(matches!(join(OperationId::mint()), Joined::Ending(_)), "nobody has it back");

        assert_eq!(outcome.await.unwrap_err().code, Code::Cancelled);
        let Joined::New(outcome) = join(OperationId::mint()) else { panic!("its place is free") };
        outcome.await.unwrap();
    }
}
