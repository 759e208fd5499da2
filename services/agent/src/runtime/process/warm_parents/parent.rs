//! One warm parent: its processes, and what it says of itself.

use super::comparison::Dependences;
use super::source::Source;
use super::user_namespace::Users;
use super::{Layers, Next};
use crate::launcher::protocol::{CommandLine, LaunchSpec, Order, Restrictions};
use crate::launcher::{STEP, memory_file, send};
use crate::runtime::process::grouped::Grouped;
use crate::runtime::process::launcher_process::{LauncherProcess, lines};
use crate::runtime::process::leftovers::Leftovers;
use crate::runtime::process::prepared::{Origin, PreparedProcess, Purpose};
use crate::runtime::process::rundir::RunDir;
use crate::runtime::process::{ProcessConfig, launch_spec};
use crate::runtime::runner_config;
use crate::sandbox::{Parts, Sandbox};
use futures_util::StreamExt;
use hoistway_confine::OwnNetwork;
use hoistway_confine::cgroup::Group;
use hoistway_model::{Name, RevisionId};
use rustix::net::sockopt::{Timeout, set_socket_passcred, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
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
    /// A process that waits for its next agent.
    prepared: Mutex<Option<PreparedProcess>>,
    preparing: tokio::sync::Mutex<()>,
    users: Users,
    imports: Imports,
    layers: Layers,
    modules: Vec<String>,
    env: BTreeMap<String, String>,
    /// The time of the last fork.
    used: Mutex<Instant>,
    ended: CancellationToken,
    /// The launcher ends the namespace when this closes.
    orders: Mutex<Option<OwnedWriteHalf>>,
    _launcher: Child,
    _group: Grouped,
    own_dir: OwnDir,
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
        let group = Grouped(group.await.map_err(Error::other)??);
        let own_dir = OwnDir { dir: dir.clone(), leftovers: leftovers.clone() };
        let users = Users::make(&config.launcher, sandbox.forked_users()).await?;

        let mut launcher = LauncherProcess::spawn(&config.launcher, "warm parent", dir.path(), |command| {
            command.kill_on_drop(true);
        })?;
        launcher.child.stdout.take().map(|out| tokio::spawn(log(out)));
        let words = launcher.child.stderr.take().map(|err| tokio::spawn(log(err)));
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
        launcher.order(&Order::Launch(Box::new(spec)), &fds).await?;
        drop((theirs, notify));
        launcher.report().await?;

        let (mut said, mut notices) = (Vec::new(), Receiver::from_owned_fd(notices)?.take(MAX_REPORT));
        let imports = match timeout(IMPORTS, notices.read_to_end(&mut said)).await {
            Ok(Ok(_)) => match serde_json::from_slice(&said) {
                Ok(Said::Ready(imports)) => imports,
                Ok(Said::Unsuitable { unsuitable }) => return Err(Failure::Unsuitable(unsuitable)),
                Err(_) => {
                    drop((launcher, requests));
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
        // The process outlives the parent: it is the namespace's, in which the agents are.
        let (launcher, orders, mut reports) = launcher.into_parts();
        tokio::spawn(async move {
            reports.ended().await;
            until.cancel();
        });
        Ok(Self {
            requests: Mutex::new(Some(requests)),
            prepared: Mutex::default(),
            preparing: tokio::sync::Mutex::default(),
            users,
            imports,
            layers: layers.clone(),
            modules: modules.to_vec(),
            env,
            used: Mutex::new(Instant::now()),
            ended,
            orders: Mutex::new(orders),
            _launcher: launcher,
            _group: group,
            own_dir,
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
        self.prepared().take();
    }

    fn prepared(&self) -> MutexGuard<'_, Option<PreparedProcess>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a process waits.
    pub(super) fn has_prepared(&self) -> bool {
        self.prepared().as_ref().is_some_and(PreparedProcess::is_alive)
    }

    /// A process that is prepared for this agent, if one waits.
    pub fn take_prepared(&self, purpose: &Purpose) -> Option<PreparedProcess> {
        let prepared = self.prepared().take_if(|prepared| *prepared.purpose == *purpose)?;
        prepared.is_alive().then_some(prepared)
    }

    /// The process that is prepared for this agent, if one waits for any revision of it.
    pub(super) fn take_prepared_for(&self, agent: &Name) -> Option<PreparedProcess> {
        self.prepared().take_if(|prepared| prepared.purpose.agent == *agent)
    }

    /// Has a process forked that waits for its agent's next revision, unless one does. Returns the one that waited before.
    pub(super) async fn prepare(
        &self,
        config: &ProcessConfig,
        sandbox: &Arc<Sandbox>,
        next: &Next,
    ) -> Result<Option<PreparedProcess>> {
        let Ok(_one_at_a_time) = self.preparing.try_lock() else { return Ok(None) };
        if self.prepared().as_ref().is_some_and(|waits| *waits.purpose == *next.purpose && waits.is_alive()) {
            return Ok(None);
        }
        let prepared = self.fork_for(config, sandbox, next.purpose.renewed().await?).await?;
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.prepared();
        // It may have been retired meanwhile, and the instance may have ended.
        if requests.is_none() || next.instance.is_cancelled() {
            return Ok(Some(prepared));
        }
        tracing::debug!("a process waits for the next agent");
        Ok(waiting.replace(prepared))
    }

    /// Has a process forked and confined for an agent.
    pub async fn fork_for(
        &self,
        config: &ProcessConfig,
        sandbox: &Arc<Sandbox>,
        purpose: Arc<Purpose>,
    ) -> Result<PreparedProcess> {
        let dir = &self.own_dir.dir;
        let (forked, users) = (self.fork()?, self.users.fds().collect());
        PreparedProcess::make(config, sandbox, Origin { forked, users, dir: dir.path(), root: dir.root() }, purpose)
            .await
    }

    /// Ends the parent with its PID namespace, in which its agents are.
    pub fn end(&self) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Why an agent with these packages, environment and source cannot have the modules as they are imported here. Blocks.
    pub(super) fn differs(
        &self,
        layers: &Layers,
        env: &BTreeMap<String, String>,
        app_dir: &Path,
        entry: &str,
        source: &Source,
    ) -> Option<String> {
        let dependences = &self.imports.dependences;
        let by_packages = || dependences.differ_by_packages(&self.layers, layers);
        dependences.differ(&self.env, env, app_dir, entry, source).or_else(by_packages)
    }

    /// Those that it was started for.
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
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

    /// Notes that an agent is forked.
    pub fn note_use(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Has a process forked, and returns its socket, which is for the agent's launcher. The process ends when that closes.
    fn fork(&self) -> Result<OwnedFd> {
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
    let (mut lines, mut last) = (lines(output), String::new());
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
            command: CommandLine {
                args,
                fd_options: ["--parent-fd", "--notify-fd", "--config-fd"].map(str::to_owned).into(),
                env: env.clone().into_iter().collect(),
                cwd: "/".into(),
            },
            restrictions: Restrictions {
                limits: sandbox.rlimits(),
                run_as: sandbox.warm_parents_user(),
                confinement,
                cgroups: group.map(Group::procs).unwrap_or_default(),
            },
            grace_ms: 0,
        },
        env,
    ))
}
