//! One start of an agent: its launcher, and what is heard from launcher and agent.

use super::rundir::{Processes, RunDir};
use super::{Instance, ProcessConfig, Program};
use crate::launcher::procfs::Process;
use crate::launcher::protocol::{LaunchSpec, Order, Report};
use crate::launcher::{RunAs, client, line, send_launch};
use crate::runtime::logs::Sink;
use crate::runtime::network::{AgentNetwork, egress_forwarder};
use crate::runtime::notices::{Notice, Notices};
use crate::runtime::runner_config::{self, Places};
use crate::runtime::stack_trace::{self, Place, Stack};
use crate::runtime::supervisor::{Ended, Event, Run};
use crate::sandbox::{Parts, Sandbox};
use hoistway_confine::cgroup::Group;
use hoistway_model::log::LogStream;
use rustix::fs::MemfdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{Error, Result, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The time that a launcher may take to start its agent's process: it takes milliseconds.
const LAUNCH: Duration = Duration::from_secs(30);
/// The time that a launcher may take to end what is left of its tree; only a process stuck in the kernel takes any
/// time.
const TREE_END: Duration = Duration::from_secs(10);
/// The time that the rest of the log may take once nobody can write to it any more.
const LOG_END: Duration = Duration::from_secs(2);

/// A started agent.
pub(super) struct Launched {
    launcher: Child,
    orders: Option<OwnedWriteHalf>,
    /// The launcher's reports.
    reports: Reports,
    /// The runner's message.
    notices: Notices<Receiver>,
    places: Vec<Place>,
    followers: Vec<JoinHandle<()>>,
    processes: Processes,
    dir: RunDir,
    group: Grouped,
    network: Option<Arc<AgentNetwork>>,
    /// Serves the agent's egress until it is dropped.
    _egress: Option<DropGuard>,
}

/// The process to start, and its resources.
pub(super) struct Start<'a> {
    pub config: &'a ProcessConfig,
    pub sandbox: &'a Arc<Sandbox>,
    pub instance: &'a Instance,
    pub port: u16,
    /// The agent's listener, where it has no network of its own.
    pub listener: Option<BorrowedFd<'a>>,
    pub user: Option<RunAs>,
    /// Whether it works in a copy of its source.
    pub copies_app: bool,
    /// The time that it may take until it is ready.
    pub limit: Option<Duration>,
}

impl Launched {
    /// Starts the launcher and waits until it has started the agent. Everything is undone by dropping: a launcher
    /// whose socket closes ends its tree.
    pub async fn start(start: Start<'_>, dir: &RunDir, sink: &Sink) -> Result<Self> {
        let (sandbox, name) = (Arc::clone(start.sandbox), dir.name());
        let group = tokio::task::spawn_blocking(move || sandbox.group(&name)).await.map_err(Error::other)??;
        // Removed with the rest, should the start fail.
        let group = Grouped(group);
        // For people who look at processes; the launcher gets an order.
        let (mut launcher, ours) = client::spawn(&start.config.launcher, |command| {
            command.arg0(format!("hoistway-agent {}", start.instance.agent)).arg(dir.path());
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

        let (notices, notify) = pipe_with(PipeFlags::CLOEXEC)?;
        let secrets = config_file(&start)?;
        let (spec, places) = spec(&start, dir, group.0.as_ref())?;
        let network = start.sandbox.has_own_network().then(StdUnixStream::pair).transpose()?;
        let theirs = network.iter().map(|(_, theirs)| theirs.as_fd());
        let fds: Vec<_> = start.listener.into_iter().chain([notify.as_fd(), secrets.as_fd()]).chain(theirs).collect();
        let rest = send_launch(&ours, spec, &fds)?;
        let network = network.map(|(ours, _)| ours);
        drop((notify, secrets));

        ours.set_nonblocking(true)?;
        let (reports, mut orders) = UnixStream::from_std(ours)?.into_split();
        orders.write_all(&rest).await?;
        let mut reports = Reports(BufReader::new(reports).lines());
        let report = timeout(LAUNCH, reports.next());
        let agent = match report.await.map_err(|_| Error::other("the launcher does not answer"))? {
            // In a PID namespace of its own it dies with its launcher.
            Some(Report::Started(agent)) => agent.unwrap_or(identity),
            Some(Report::Failed(reason)) => return Err(Error::other(reason)),
            Some(Report::Exited(_)) | None => return Err(Error::other("the launcher ended at once")),
        };
        let network = network.map(|launcher| join_network(launcher, &start)).transpose()?;
        let (network, egress) = network.unzip();
        let processes = Processes::new(identity, agent)?;
        let (noting, noted) = (dir.clone(), processes.clone());
        tokio::task::spawn_blocking(move || noting.note(&noted)).await.map_err(Error::other)??;
        Ok(Self {
            launcher,
            orders: Some(orders),
            reports,
            notices: Notices::new(Receiver::from_owned_fd(notices)?),
            places,
            followers,
            processes,
            dir: dir.clone(),
            group,
            network,
            _egress: egress,
        })
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

    async fn event(&mut self, awaits_notice: bool) -> Event {
        tokio::select! {
            biased;
            notice = self.notices.next(), if awaits_notice => Event::Notice(notice),
            ended = self.reports.ended() => Event::Ended(ended),
        }
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
            // Somebody killed the launcher. The kernel ended the main process with it; the rest is up to us.
            let _ = self.launcher.start_kill();
            let (dir, processes) = (self.dir.clone(), self.processes.clone());
            let _ = tokio::task::spawn_blocking(move || processes.kill().and_then(|_| dir.evict())).await;
            let _ = timeout(LOG_END, self.launcher.wait()).await;
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

/// The launcher's reports.
struct Reports(Lines<BufReader<OwnedReadHalf>>);

impl Reports {
    async fn next(&mut self) -> Option<Report> {
        serde_json::from_str(&self.0.next_line().await.ok()??).ok()
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

/// An instance's control group, removed when it is dropped.
struct Grouped(Option<Group>);

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

/// The runner's configuration, which is secret, in a file that exists only in memory and for those who have it open.
fn config_file(start: &Start<'_>) -> Result<File> {
    let closed_network = !start.sandbox.isolation().has_open_network();
    let config = runner_config::config(start.instance, closed_network, start.limit);
    let mut file = File::from(rustix::fs::memfd_create("agent-config", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&config)?)?;
    file.rewind()?;
    Ok(file)
}

/// The specification to launch, and where the agent's files are.
fn spec(start: &Start<'_>, dir: &RunDir, group: Option<&Group>) -> Result<(LaunchSpec, Vec<Place>)> {
    let Program::Unpacked { app_dir, site_dirs, runner, interpreter } = &start.instance.program else {
        return Err(Error::other("the image is not unpacked"));
    };
    let placed = start.sandbox.place(&Parts {
        app_dir,
        own_app: start.copies_app.then(|| dir.app()),
        site_dirs,
        runner,
        home: dir.home(),
        tmp: dir.tmp(),
        root: dir.root(),
        endpoints: &start.instance.endpoints,
        port: Some(start.port),
    });
    // No packages of the user who runs Hoistway (-s) nor of the host (-S): an agent has those of its image, and does
    // not wait for the host's.
    let mut args =
        vec!["-s".to_owned(), "-S".to_owned(), text(&placed.runner)?, "--app".to_owned(), text(&placed.app_dir)?];
    for site in &placed.site_dirs {
        args.extend(["--site".to_owned(), text(site)?]);
    }
    let bin = interpreter.parent().map(text).transpose()?.unwrap_or_default();
    let env = runner_config::environment(
        start.instance,
        Places {
            home: text(&placed.home)?,
            tmp: text(&placed.tmp)?,
            path: Some(format!("{bin}:/usr/local/bin:/usr/bin:/bin")),
            ca_bundle: placed.ca_bundle.as_deref().map(text).transpose()?,
            port: start.port,
        },
    );
    let places = stack_trace::places((&placed.app_dir, &placed.site_dirs), (app_dir, site_dirs));
    let spec = LaunchSpec {
        program: interpreter.clone(),
        args,
        fd_options: ["--listen-fd", "--notify-fd", "--config-fd"].map(str::to_owned).into(),
        env: env.into_iter().collect(),
        cwd: placed.app_dir,
        limits: start.sandbox.rlimits(),
        run_as: start.user,
        confinement: placed.confinement,
        cgroups: group.map(Group::procs).unwrap_or_default(),
        grace_ms: 5_000,
    };
    Ok((spec, places))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::other(format!("{} is not UTF-8", path.display())))
}
