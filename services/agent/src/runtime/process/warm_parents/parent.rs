//! One warm parent: its processes, and what it says of itself.

use super::Layers;
use super::comparison::Dependences;
use super::source::Source;
use super::user_namespace::Users;
use crate::launcher::protocol::{LaunchSpec, Report};
use crate::launcher::{STEP, client, into_groups, memory_file, send, send_launch, title};
use crate::runtime::process::leftovers::Leftovers;
use crate::runtime::process::rundir::RunDir;
use crate::runtime::process::{ProcessConfig, launch, launch_spec};
use crate::runtime::runner_config;
use crate::sandbox::{Parts, Sandbox};
use futures_util::StreamExt;
use hoistway_confine::OwnNetwork;
use hoistway_confine::cgroup::Group;
use hoistway_model::RevisionId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_passcred, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// The time that the imports may take.
const IMPORTS: Duration = Duration::from_secs(600);
/// The longest report of a parent, in bytes.
const MAX_REPORT: u64 = 1 << 20;

/// Why a parent could not be started.
pub(super) enum Failure {
    /// Something that it imports cannot be forked.
    Unsuitable(String),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unsuitable(reason) => Self::other(reason),
            Failure::Other(error) => error,
        }
    }
}

/// What a parent says once it has imported everything.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Unsuitable { unsuitable: String },
    Ready(Imports),
}

/// The imports of a parent.
#[derive(Debug, Deserialize)]
struct Imports {
    /// What was not imported, and why.
    left_out: BTreeMap<String, String>,
    #[serde(flatten)]
    dependences: Dependences,
}

/// A process from which agents are forked. Dropping it ends it, and the agents with it, which are in its PID namespace.
pub(in crate::runtime::process) struct WarmParent {
    /// Its socket, until it is retired.
    requests: Mutex<Option<OwnedFd>>,
    /// A process that was forked before an agent needs it.
    waiting: Mutex<Option<WaitingProcess>>,
    forking_ahead: tokio::sync::Mutex<()>,
    users: Users,
    imports: Imports,
    modules: Vec<String>,
    env: BTreeMap<String, String>,
    /// The time of the last fork.
    used: Mutex<Instant>,
    ended: CancellationToken,
    /// The launcher ends the namespace when this closes.
    orders: Mutex<Option<OwnedWriteHalf>>,
    _launcher: Child,
    _group: launch::Grouped,
    _dir: OwnDir,
}

/// A forked process that waits in a control group of its own to become an agent.
pub(in crate::runtime::process) struct WaitingProcess {
    /// Its socket. It ends when that closes.
    pub socket: OwnedFd,
    pub pid: i32,
    pub group: launch::Grouped,
}

impl WaitingProcess {
    /// Whether it has not ended while it waited, as when memory ran short.
    fn is_alive(&self) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
    }
}

/// The directory in which a parent's root is built, removed when it is dropped.
struct OwnDir {
    dir: RunDir,
    leftovers: Leftovers,
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        let (dir, leftovers) = (self.dir.clone(), self.leftovers.clone());
        // Nobody waits for it, and what is left is removed at the next start.
        std::thread::spawn(move || dir.remove(&leftovers));
    }
}

impl WarmParent {
    pub(super) async fn start(
        config: &ProcessConfig,
        sandbox: &Arc<Sandbox>,
        leftovers: &Leftovers,
        layers: &Layers,
        modules: &[String],
        careful: bool,
    ) -> std::result::Result<Self, Failure> {
        let dir = RunDir::of(&config.dir, &RevisionId::mint());
        let (made, aside, making) = (dir.clone(), leftovers.clone(), Arc::clone(sandbox));
        let group = tokio::task::spawn_blocking(move || {
            made.create(None, true, &aside)?;
            std::fs::create_dir(made.app())?;
            making.group(&made.name())
        });
        let group = launch::Grouped(group.await.map_err(Error::other)??);
        let own_dir = OwnDir { dir: dir.clone(), leftovers: leftovers.clone() };
        let users = Users::make(&config.launcher, sandbox.forked_users()).await?;

        let (mut launcher, control) = client::spawn(&config.launcher, |command| {
            command.arg0(title("warm parent")).arg(dir.path()).kill_on_drop(true);
        })?;
        launcher.stdout.take().map(|out| tokio::spawn(log(out)));
        let words = launcher.stderr.take().map(|err| tokio::spawn(log(err)));
        let (requests, theirs) = seqpacket()?;
        // Requests are short and are read at once.
        rustix::io::ioctl_fionbio(&requests, true).map_err(Error::from)?;
        let (notices, notify) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::from)?;
        let configuration = memory_file(&serde_json::json!({ "modules": modules, "careful": careful }))?;
        let (spec, env) = spec(sandbox, layers, &dir, group.0.as_ref())?;
        // Egress does not listen in its network.
        let network = sandbox.has_own_network().then(StdUnixStream::pair).transpose()?;
        let network = network.as_ref().map(|(_, theirs)| theirs.as_fd());
        let fds: Vec<BorrowedFd<'_>> = [theirs.as_fd(), notify.as_fd(), configuration.as_fd()]
            .into_iter()
            .chain(users.fds())
            .chain(network)
            .collect();
        let rest = send_launch(&control, spec, &fds)?;
        drop((theirs, notify));
        control.set_nonblocking(true)?;
        let (reports, mut writer) = UnixStream::from_std(control)?.into_split();
        writer.write_all(&rest).await?;
        let mut reports = launch::lines(reports);
        let report = timeout(launch::LAUNCH, reports.next()).await.map_err(Error::other)?;
        let report = report.transpose().map_err(Error::other)?;
        match report.as_deref().map(serde_json::from_str) {
            Some(Ok(Report::Started(_))) => {}
            Some(Ok(Report::Failed(reason))) => return Err(Error::other(reason).into()),
            _ => return Err(Error::other("its launcher ended at once").into()),
        }

        let (mut said, mut notices) = (Vec::new(), Receiver::from_owned_fd(notices)?.take(MAX_REPORT));
        let imports = match timeout(IMPORTS, notices.read_to_end(&mut said)).await {
            Ok(Ok(_)) => match serde_json::from_slice(&said) {
                Ok(Said::Ready(imports)) => imports,
                Ok(Said::Unsuitable { unsuitable }) => return Err(Failure::Unsuitable(unsuitable)),
                Err(_) => {
                    drop((launcher, requests, writer));
                    let last = match words {
                        Some(words) => words.await.unwrap_or_default(),
                        None => String::new(),
                    };
                    return Err(Error::other(format!("it ended while it imported them: {last}")).into());
                }
            },
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Error::other("its imports take too long").into()),
        };
        let ended = CancellationToken::new();
        let until = ended.clone();
        tokio::spawn(async move {
            while let Some(Ok(line)) = reports.next().await {
                if matches!(serde_json::from_str(&line), Ok(Report::Exited(_) | Report::Failed(_))) {
                    break;
                }
            }
            until.cancel();
        });
        Ok(Self {
            requests: Mutex::new(Some(requests)),
            waiting: Mutex::default(),
            forking_ahead: tokio::sync::Mutex::default(),
            users,
            imports,
            modules: modules.to_vec(),
            env,
            used: Mutex::new(Instant::now()),
            ended,
            orders: Mutex::new(Some(writer)),
            _launcher: launcher,
            _group: group,
            _dir: own_dir,
        })
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The time of the last fork, or of its start.
    pub(super) fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the parent; agents that were forked from it go on.
    pub(super) fn retire(&self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.waiting().take();
    }

    fn waiting(&self) -> MutexGuard<'_, Option<WaitingProcess>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that was forked before, if one waits.
    pub fn forked_before(&self) -> Option<WaitingProcess> {
        let waiting = self.waiting().take().filter(WaitingProcess::is_alive);
        if waiting.is_some() {
            self.note_use();
        }
        waiting
    }

    /// Has a process forked that waits for an agent to become, unless one does.
    pub(super) async fn fork_ahead(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        let Ok(_one_at_a_time) = self.forking_ahead.try_lock() else { return Ok(()) };
        if self.waiting().is_some() {
            return Ok(());
        }
        let (socket, sandbox) = (self.request_fork()?, Arc::clone(sandbox));
        let forking = tokio::task::spawn_blocking(move || {
            let group = launch::Grouped(sandbox.group(&format!("forked-{}", RevisionId::mint()))?);
            let groups = group.0.as_ref().map(Group::procs).unwrap_or_default();
            let pid = Pid::as_raw(Some(into_groups(&socket, &groups)?));
            Ok::<_, Error>(WaitingProcess { socket, pid, group })
        });
        let forked = forking.await.map_err(Error::other)??;
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been retired meanwhile.
        if requests.is_some() {
            *self.waiting() = Some(forked);
            tracing::debug!("a process waits for the next agent");
        }
        Ok(())
    }

    /// The descriptors of its user namespaces, for the launcher of an agent.
    pub fn users(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.users.fds()
    }

    /// Ends the parent with its PID namespace, in which its agents are.
    pub fn end(&self) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Why an agent with this environment and source cannot have the modules as they are imported here. Blocks.
    pub(super) fn differs(
        &self,
        env: &BTreeMap<String, String>,
        app_dir: &Path,
        entry: &str,
        source: &Source,
    ) -> Option<String> {
        self.imports.dependences.differ(&self.env, env, app_dir, entry, source)
    }

    /// What was not imported, and why.
    pub(super) fn left_out(&self) -> &BTreeMap<String, String> {
        &self.imports.left_out
    }

    /// The modules that it was to import.
    pub(super) fn modules(&self) -> &[String] {
        &self.modules
    }

    /// Completes with the end of the parent.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Has a process forked, and returns its socket, which is for the agent's launcher. The process ends when that closes.
    pub fn fork(&self) -> Result<OwnedFd> {
        self.note_use();
        self.request_fork()
    }

    fn note_use(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn request_fork(&self) -> Result<OwnedFd> {
        let (ours, theirs) = seqpacket()?;
        // The kernel says who sent what, from the first message on, and nobody waits for one for long.
        set_socket_passcred(&ours, true)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(STEP))?;
        match &*self.requests.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(requests) => send(requests, b"fork", &[theirs.as_fd()])?,
            None => return Err(Error::other("the warm parent has been retired")),
        };
        Ok(ours)
    }
}

fn seqpacket() -> Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Logs what packages print when they are imported, which is of use to a developer only, and returns the last line.
async fn log(output: impl AsyncRead + Unpin) -> String {
    let (mut lines, mut last) = (launch::lines(output), String::new());
    while let Some(line) = lines.next().await {
        // The rest of one that is too long is skipped.
        let Ok(line) = line else { continue };
        tracing::debug!("a warm parent: {line}");
        last = line;
    }
    last
}

fn spec(
    sandbox: &Sandbox,
    layers: &Layers,
    dir: &RunDir,
    group: Option<&Group>,
) -> Result<(LaunchSpec, BTreeMap<String, String>)> {
    let placed = sandbox.place(&Parts {
        app_dir: &dir.app(),
        own_app: None,
        site_dirs: &layers.site_dirs,
        runner: &layers.runner,
        home: dir.home(),
        tmp: dir.tmp(),
        root: dir.root(),
        endpoints: &[],
        port: None,
    });
    let mut confinement = placed.confinement.clone();
    // It would bind agents as well, whose files are others.
    confinement.landlock = None;
    confinement.joins_namespaces = true;
    if let Some(own) = &mut confinement.namespaces {
        own.user = false;
        own.network = own.network.take().map(|network| OwnNetwork { hosts: network.hosts, ..OwnNetwork::default() });
    }
    let env = runner_config::base(&launch_spec::interpreter_places(&layers.interpreter, &placed)?);
    let args = launch_spec::arguments(&placed)?;
    Ok((
        LaunchSpec {
            program: layers.interpreter.clone(),
            args,
            fd_options: ["--parent-fd", "--notify-fd", "--config-fd"].map(str::to_owned).into(),
            env: env.clone().into_iter().collect(),
            cwd: "/".into(),
            limits: sandbox.rlimits(),
            run_as: sandbox.warm_parents_user(),
            confinement,
            cgroups: group.map(Group::procs).unwrap_or_default(),
            forked: false,
            waiting: None,
            grace_ms: 0,
        },
        env,
    ))
}
