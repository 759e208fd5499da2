//! One start of an agent: its launcher, and what is heard from launcher and agent.

use super::agent_network::AgentNetwork;
use super::egress_forwarder;
use super::rundir::{Processes, RunDir};
use super::stack_trace::{self, Place};
use super::{Instance, ProcessConfig, Program};
use crate::launcher::procfs::Process;
use crate::launcher::protocol::{Exit, LaunchSpec, Order, Report, STACK_SIGNAL};
use crate::launcher::{RunAs, client, line, send_launch};
use crate::runtime::logs::Sink;
use crate::sandbox::{Parts, Sandbox};
use hoistway_confine::cgroup::Group;
use hoistway_model::{Code, env::platform, framework::Framework, log::LogStream};
use rustix::fs::MemfdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, Result, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The time that a launcher may take to start its agent's process: it takes milliseconds.
const LAUNCH: Duration = Duration::from_secs(30);
/// The time that a launcher may take to end what is left of its tree; only a process stuck in the kernel takes any
/// time.
const TREE_END: Duration = Duration::from_secs(10);
/// The time that the rest of the log may take once nobody can write to it any more.
const LOG_END: Duration = Duration::from_secs(2);
/// A runner's notice is one line, its error text the longest part.
const MAX_NOTICE: usize = 64 << 10;
/// The times that an agent may take to begin writing its stack, to pause in it, and to write all of it. A
/// signal handler writes it.
const STACK_BEGIN: Duration = Duration::from_secs(1);
const STACK_LIMIT: Duration = Duration::from_secs(3);
const STACK_PAUSE: Duration = Duration::from_millis(200);

/// The name of the agent's user.
const USER: &str = "agent";
/// Each is read by one client or another.
const CA_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// The runner's message once its start is decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// It answers requests.
    Ready,
    /// The agent's code could not be loaded; the traceback's last line, or what the runner says of it.
    Failed { code: Code, message: String, details: Vec<String> },
    /// It will not say anything: it closed the pipe, or wrote nonsense.
    Silent,
}

/// A started agent.
pub(super) struct Launched {
    launcher: Child,
    orders: Option<OwnedWriteHalf>,
    /// The launcher's reports.
    pub reports: Reports,
    /// The runner's message.
    pub notices: Notices,
    places: Vec<Place>,
    followers: Vec<JoinHandle<()>>,
    processes: Processes,
    dir: RunDir,
    group: Grouped,
    /// The agent's network, where it has one of its own.
    pub network: Option<Arc<AgentNetwork>>,
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

/// The end of a run.
pub(super) enum Ended {
    /// The agent's process ended by itself.
    Exited(Exit),
    /// The launcher was killed, and so the agent.
    Lost,
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
            notices: Notices { pipe: Receiver::from_owned_fd(notices)?, read: Vec::new() },
            places,
            followers,
            processes,
            dir: dir.clone(),
            group,
            network,
            _egress: egress,
        })
    }

    /// Asks the agent to finish within `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        self.order(&Order::Stop(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX))).await;
    }

    /// Returns the agent's stack as the lines of a traceback; empty if it does not write one.
    pub async fn stack(&mut self) -> Vec<String> {
        self.order(&Order::WriteStack).await;
        let (written, places) = (self.notices.stack().await, std::mem::take(&mut self.places));
        let lines = tokio::task::spawn_blocking(move || stack_trace::traceback(&written, &places)).await;
        lines.unwrap_or_default()
    }

    async fn order(&mut self, order: &Order) {
        if let (Some(orders), Ok(line)) = (&mut self.orders, line(order)) {
            // If the launcher is gone, that is noticed as the agent's end.
            let _ = orders.write_all(&line).await;
        }
    }

    /// Whether the kernel has killed processes of the agent because the memory of its control group was used up.
    pub async fn is_out_of_memory(&mut self) -> bool {
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

    /// Ends the whole tree without asking.
    pub fn kill(&mut self) {
        if let Some(orders) = self.orders.take() {
            // Half-closing is enough: the launcher reads the end of its orders.
            drop(orders);
        }
    }

    /// Waits until nothing of the agent is left and its log is read to the end. Returns the notice, if one came.
    pub async fn finish(mut self) -> Option<Notice> {
        self.kill();
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
pub(super) struct Reports(Lines<BufReader<OwnedReadHalf>>);

impl Reports {
    async fn next(&mut self) -> Option<Report> {
        serde_json::from_str(&self.0.next_line().await.ok()??).ok()
    }

    /// Waits for the end of the agent's main process. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        loop {
            match self.next().await {
                Some(Report::Exited(exit)) => return Ended::Exited(exit),
                Some(_) => {}
                None => return Ended::Lost,
            }
        }
    }
}

/// The pipe of the runner's one notice, or of the stack that is requested before that.
pub(super) struct Notices {
    pipe: Receiver,
    read: Vec<u8>,
}

impl Notices {
    /// Waits for the notice. Cancel safe.
    pub async fn next(&mut self) -> Notice {
        loop {
            if let Some(end) = self.read.iter().position(|&b| b == b'\n') {
                return parse(&self.read[..end]);
            }
            let mut buffer = [0; 1024];
            match self.pipe.read(&mut buffer).await {
                Ok(got @ 1..) if self.read.len() < MAX_NOTICE => self.read.extend_from_slice(&buffer[..got]),
                _ => return parse(&self.read),
            }
        }
    }

    /// Reads the stacks of all threads until nothing more of them comes. The one that imports comes last: of too much
    /// the end is kept.
    async fn stack(&mut self) -> String {
        let (mut buffer, began) = ([0; 4096], Instant::now());
        let mut due = began + STACK_BEGIN;
        while Instant::now() < due
            && let Ok(Ok(got @ 1..)) = timeout_at(due, self.pipe.read(&mut buffer)).await
        {
            self.read.extend_from_slice(&buffer[..got]);
            self.read.drain(..self.read.len().saturating_sub(MAX_NOTICE));
            due = (Instant::now() + STACK_PAUSE).min(began + STACK_LIMIT);
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }
}

/// The codes that a runner may give its failure.
const START_CODES: [Code; 2] = [Code::StartTimeout, Code::NothingToInvoke];

fn parse(line: &[u8]) -> Notice {
    #[derive(Deserialize)]
    #[serde(tag = "event", rename_all = "snake_case")]
    enum Line {
        Ready,
        Failed {
            error: String,
            #[serde(default)]
            code: String,
            #[serde(default)]
            details: Vec<String>,
        },
    }
    match serde_json::from_slice(line) {
        Ok(Line::Ready) => Notice::Ready,
        Ok(Line::Failed { error: message, code, details }) => {
            let code = START_CODES.into_iter().find(|known| known.as_str() == code).unwrap_or(Code::AgentStartFailed);
            Notice::Failed { code, message, details }
        }
        Err(_) => Notice::Silent,
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
    let (network, listeners) = AgentNetwork::new(launcher, start.port)?;
    let ended = CancellationToken::new();
    let (egress, token) = (start.config.egress.clone(), start.instance.egress_token.clone());
    tokio::spawn(egress_forwarder::serve(listeners.into(), egress, Some(token), ended.clone()));
    Ok((Arc::new(network), ended.drop_guard()))
}

/// The runner's configuration, which is secret, in a file that exists only in memory and for those who have it open.
fn config_file(start: &Start<'_>) -> Result<File> {
    let (instance, closed_network) = (start.instance, !start.sandbox.isolation().has_open_network());
    let mask: Vec<&str> = instance.mask.iter().map(|secret| secret.expose()).collect();
    let token = instance.invoke_token.expose();
    let start_seconds = start.limit.map(|limit| limit.as_secs_f64());
    let json = serde_json::json!({
        "token": token,
        "mask": mask,
        "closed_network": closed_network,
        "stack_signal": STACK_SIGNAL.as_raw(),
        "start_seconds": start_seconds,
        "framework": instance.framework.map(Framework::as_str),
    });
    let mut file = File::from(rustix::fs::memfd_create("agent-config", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&json)?)?;
    file.rewind()?;
    Ok(file)
}

/// The specification to launch, and where the agent's files are.
fn spec(start: &Start<'_>, dir: &RunDir, group: Option<&Group>) -> Result<(LaunchSpec, Vec<Place>)> {
    let Program::Unpacked { app_dir, site_dirs, runner, interpreter } = &start.instance.program;
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
    let mut env: BTreeMap<String, String> = [
        ("HOME", text(&placed.home)?),
        ("TMPDIR", text(&placed.tmp)?),
        ("PATH", format!("{bin}:/usr/local/bin:/usr/bin:/bin")),
        ("LANG", "C.UTF-8".to_owned()),
        // Its number may have no name on this machine, and much software asks for one (`getpass.getuser`).
        ("LOGNAME", USER.to_owned()),
        ("USER", USER.to_owned()),
        ("PYTHONUNBUFFERED", "1".to_owned()),
        // Nobody would read it: the working directory is new at each start, and packages have theirs.
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(bundle) = &placed.ca_bundle {
        let bundle = text(bundle)?;
        env.extend(CA_VARIABLES.map(|name| (name.to_owned(), bundle.clone())));
    }
    env.extend(start.instance.env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())));
    env.insert(platform::PORT.to_owned(), start.port.to_string());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_and_nonsense_is_none() {
        assert_eq!(parse(br#"{"event":"ready"}"#), Notice::Ready);
        let failed = |code, details: &[&str]| {
            let details = details.iter().map(|&line| line.to_owned()).collect();
            Notice::Failed { code, message: "E: x".to_owned(), details }
        };
        assert_eq!(parse(br#"{"event":"failed","error":"E: x"}"#), failed(Code::AgentStartFailed, &[]));
        let more = br#"{"event":"failed","error":"E: x","code":"nothing_to_invoke","details":["a"]}"#;
        assert_eq!(parse(more), failed(Code::NothingToInvoke, &["a"]));
        let other = br#"{"event":"failed","error":"E: x","code":"unauthenticated"}"#;
        assert_eq!(parse(other), failed(Code::AgentStartFailed, &[]), "a code that an agent may not give");
        for nonsense in ["", "{", "[]", r#"{"event":"other"}"#] {
            assert_eq!(parse(nonsense.as_bytes()), Notice::Silent);
        }
    }
}
