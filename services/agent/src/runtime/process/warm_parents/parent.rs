//! One warm parent: its processes, and what it says of itself.

use super::Layers;
use super::comparison::Dependences;
use super::source::Source;
use crate::launcher::protocol::{LaunchSpec, ParentOrder, Report};
use crate::launcher::{WARM_PARENT, memory_file, send, send_launch, title};
use crate::runtime::process::leftovers::Leftovers;
use crate::runtime::process::rundir::RunDir;
use crate::runtime::process::{ProcessConfig, launch, launch_spec};
use crate::runtime::runner_config;
use crate::sandbox::{Parts, Sandbox};
use futures_util::StreamExt;
use hoistway_confine::cgroup::Group;
use hoistway_confine::{OwnNetwork, RunAs};
use hoistway_model::RevisionId;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
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

/// A process from which agents are forked. Dropping it ends it, and the agents with it.
pub(in crate::runtime::process) struct WarmParent {
    orders: OwnedFd,
    imports: Imports,
    modules: Vec<String>,
    env: BTreeMap<String, String>,
    next: AtomicU64,
    /// The time of the last fork.
    used: Mutex<Instant>,
    ended: CancellationToken,
    _outside: Child,
    _group: launch::Grouped,
    _dir: OwnDir,
    owner: Option<RunAs>,
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

/// A launcher that a parent's namespace has started, in the place of a child of this process.
pub(in crate::runtime::process) struct ForkedLauncher {
    pub control: StdUnixStream,
    pub stdout: Receiver,
    pub stderr: Receiver,
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
        let owner = sandbox.warm_parents_user();

        let (orders, theirs) = seqpacket()?;
        // Orders are short and are read at once.
        rustix::io::ioctl_fionbio(&orders, true).map_err(Error::from)?;
        let mut outside = Command::new(&config.launcher);
        outside.arg0(title("warm parents")).arg(WARM_PARENT).args(sandbox.has_user_namespaces().then_some("user"));
        outside.env_clear().current_dir("/").kill_on_drop(true);
        outside.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut outside = outside.spawn()?;
        let outer_words = outside.stderr.take().map(|stderr| tokio::spawn(log(stderr)));

        let ForkedLauncher { control, stdout, stderr } = start_launcher(&orders, &title("warm parent"), dir.path())?;
        tokio::spawn(log(stdout));
        let words = tokio::spawn(log(stderr));
        let (ours, forks) = seqpacket()?;
        order(&orders, &ParentOrder::Parent, &[ours.as_fd()])?;
        drop(ours);
        let (notices, notify) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::from)?;
        let configuration = memory_file(&serde_json::json!({ "modules": modules, "careful": careful }))?;
        let (spec, env) = spec(sandbox, layers, &dir, owner, group.0.as_ref())?;
        // Egress does not listen in its network.
        let network = sandbox.has_own_network().then(StdUnixStream::pair).transpose()?;
        let network = network.as_ref().map(|(_, theirs)| theirs.as_fd());
        let fds: Vec<BorrowedFd<'_>> =
            [forks.as_fd(), notify.as_fd(), configuration.as_fd()].into_iter().chain(network).collect();
        let rest = send_launch(&control, spec, &fds)?;
        drop((forks, notify));
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
                    drop((outside, orders, writer));
                    let mut last = words.await.unwrap_or_default();
                    if let (true, Some(words)) = (last.is_empty(), outer_words) {
                        last = words.await.unwrap_or_default();
                    }
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
            // The launcher ends the parent when this closes.
            drop(writer);
            until.cancel();
        });
        Ok(Self {
            orders,
            imports,
            modules: modules.to_vec(),
            env,
            next: AtomicU64::new(1),
            used: Mutex::new(Instant::now()),
            ended,
            _outside: outside,
            _group: group,
            _dir: own_dir,
            owner,
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
        // If its namespace is gone, so is the parent.
        let _ = order(&self.orders, &ParentOrder::Retire, &[]);
    }

    /// The user to whom namespaces belong that forked processes join, if it is not that of this program.
    pub fn owner(&self) -> Option<RunAs> {
        self.owner
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

    /// Starts the launcher of an agent that is forked from this parent. The descriptor is for the launcher, which asks
    /// for its agent over it.
    pub fn launcher(&self, title: &str, dir: &Path) -> Result<(ForkedLauncher, OwnedFd)> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let launcher = start_launcher(&self.orders, title, dir)?;
        let (ours, theirs) = seqpacket()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        order(&self.orders, &ParentOrder::Agent(number), &[ours.as_fd()])?;
        Ok((launcher, theirs))
    }
}

fn seqpacket() -> Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn order(orders: &OwnedFd, order: &ParentOrder, fds: &[BorrowedFd<'_>]) -> Result<()> {
    send(orders, &serde_json::to_vec(order)?, fds).map(drop)
}

fn start_launcher(orders: &OwnedFd, title: &str, dir: &Path) -> Result<ForkedLauncher> {
    let (control, theirs) = StdUnixStream::pair()?;
    let (stdout, out) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, err) = pipe_with(PipeFlags::CLOEXEC)?;
    let launcher = ParentOrder::Launcher(title.to_owned(), dir.to_owned());
    order(orders, &launcher, &[theirs.as_fd(), out.as_fd(), err.as_fd()])?;
    Ok(ForkedLauncher { control, stdout: Receiver::from_owned_fd(stdout)?, stderr: Receiver::from_owned_fd(stderr)? })
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
    user: Option<RunAs>,
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
        (own.user, own.processes) = (false, false);
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
            run_as: user,
            confinement,
            cgroups: group.map(Group::procs).unwrap_or_default(),
            forked: false,
            grace_ms: 0,
        },
        env,
    ))
}
