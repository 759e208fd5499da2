//! One start of an agent: its launcher, and what is heard from launcher and agent.

use super::launch_spec::{INTERPRETER_ARGUMENTS, Start, config_file, spec};
use super::rundir::{Processes, RunDir};
use super::warm_parents::{Layers, WaitingProcess, WarmParent, WarmParents};
use crate::launcher::procfs::Process;
use crate::launcher::protocol::{LaunchSpec, Order, Report};
use crate::launcher::{client, line, send_launch, title};
use crate::runtime::logs::Sink;
use crate::runtime::network::{AgentNetwork, egress_forwarder};
use crate::runtime::notices::{Notice, Notices};
use crate::runtime::stack_trace::{Place, Stack};
use crate::runtime::supervisor::{Ended, Event, Run};
use futures_util::StreamExt;
use hoistway_confine::cgroup::Group;
use hoistway_model::log::LogStream;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The time that a launcher may take to start its agent's process: it takes milliseconds.
pub(super) const LAUNCH: Duration = Duration::from_secs(30);
/// The time that a launcher may take to end what is left of its tree; only a process stuck in the kernel takes any
/// time.
const TREE_END: Duration = Duration::from_secs(10);
/// The time in which a forked agent is usually ready. The parent of one that takes longer might be what keeps it from
/// that, and is used for no other agent.
const READY: Duration = Duration::from_secs(10);
/// The time that the rest of the log may take once nobody can write to it any more.
const LOG_END: Duration = Duration::from_secs(2);

/// A started agent.
pub(super) struct Launched {
    launcher: Child,
    /// The launcher and the agent, or the first process of its PID namespace.
    processes: Processes,
    parent: Option<Forked>,
    orders: Option<OwnedWriteHalf>,
    /// The launcher's reports.
    reports: Reports,
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
}

/// An agent's origin, where it was forked from a warm parent.
struct Forked {
    /// Its namespace lasts while it has agents.
    parent: Arc<WarmParent>,
    of: Arc<WarmParents>,
    /// The time at which the parent is given up, unless the agent is ready.
    doubted_at: Option<Instant>,
}

impl Forked {
    fn new(parent: Arc<WarmParent>, of: Arc<WarmParents>) -> Self {
        Self { parent, of, doubted_at: Some(Instant::now() + READY) }
    }
}

/// Whoever learns the modules that an agent has imported.
struct Learner {
    warm_parents: Arc<WarmParents>,
    layers: Layers,
    sink: Sink,
}

impl Launched {
    /// Starts the launcher and waits until it has started the agent. Everything is undone by dropping: a launcher
    /// whose socket closes ends its tree.
    pub async fn start(start: Start<'_>, warm_parents: &Arc<WarmParents>, dir: &RunDir, sink: &Sink) -> Result<Self> {
        let (mut spec, places) = spec(&start, dir)?;
        // It gets ready for its order meanwhile.
        let mut launcher = Waiting::spawn(&start, dir, sink)?;
        let (layers, source) = warm_parents.layers(&start.instance.program, &spec).await.unzip();
        let parent = match layers.as_ref().zip(source).filter(|_| start.may_fork) {
            Some(own) => warm_parents.suitable(own, &start.instance.program, &spec).await,
            None => None,
        };
        let layers = layers.filter(|layers| warm_parents.wants_modules(layers));
        let learner = layers.map(|layers| Learner { warm_parents: warm_parents.clone(), layers, sink: sink.clone() });
        if let Some(parent) = parent {
            match Begun::forked(&start, spec, dir, launcher, &parent, learner.is_some()).await {
                Ok((begun, group)) => {
                    warm_parents.count_start(true);
                    return begun.launched(&start, places, dir, group, warm_parents, learner);
                }
                Err(error) => {
                    tracing::warn!(%error, agent = %start.instance.agent, "not forked, started by itself");
                    warm_parents.failed(&parent);
                    (spec, _) = self::spec(&start, dir)?;
                    launcher = Waiting::spawn(&start, dir, sink)?;
                }
            }
        }
        let group = group(&start, dir).await?;
        let begun = Begun::start(&start, spec, dir, launcher, &group, None, learner.is_some()).await?;
        warm_parents.count_start(false);
        begun.launched(&start, places, dir, group, warm_parents, learner)
    }

    async fn order(&mut self, order: &Order) {
        if let (Some(orders), Ok(line)) = (&mut self.orders, line(order)) {
            // If the launcher is gone, that is noticed as the agent's end.
            let _ = orders.write_all(&line).await;
        }
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
                ended = self.reports.ended() => return Event::Ended(ended),
                () = sleep_until(doubted_at.unwrap_or_else(Instant::now)), if doubted_at.is_some() => {
                    if let Some(forked) = &mut self.parent {
                        tracing::warn!("an agent that was forked is not ready: no other is forked from its warm parent");
                        forked.of.failed(&forked.parent);
                        forked.doubted_at = None;
                    }
                }
            }
        };
        if let Some(Forked { parent, of, .. }) = &self.parent {
            of.fork_ahead(parent);
        }
        if let (Some(learner), Some(modules)) = (&self.learner, self.notices.take_modules()) {
            learner.warm_parents.learned(&learner.layers, modules, &learner.sink);
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
        self.orders = None;
        let whole = matches!(timeout(TREE_END, self.launcher.wait()).await, Ok(Ok(status)) if status.success());
        if !whole {
            // Somebody killed the launcher. The kernel ended the main process with it, unless that was forked; the rest is
            // up to us.
            let _ = self.launcher.start_kill();
            let (dir, processes) = (self.dir.clone(), self.processes.clone());
            let killed = tokio::task::spawn_blocking(move || {
                let _ = processes.kill().and_then(|_| dir.evict());
                !processes.has_agent()
            });
            let is_gone = killed.await.unwrap_or(false);
            let _ = timeout(LOG_END, self.launcher.wait()).await;
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

/// The longest line of a launcher or a warm parent, in bytes: a package may have taken over either.
const MAX_LINE: usize = 64 << 10;

/// The lines of a process that is not trusted.
pub(super) fn lines<R: AsyncRead>(reader: R) -> FramedRead<R, LinesCodec> {
    FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE))
}

/// The launcher's reports.
struct Reports(FramedRead<OwnedReadHalf, LinesCodec>);

impl Reports {
    async fn next(&mut self) -> Option<Report> {
        serde_json::from_str(&self.0.next().await?.ok()?).ok()
    }

    /// Waits for the end of the agent's main process. Cancel safe.
    async fn ended(&mut self) -> Ended {
        loop {
            match self.next().await {
                Some(Report::Exited(exit)) => return Ended::Exited(exit),
                Some(_) => {}
                None => return Ended::Lost("was killed together with its launcher"),
            }
        }
    }
}

/// A launcher that waits for its order.
struct Waiting {
    launcher: Child,
    socket: StdUnixStream,
    identity: Process,
    followers: Vec<JoinHandle<()>>,
}

impl Waiting {
    /// It ends when it is dropped.
    fn spawn(start: &Start<'_>, dir: &RunDir, sink: &Sink) -> Result<Self> {
        let (mut launcher, socket) = client::spawn(&start.config.launcher, |command| {
            command.arg0(title(start.instance.agent.as_str())).arg(dir.path());
        })?;
        let mut followers = Vec::new();
        if let Some(out) = launcher.stdout.take() {
            followers.push(tokio::spawn(sink.clone().follow(LogStream::Stdout, out)));
        }
        if let Some(err) = launcher.stderr.take() {
            followers.push(tokio::spawn(sink.clone().follow(LogStream::Stderr, err)));
        }
        let identity = launcher.id().and_then(|pid| Process::now(i32::try_from(pid).ok()?));
        let identity = identity.ok_or_else(|| Error::other("the launcher ended at once"))?;
        Ok(Self { launcher, socket, identity, followers })
    }
}

/// A process that was forked for an agent.
struct Origin {
    parent: Arc<WarmParent>,
    socket: OwnedFd,
    /// Its number, if it is in the agent's control groups already.
    waiting: Option<i32>,
}

/// A launcher that has started its agent's process.
struct Begun {
    launcher: Child,
    processes: Processes,
    parent: Option<Arc<WarmParent>>,
    followers: Vec<JoinHandle<()>>,
    orders: OwnedWriteHalf,
    reports: Reports,
    notices: OwnedFd,
    network: Option<StdUnixStream>,
}

impl Begun {
    /// Has a process become the agent that was forked from a warm parent, if one waits, or is forked now.
    async fn forked(
        start: &Start<'_>,
        spec: LaunchSpec,
        dir: &RunDir,
        launcher: Waiting,
        parent: &Arc<WarmParent>,
        report_modules: bool,
    ) -> Result<(Self, Grouped)> {
        let (socket, waiting, mut group) = match parent.forked_before() {
            Some(WaitingProcess { socket, pid, group }) => (socket, Some(pid), group),
            None => (parent.fork()?, None, group(start, dir).await?),
        };
        let origin = Origin { parent: parent.clone(), socket, waiting };
        match Self::start(start, spec, dir, launcher, &group, Some(origin), report_modules).await {
            Ok(begun) => Ok((begun, group)),
            Err(error) => {
                group.end().await;
                Err(error)
            }
        }
    }

    /// Has a launcher execute the agent's program, or have its process forked from a warm parent.
    async fn start(
        start: &Start<'_>,
        mut spec: LaunchSpec,
        dir: &RunDir,
        launcher: Waiting,
        group: &Grouped,
        origin: Option<Origin>,
        report_modules: bool,
    ) -> Result<Self> {
        let Waiting { launcher, socket: ours, identity, followers } = launcher;
        spec.cgroups = group.0.as_ref().map(Group::procs).unwrap_or_default();
        let (forked, parent) = match origin {
            None => (None, None),
            Some(Origin { parent, socket, waiting }) => {
                spec.args.drain(..INTERPRETER_ARGUMENTS);
                spec.forked = true;
                spec.waiting = waiting;
                (Some(socket), Some(parent))
            }
        };

        let (notices, notify) = pipe_with(PipeFlags::CLOEXEC)?;
        let secrets = config_file(start, report_modules)?;
        let network = start.sandbox.has_own_network().then(StdUnixStream::pair).transpose()?;
        let forked = forked.as_ref().zip(parent.as_ref());
        let forked = forked.into_iter().flat_map(|(socket, parent)| [socket.as_fd()].into_iter().chain(parent.users()));
        let theirs = network.iter().map(|(_, theirs)| theirs.as_fd());
        let fds = start.listener.into_iter().chain([notify.as_fd(), secrets.as_fd()]);
        let fds: Vec<_> = fds.chain(forked).chain(theirs).collect();
        let rest = send_launch(&ours, spec, &fds)?;
        drop(notify);
        ours.set_nonblocking(true)?;
        let (reports, mut orders) = UnixStream::from_std(ours)?.into_split();
        orders.write_all(&rest).await?;
        let mut reports = Reports(lines(reports));
        let report = timeout(LAUNCH, reports.next());
        let agent = match report.await.map_err(|_| Error::other("the launcher does not answer"))? {
            // In a PID namespace of its own it dies with its launcher.
            Some(Report::Started(agent)) => agent.unwrap_or(identity),
            Some(Report::Failed(reason)) => return Err(Error::other(reason)),
            Some(Report::Exited(_)) | None => return Err(Error::other("the launcher ended at once")),
        };
        let processes = Processes::new(identity, agent)?;
        let (noting, noted) = (dir.clone(), processes.clone());
        tokio::task::spawn_blocking(move || noting.note(&noted)).await.map_err(Error::other)??;
        let network = network.map(|(ours, _)| ours);
        Ok(Self { launcher, processes, parent, followers, orders, reports, notices, network })
    }

    fn launched(
        self,
        start: &Start<'_>,
        places: Vec<Place>,
        dir: &RunDir,
        group: Grouped,
        warm_parents: &Arc<WarmParents>,
        learner: Option<Learner>,
    ) -> Result<Launched> {
        let network = self.network.map(|launcher| join_network(launcher, start)).transpose()?;
        let (network, egress) = network.unzip();
        Ok(Launched {
            launcher: self.launcher,
            processes: self.processes,
            parent: self.parent.map(|parent| Forked::new(parent, warm_parents.clone())),
            orders: Some(self.orders),
            reports: self.reports,
            notices: Notices::new(Receiver::from_owned_fd(self.notices)?),
            places,
            followers: self.followers,
            dir: dir.clone(),
            group,
            network,
            _egress: egress,
            learner,
        })
    }
}

async fn group(start: &Start<'_>, dir: &RunDir) -> Result<Grouped> {
    let (sandbox, name) = (Arc::clone(start.sandbox), dir.name());
    let group = tokio::task::spawn_blocking(move || sandbox.group(&name)).await.map_err(Error::other)??;
    // Removed with the rest, should the start fail.
    Ok(Grouped(group))
}

/// An instance's control group, removed when it is dropped.
pub(super) struct Grouped(pub(super) Option<Group>);

impl Grouped {
    /// Kills what is in it, and removes it.
    async fn end(&mut self) {
        if let Some(group) = self.0.take() {
            let ended = tokio::task::spawn_blocking(move || {
                group.kill();
                group.remove();
            });
            let _ = ended.await;
        }
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // Nobody waits for it: a runtime that ends leaves an empty group behind, which the next one removes.
            std::thread::spawn(move || {
                group.kill();
                group.remove();
            });
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
