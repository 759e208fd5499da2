//! The life of one instance, whatever it runs in: start, be ready, crash, start again, stop.

mod run;
mod starts;

pub(super) use run::{Ended, Event, Launcher, Run, Unable};
pub(super) use starts::Starts;
pub use starts::{RestartDelays, StartSettings};

use super::logs::Sink;
use super::network::{InvokeForwarder, Target};
use super::notices::Notice;
use super::{Failure, Instance, Masker, State, now_ms, reason};
use crate::launcher::protocol::Exit;
use crate::sandbox::size;
use hoistway_kit::{
    backoff::Backoff,
    telemetry::{self, TraceParent},
    tls::ListenerTls,
};
use hoistway_model::{Code, env::platform};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument, Span, info_span};

/// The time that a runner that said "failed", or fell silent, may take to end.
const FAILED_END: Duration = Duration::from_secs(5);
/// The time that a stop may take beyond its grace before whatever carries it out is given up.
const STOP_SLACK: Duration = Duration::from_secs(10);

pub(super) struct Supervisor<L> {
    pub launcher: L,
    pub starts: Starts,
    /// The memory that an agent has, for the account of one that wanted more.
    pub memory: Option<u64>,
    pub sink: Sink,
    pub masker: Arc<Masker>,
    pub instance: Instance,
    /// The span of the instance's first start.
    pub start: TraceParent,
    /// Our copy of the agent's listener. While it is open, connections wait for an agent that starts again.
    pub listener: Option<OwnedFd>,
    /// The TLS of a forwarder's listener.
    pub tls: Option<ListenerTls>,
    /// Takes the place of it for an agent with a network of its own.
    pub forwarder: Option<InvokeForwarder>,
    pub state: watch::Sender<State>,
    pub stop: watch::Receiver<Option<Duration>>,
}

/// The outcome of one run.
enum Outcome {
    /// It was asked to end.
    Stopped,
    /// It ended by itself.
    Ended(Ending),
}

/// The end of a run.
struct Ending {
    failure: Failure,
    /// The time since it was ready, if it was.
    ready_for: Option<Duration>,
    out_of_memory: bool,
    /// Whether it was forked and never ready, which may be different when it is started by itself.
    is_failed_fork: bool,
}

impl From<Failure> for Ending {
    /// That of a run which was never ready.
    fn from(failure: Failure) -> Self {
        Self { failure, ready_for: None, out_of_memory: false, is_failed_fork: false }
    }
}

/// The number of times that the time for a start is doubled.
const MAX_DOUBLINGS: u32 = 4;
/// Callers may wait that long for an agent that is started again; after a longer time they are refused.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest backlog that a listener has.
const BACKLOG: usize = 1024;

/// Hangs up on the connections that wait for an agent which is not there. Whoever comes later sees from the state that
/// it is not.
fn turn_away(listener: &OwnedFd) {
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    for _ in 0..BACKLOG {
        let mut waits = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut waits, Some(&at_once)) {
            Ok(1..) => drop(rustix::net::accept(listener)),
            _ => return,
        }
    }
}

impl<L: Launcher> Supervisor<L> {
    pub async fn run(mut self) {
        self.supervise().await;
        self.close().await;
        self.launcher.clean().await;
        self.state.send_replace(State::Gone);
    }

    async fn supervise(&mut self) {
        let (mut proven, mut is_prepared) = (self.instance.proven, false);
        let mut restarts = 0;
        let RestartDelays { first, longest, forgiven_after } = self.starts.settings.restart_delays;
        let mut backoff = Backoff::new(first, longest);
        loop {
            self.state.send_if_modified(|state| std::mem::replace(state, State::Starting) != State::Starting);
            self.lead(Target::Starting);
            // One that has been ready may need longer today: each try gets twice the time of the one before.
            let limit = self.starts.settings.limit.map(|limit| limit.saturating_mul(1 << restarts.min(MAX_DOUBLINGS)));
            let restart = (restarts > 0).then(|| {
                let Instance { agent, revision, .. } = &self.instance;
                info_span!(parent: None, "agent.restart", %agent, %revision, hoistway.agent.restarts = restarts)
            });
            let outcome = match self.prepare(&mut is_prepared).await {
                Ok(()) => self.once(proven, limit, restart).await,
                Err(unable) => Outcome::Ended(self.environment(unable).into()),
            };
            let Outcome::Ended(ending) = outcome else { return };
            let Ending { failure, ready_for, out_of_memory, is_failed_fork } = ending;
            proven |= ready_for.is_some();
            if is_failed_fork {
                self.launcher.refuse_forks();
                let remark = format!("{}; the agent was forked, and is started by itself now", failure.message);
                self.sink.remark(&remark).await;
                continue;
            }
            if !proven {
                self.sink.remark(&format!("the agent could not be started: {}", failure.message)).await;
                return self.fail(failure).await;
            }
            if ready_for.is_some_and(|time| time >= forgiven_after) {
                backoff.reset();
            }
            let delay = backoff.pause();
            let wait = delay.as_secs_f32();
            self.sink.remark(&format!("{}; the agent is started again in {wait} s", failure.message)).await;
            tracing::warn!(agent = %self.instance.agent, revision = %self.instance.revision, restarts, "an agent crashed");
            let next_try_ms = now_ms().saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
            self.state.send_replace(State::Crashed { failure, out_of_memory, restarts, next_try_ms });
            if delay > PATIENCE {
                self.listener.iter().for_each(turn_away);
                self.lead(Target::Absent);
            }
            tokio::select! {
                _ = stop_of(&mut self.stop) => return,
                () = sleep(delay) => {}
            }
            restarts += 1;
        }
    }

    /// Makes what all runs have in common, until that was possible once.
    async fn prepare(&mut self, is_prepared: &mut bool) -> Result<(), Unable> {
        if !*is_prepared {
            let preparing = info_span!(parent: None, "agent.prepare", agent = %self.instance.agent);
            self.start.adopt(&preparing);
            self.launcher.prepare().instrument(preparing).await?;
            let forwarded = self.forward_callers();
            forwarded.map_err(|error| Unable { what: "the agent's callers cannot be forwarded", error })?;
            *is_prepared = true;
        }
        Ok(())
    }

    /// Keeps the listener from an agent with a network of its own.
    fn forward_callers(&mut self) -> std::io::Result<()> {
        if self.launcher.has_own_network()
            && let Some(listener) = &self.listener
        {
            self.forwarder = Some(InvokeForwarder::start(listener.try_clone()?, self.tls.clone())?);
            self.listener = None;
        }
        Ok(())
    }

    /// Leads callers to an agent with a network of its own, or tells them that it is not there.
    fn lead(&self, target: Target) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.lead(target);
        }
    }

    /// Refuses callers from here on. Those who have connected are for the agent to answer.
    async fn close(&mut self) {
        if let Some(forwarder) = self.forwarder.take() {
            forwarder.close().await;
        }
        self.listener = None;
    }

    /// The end of a start that will not be tried again: nothing is held, only the state is kept until it is removed.
    async fn fail(&mut self, failure: Failure) {
        self.close().await;
        self.launcher.clean().await;
        self.state.send_replace(State::Failed(failure));
        stop_of(&mut self.stop).await;
    }

    /// One run from start to end. `restart` is the span of a start after a crash, and ends when the agent is ready.
    async fn once(&mut self, proven: bool, limit: Option<Duration>, restart: Option<Span>) -> Outcome {
        let parent = restart.as_ref().map_or_else(|| self.start.clone(), TraceParent::of_span);
        let mut starting = restart.unwrap_or_else(Span::none);
        let (turns, turn_time) = self.starts.turns(proven);
        let mut turn: Option<OwnedSemaphorePermit> = tokio::select! {
            biased;
            _ = stop_of(&mut self.stop) => return Outcome::Stopped,
            turn = turns.acquire_owned() => turn.ok(),
        };
        self.sink.begin();
        if self.listener.is_none() && self.forwarder.is_none() {
            return Outcome::Stopped;
        }
        let launching = info_span!(parent: None, "agent.launch", agent = %self.instance.agent);
        parent.adopt(&launching);
        let launched = self.launcher.launch(self.listener.as_ref().map(AsFd::as_fd), limit);
        let mut run = match launched.instrument(launching.clone()).await {
            Ok(run) => run,
            Err(unable) => {
                telemetry::set_error(&launching, Code::AgentStartFailed.as_str());
                let failure = launching.in_scope(|| self.environment(unable));
                return Outcome::Ended(failure.into());
            }
        };
        drop(launching);
        let mut waiting = info_span!(parent: None, "agent.wait_until_ready", agent = %self.instance.agent);
        parent.adopt(&waiting);

        if let Some(network) = run.network() {
            self.lead(Target::Up(network));
        }
        let begun = Instant::now();
        let turn_ends = begun + turn_time;
        let mut timed_out = None;
        let mut ready: Option<Instant> = None;
        let mut notice: Option<Notice> = None;
        let mut kill_at: Option<Instant> = None;
        let ended = loop {
            tokio::select! {
                biased;
                grace = stop_of(&mut self.stop) => {
                    self.stop(run, grace).await;
                    return Outcome::Stopped;
                }
                event = run.event(notice.is_none()) => match event {
                    Event::Ended(ended) => break Some(ended),
                    Event::Notice(said) => {
                        turn = None;
                        let (starting, waiting) = (take(&mut starting), take(&mut waiting));
                        if let Notice::Failed { code, .. } = &said {
                            [starting, waiting].iter().for_each(|span| telemetry::set_error(span, code.as_str()));
                        }
                        if said == Notice::Ready {
                            ready = Some(Instant::now());
                            self.state.send_replace(State::Ready);
                        } else {
                            kill_at = Some(Instant::now() + FAILED_END);
                        }
                        notice = Some(said);
                    }
                },
                () = sleep_until(turn_ends), if turn.is_some() => turn = None,
                () = sleep_until(kill_at.unwrap_or(turn_ends)), if kill_at.is_some() => break None,
                limit = after(begun, limit), if notice.is_none() => {
                    timed_out = Some(self.timed_out(&mut run, limit).await);
                    break None;
                }
            }
        };
        if notice.is_none() {
            let code = if timed_out.is_some() { Code::StartTimeout } else { Code::AgentStartFailed };
            [&starting, &waiting].iter().for_each(|span| telemetry::set_error(span, code.as_str()));
        }
        drop((starting, waiting));
        self.lead(Target::Starting);
        let is_out_of_memory = ended.is_some() && run.is_out_of_memory().await;
        let is_forked = run.is_forked();
        let late = run.finish().await;
        let ready_for = ready.map(|since| since.elapsed());
        let is_failed_fork = is_forked && ready.is_none() && timed_out.is_none();
        if let Some(failure) = timed_out {
            return Outcome::Ended(Ending { ready_for, ..failure.into() });
        }
        let failed = |message| (Code::AgentStartFailed, message, Vec::new());
        let (code, message, details) = match (notice.or(late), ended) {
            (Some(Notice::Failed { code, message, details }), _) => (code, message, details),
            (_, Some(ended)) => failed(self.account(&ended, ready.is_some(), is_out_of_memory)),
            (_, None) => failed("closed its start notification and did not become ready".to_owned()),
        };
        let details = match details.is_empty() {
            true => self.sink.recent(Failure::LOG_LINES),
            false => details.iter().take(Failure::LOG_LINES).map(|line| self.masker.text(line)).collect(),
        };
        let failure = Failure { code, message: self.masker.text(message.trim()), details };
        Outcome::Ended(Ending { failure, ready_for, out_of_memory: is_out_of_memory, is_failed_fork })
    }

    /// A start that took too long: its stack, also in the log.
    async fn timed_out(&self, run: &mut L::Run, limit: Duration) -> Failure {
        const LOG: usize = 10;
        let mut stop = self.stop.clone();
        let stack = tokio::select! {
            stack = run.stack() => stack,
            // Whoever stops the agent does not wait for it.
            _ = stop_of(&mut stop) => Vec::new(),
        };
        let seconds = limit.as_secs_f32();
        let entry = self.instance.env.iter().find(|(name, _)| name == platform::USER_ENTRY_POINT);
        let message = match (entry, stack.is_empty()) {
            (Some((_, entry)), false) => format!("{} is still being imported after {seconds} s", entry.expose()),
            _ => format!("the agent is not ready after {seconds} s"),
        };
        let stack: Vec<String> = stack.iter().map(|line| self.masker.text(line)).collect();
        for line in &stack {
            self.sink.remark(line).await;
        }
        let remedy = "a server or an endless loop belongs behind `if __name__ == \"__main__\":` or into the handler; a start that \
                      needs more time: HOISTWAY_AGENT_START_SECONDS"
            .to_owned();
        let details = self.sink.recent(LOG).into_iter().chain(stack).chain([remedy]).collect();
        Failure { code: Code::StartTimeout, message: self.masker.text(&message), details }
    }

    /// Tells an end in words: how, when, and what was said last.
    fn account(&self, ended: &Ended, was_ready: bool, is_out_of_memory: bool) -> String {
        let mut text = match ended {
            Ended::Exited(Exit::Signal(9)) | Ended::Lost(_) if is_out_of_memory => self.out_of_memory(),
            Ended::Exited(exit) => exit.to_string(),
            Ended::Lost(how) => (*how).to_owned(),
        };
        if !was_ready {
            text.push_str(" before it was ready");
        }
        if let Some(last) = self.sink.last_error() {
            text.push_str(": ");
            text.push_str(&last);
        }
        text
    }

    fn out_of_memory(&self) -> String {
        let limit = self.memory.map(|bytes| format!("{} of memory, ", size(bytes))).unwrap_or_default();
        format!("killed: out of memory ({limit}setting HOISTWAY_AGENT_LIMITS__MEMORY)")
    }

    /// A failure of the machine, not of the agent. Its cause is for the operator.
    fn environment(&self, Unable { what, error }: Unable) -> Failure {
        let (agent, revision) = (&self.instance.agent, &self.instance.revision);
        tracing::error!(%agent, %revision, %error, "{what}");
        Failure {
            code: Code::AgentStartFailed,
            message: match error.kind() {
                ErrorKind::Other => what.to_owned(),
                _ => format!("{what} ({})", reason(&error)),
            },
            details: self.sink.recent(Failure::LOG_LINES),
        }
    }

    /// Our listener closes first: once the agent has taken what waits and closed its own, callers are refused at once
    /// and go elsewhere, instead of waiting for nobody.
    async fn stop(&mut self, mut run: L::Run, mut grace: Duration) {
        self.close().await;
        loop {
            run.stop(grace).await;
            tokio::select! {
                _ = run.event(false) => break,
                () = sleep(grace.saturating_add(STOP_SLACK)) => break,
                // Asked again, less patiently.
                less = less_than(&mut self.stop, grace) => grace = less,
            }
        }
        run.finish().await;
    }
}

/// Ends a span unless somebody else has it.
fn take(span: &mut Span) -> Span {
    std::mem::replace(span, Span::none())
}

/// Waits until `limit` is over, for ever where there is none.
async fn after(begun: Instant, limit: Option<Duration>) -> Duration {
    let Some(limit) = limit else { return std::future::pending().await };
    sleep_until(begun + limit).await;
    limit
}

/// Waits for the request to stop. A runtime that is dropped wants it at once.
async fn stop_of(stop: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stop.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        Err(_) => Duration::ZERO,
    }
}

/// Waits for a request to stop within less time than `grace`.
async fn less_than(stop: &mut watch::Receiver<Option<Duration>>, grace: Duration) -> Duration {
    let less = stop.wait_for(|stop| stop.is_some_and(|less| less < grace)).await.map(|less| less.unwrap_or_default());
    match less {
        Ok(less) => less,
        Err(_) if grace > Duration::ZERO => Duration::ZERO,
        Err(_) => std::future::pending().await,
    }
}
