//! One start of an agent: its launcher, and what is heard from launcher and agent.

use super::grouped::Grouped;
use super::launch_spec::{INTERPRETER_ARGUMENTS, Start, config_file, spec_of};
use super::launcher_process::{LauncherProcess, TREE_END};
use super::prepared::{PreparedProcess, Purpose};
use super::rundir::{Processes, RunDir};
use super::warm_parents::{Candidate, Layers, Next, WarmParent, WarmParents, Way};
use crate::launcher::protocol::{Become, LaunchSpec, Order, Report};
use crate::runtime::Instance;
use crate::runtime::logs::Sink;
use crate::runtime::network::{AgentNetwork, egress_forwarder};
use crate::runtime::notices::{Notice, Notices};
use crate::runtime::stack_trace::{Place, Stack};
use crate::runtime::supervisor::{Event, Run};
use hoistway_confine::cgroup::Group;
use hoistway_confine::{Access, Confinement};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The time in which a forked agent is usually ready. Of one that takes longer, the fork might be what keeps it from that:
/// no other with its packages is forked.
const READY: Duration = Duration::from_secs(10);
/// The time that the rest of the log may take once nobody can write to it any more.
const LOG_END: Duration = Duration::from_secs(2);

/// A started agent.
pub(super) struct Launched {
    launcher: LauncherProcess,
    /// The launcher and the agent, or the first process of its PID namespace.
    processes: Processes,
    parent: Option<Forked>,
    /// The runner's message.
    notices: Notices<Receiver>,
    places: Vec<Place>,
    followers: Vec<JoinHandle<()>>,
    dir: RunDir,
    group: Grouped,
    network: Option<Arc<AgentNetwork>>,
    /// Serves the agent's egress until it is dropped.
    _egress: Option<DropGuard>,
    /// Whoever learns the modules that it reports.
    learner: Option<Learner>,
    /// The next revision, until this one has said how its start went.
    next: Option<Next>,
    _instance: DropGuard,
}

/// An agent's origin, where it was forked from a warm parent.
struct Forked {
    /// Its namespace lasts while it has agents.
    parent: Arc<WarmParent>,
    of: Arc<WarmParents>,
    /// The agent's own, which may be more than the parent's.
    layers: Layers,
    /// The time at which no others are forked any more, unless the agent is ready.
    doubted_at: Option<Instant>,
}

/// Whoever learns the modules that an agent has imported.
struct Learner {
    warm_parents: Arc<WarmParents>,
    sink: Sink,
    next: Next,
}

impl Launched {
    /// Starts the launcher and waits until it has started the agent. Everything is undone by dropping: a launcher
    /// whose socket closes ends its tree.
    pub async fn start(start: Start<'_>, warm_parents: &Arc<WarmParents>, dir: &RunDir, sink: &Sink) -> Result<Self> {
        let (spec, places) = spec_of(&start, dir)?;
        let Instance { agent, program, .. } = start.instance;
        let instance = CancellationToken::new();
        let (mut parent, mut learner, mut next) = (None, None, None);
        if let Some(candidate) = warm_parents.candidate(agent, program, &spec).await {
            let Candidate { layers, source, purpose } = candidate;
            let own = Next { layers, purpose, instance: instance.clone() };
            if start.may_fork {
                parent = warm_parents.suitable(&own.layers, source, program, &spec).await;
            }
            if warm_parents.wants_modules(&own.layers) {
                let (warm_parents, sink) = (warm_parents.clone(), sink.clone());
                learner = Some(Learner { warm_parents, sink, next: own.clone() });
            }
            next = Some(own);
        } else {
            let (warm_parents, agent) = (warm_parents.clone(), agent.clone());
            tokio::spawn(async move { warm_parents.forget(&agent).await });
        }
        let reports = learner.is_some();
        let begun = match parent.zip(next.as_ref()) {
            None => Begun::executed(&start, spec, dir, sink, reports).await?,
            Some((parent, next)) => match Begun::forked(&start, spec, sink, &parent, &next.purpose, reports).await {
                Ok(begun) => begun,
                Err(error) => {
                    tracing::warn!(%error, %agent, "not forked, started by itself");
                    warm_parents.failed(&parent);
                    let (spec, _) = spec_of(&start, dir)?;
                    Begun::executed(&start, spec, dir, sink, reports).await?
                }
            },
        };
        warm_parents.count_start(&begun.way);
        let (noting, noted) = (dir.clone(), begun.processes.clone());
        tokio::task::spawn_blocking(move || noting.note(&noted)).await.map_err(Error::other)??;
        let network = begun.network.map(|launcher| join_network(launcher, &start)).transpose()?;
        let (network, egress) = network.unzip();
        Ok(Self {
            launcher: begun.launcher,
            processes: begun.processes,
            parent: begun.way.parent().zip(next.as_ref()).map(|(parent, next)| Forked {
                parent: parent.clone(),
                of: warm_parents.clone(),
                layers: next.layers.clone(),
                doubted_at: Some(Instant::now() + READY),
            }),
            notices: Notices::new(Receiver::from_owned_fd(begun.notices)?),
            places,
            followers: begun.followers,
            dir: dir.clone(),
            group: begun.group,
            network,
            _egress: egress,
            learner,
            next,
            _instance: instance.drop_guard(),
        })
    }

    async fn order(&mut self, order: &Order) {
        // If the launcher is gone, that is noticed as the agent's end.
        let _ = self.launcher.order(order, &[]).await;
    }
}

impl Run for Launched {
    fn network(&self) -> Option<Arc<AgentNetwork>> {
        self.network.clone()
    }

    fn is_forked(&self) -> bool {
        self.parent.is_some()
    }

    async fn event(&mut self, awaits_notice: bool) -> Event {
        let notice = loop {
            let doubted_at = self.parent.as_ref().and_then(|forked| forked.doubted_at).filter(|_| awaits_notice);
            tokio::select! {
                biased;
                notice = self.notices.next(), if awaits_notice => break notice,
                ended = self.launcher.ended() => return Event::Ended(ended),
                () = sleep_until(doubted_at.unwrap_or_else(Instant::now)), if doubted_at.is_some() => {
                    if let Some(forked) = &mut self.parent {
                        tracing::warn!("an agent that was forked is not ready: no other with its packages is forked");
                        forked.of.doubted(&forked.parent, &forked.layers);
                        forked.doubted_at = None;
                    }
                }
            }
        };
        if let (Some(Forked { parent, of, .. }), Some(next)) = (&self.parent, self.next.take()) {
            of.prepare_next(parent, next);
        }
        if let (Some(learner), Some(modules)) = (&self.learner, self.notices.take_modules()) {
            let from = self.parent.as_ref().map(|forked| &*forked.parent);
            learner.warm_parents.learned(from, modules, &learner.sink, &learner.next);
        }
        Event::Notice(notice)
    }

    async fn stack(&mut self) -> Vec<String> {
        self.order(&Order::WriteStack).await;
        let stack = Stack::parse(&self.notices.stack().await, &self.places);
        let lines = tokio::task::spawn_blocking(move || {
            let contents = stack.files().into_iter().filter_map(|file| file.read().map(|content| (file, content)));
            stack.traceback(&contents.collect())
        });
        lines.await.unwrap_or_default()
    }

    async fn stop(&mut self, grace: Duration) {
        self.order(&Order::Stop(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX))).await;
    }

    async fn is_out_of_memory(&mut self) -> bool {
        let Some(group) = self.group.0.take() else { return false };
        let counted = tokio::task::spawn_blocking(move || (group.out_of_memory_kills() > 0, group));
        match counted.await {
            Ok((killed, group)) => {
                self.group.0 = Some(group);
                killed
            }
            Err(_) => false,
        }
    }

    async fn finish(mut self) -> Option<Notice> {
        // Half-closing is enough: the launcher reads the end of its orders.
        self.launcher.end_orders();
        let whole = matches!(timeout(TREE_END, self.launcher.child.wait()).await, Ok(Ok(status)) if status.success());
        if !whole {
            // Somebody killed the launcher. The kernel ended the main process with it, unless that was forked; the rest is
            // up to us.
            let _ = self.launcher.child.start_kill();
            let (dir, processes) = (self.dir.clone(), self.processes.clone());
            let killed = tokio::task::spawn_blocking(move || {
                let _ = processes.kill().and_then(|_| dir.evict());
                !processes.has_agent()
            });
            let is_gone = killed.await.unwrap_or(false);
            let _ = timeout(LOG_END, self.launcher.child.wait()).await;
            if let (Some(Forked { parent, of, .. }), false) = (&self.parent, is_gone) {
                // One that keeps a process from ending is ended with everything in its namespace.
                of.failed(parent);
                parent.end();
            }
        }
        // Whoever slipped away from the launcher, and from the search above, is still in the group.
        self.group.end().await;
        for follower in &mut self.followers {
            if timeout(LOG_END, &mut *follower).await.is_err() {
                follower.abort();
            }
        }
        timeout(LOG_END, self.notices.next()).await.ok()
    }
}

/// A launcher that has started its agent's process.
struct Begun {
    way: Way,
    launcher: LauncherProcess,
    processes: Processes,
    followers: Vec<JoinHandle<()>>,
    notices: OwnedFd,
    group: Grouped,
    network: Option<StdUnixStream>,
}

impl Begun {
    /// Has a process that is forked from a warm parent become the agent: the one that is prepared for it, or a new one.
    async fn forked(
        start: &Start<'_>,
        spec: LaunchSpec,
        sink: &Sink,
        parent: &Arc<WarmParent>,
        purpose: &Arc<Purpose>,
        report_modules: bool,
    ) -> Result<Self> {
        parent.note_use();
        let LaunchSpec { mut command, restrictions, grace_ms, .. } = spec;
        command.args.drain(..INTERPRETER_ARGUMENTS);
        let Confinement { exposed, namespaces, .. } = restrictions.confinement;
        let copied = exposed.into_iter().filter(|part| part.access == Access::Copy).map(|part| part.host).collect();
        let network = namespaces.and_then(|own| own.network);
        let order = Order::Become(Box::new(Become { command, copied, network, grace_ms }));
        if let Some(prepared) = parent.take_prepared(purpose) {
            let way = Way::Prepared(parent.clone());
            match Ready::of(prepared).begin(start, sink, &order, report_modules, way).await {
                Ok(begun) => return Ok(begun),
                Err(error) => tracing::info!(%error, "a prepared process cannot become the agent: another is forked"),
            }
        }
        let made = parent.fork_for(start.config, start.sandbox, purpose.clone()).await?;
        Ready::of(made).begin(start, sink, &order, report_modules, Way::Forked(parent.clone())).await
    }

    /// Has a launcher execute the agent's program.
    async fn executed(
        start: &Start<'_>,
        mut spec: LaunchSpec,
        dir: &RunDir,
        sink: &Sink,
        report_modules: bool,
    ) -> Result<Self> {
        let agent = start.instance.agent.as_str();
        let launcher = LauncherProcess::spawn(&start.config.launcher, agent, dir.path(), |_| {})?;
        let group = Grouped::make(start.sandbox, dir.name()).await?;
        spec.restrictions.cgroups = group.0.as_ref().map(Group::procs).unwrap_or_default();
        let (network, theirs) = start.sandbox.has_own_network().then(StdUnixStream::pair).transpose()?.unzip();
        let ready = Ready { launcher, group, network, theirs };
        ready.begin(start, sink, &Order::Launch(Box::new(spec)), report_modules, Way::Executed).await
    }
}

/// A launcher that waits for its agent.
struct Ready {
    launcher: LauncherProcess,
    group: Grouped,
    /// Where it hands out sockets of the agent's own network.
    network: Option<StdUnixStream>,
    /// The other end, if it has not got that yet.
    theirs: Option<StdUnixStream>,
}

impl Ready {
    fn of(prepared: PreparedProcess) -> Self {
        let PreparedProcess { launcher, group, network, .. } = prepared;
        Self { launcher, group, network, theirs: None }
    }

    async fn begin(
        mut self,
        start: &Start<'_>,
        sink: &Sink,
        order: &Order,
        report_modules: bool,
        way: Way,
    ) -> Result<Begun> {
        let followers = self.launcher.follow(sink);
        match self.order(start, order, report_modules).await {
            Ok((processes, notices)) => {
                let Self { launcher, group, network, .. } = self;
                Ok(Begun { way, launcher, processes, followers, notices, group, network })
            }
            Err(error) => {
                // One that does not answer might not end either.
                tokio::spawn(self.launcher.end());
                self.group.end().await;
                Err(error)
            }
        }
    }

    /// Gives the order, and returns the processes and the pipe of the runner's message.
    async fn order(&mut self, start: &Start<'_>, order: &Order, report_modules: bool) -> Result<(Processes, OwnedFd)> {
        let (notices, notify) = pipe_with(PipeFlags::CLOEXEC)?;
        let secrets = config_file(start, report_modules)?;
        let theirs = self.theirs.take();
        let fds = start.listener.into_iter().chain([notify.as_fd(), secrets.as_fd()]);
        let fds: Vec<_> = fds.chain(theirs.as_ref().map(AsFd::as_fd)).collect();
        self.launcher.order(order, &fds).await?;
        drop((notify, theirs));
        match self.launcher.report().await? {
            // In a PID namespace of its own it dies with its launcher.
            Report::Started(agent) => {
                let processes = Processes::new(self.launcher.identity, agent.unwrap_or(self.launcher.identity))?;
                Ok((processes, notices))
            }
            _ => Err(Error::other("the launcher starts nothing")),
        }
    }
}

/// Serves egress in the agent's own network.
fn join_network(launcher: StdUnixStream, start: &Start<'_>) -> Result<(Arc<AgentNetwork>, DropGuard)> {
    let (network, listeners) = AgentNetwork::joined(launcher, start.port)?;
    let ended = CancellationToken::new();
    let (egress, token) = (start.config.egress.clone(), start.instance.egress_token.clone());
    tokio::spawn(egress_forwarder::serve(listeners.into(), egress, Some(token), ended.clone()));
    Ok((Arc::new(network), ended.drop_guard()))
}
