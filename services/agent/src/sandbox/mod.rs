//! Isolation of agents from the rest of the machine: the tiers, of which the strongest is taken that this machine
//! really has, users and control groups of agents, and the words in which all of it is reported.
//!
//! The launcher puts the sandbox on (`hoistway_confine`); its specification is decided here.

mod isolation_report;
mod operator_paths;
mod own_network;
mod probe;
mod shm_cleanup;

pub(crate) use own_network::{PROXY, own_network};

use crate::runtime::endpoint::Endpoint;
use hoistway_confine::cgroup::{Cgroups, Group};
use hoistway_confine::python_paths::PythonPaths;
use hoistway_confine::rootfs::{HOME, SHM, TMP};
use hoistway_confine::uids::Uids;
use hoistway_confine::{Access, Confinement, Exposed, Limits, Namespaces, OtherPythons, RunAs};
use hoistway_model::{Error, Name, Result};
pub use isolation_report::Isolation;
pub(crate) use isolation_report::size;
use probe::Choice;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which sandbox agents get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The strongest that this machine has.
    #[default]
    Auto,
    /// Namespaces and a root directory of its own, with Landlock and seccomp. Nothing less will do.
    Namespaces,
    /// Landlock and seccomp.
    Landlock,
    /// None.
    None,
}

/// The network that agents reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Closed where this machine can enforce it, else open.
    #[default]
    Auto,
    /// Everything that this machine reaches.
    Open,
    /// Egress and nothing else.
    Closed,
}

/// A text that is none of the words of a setting.
fn unknown<T>(text: &str, words: &str) -> std::result::Result<T, String> {
    Err(format!("\"{text}\" is none of {words}"))
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Mode::Auto),
            "namespaces" => Ok(Mode::Namespaces),
            "landlock" => Ok(Mode::Landlock),
            "none" => Ok(Mode::None),
            _ => unknown(text, "auto, namespaces, landlock, none"),
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Network::Auto),
            "open" => Ok(Network::Open),
            "closed" => Ok(Network::Closed),
            _ => unknown(text, "auto, open, closed"),
        }
    }
}

/// Makes this machine look lesser than it is, so that what happens on lesser ones can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pretend {
    /// The newest Landlock ABI; 0 is none.
    pub landlock_abi: Option<u8>,
    /// Whether making namespaces is forbidden.
    pub no_namespaces: bool,
    /// Whether there are no control groups.
    pub no_cgroups: bool,
    /// Whether there are no users to give to agents.
    pub no_uids: bool,
}

/// The settings.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which sandbox.
    pub mode: Mode,
    /// Which network.
    pub network: Network,
    /// The port of egress on this machine's loopback, for sandboxes that limit ports.
    pub egress_port: u16,
    /// A file of authorities that agents trust, once it is there.
    pub ca_bundle: Option<PathBuf>,
    /// Further files and directories of this machine that agents may read.
    pub readable: Vec<PathBuf>,
    /// Directories of this machine that agents may read and write, all of them the same.
    pub writable: Vec<PathBuf>,
    /// The mechanisms that are not to be used although they are there.
    pub pretend: Pretend,
}

/// A sandbox that this machine has, as probing found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Namespaces { user: bool, landlock: Option<i32> },
    Landlock { abi: i32 },
    None,
}

/// The sandbox of this installation's agents.
#[derive(Debug)]
pub(crate) struct Sandbox {
    tier: Tier,
    /// Whether agents reach egress and nothing else.
    closed: bool,
    settings: Settings,
    limits: Limits,
    host: PythonPaths,
    /// The directory in the place of the machine's own Pythons, where the agent has a root of its own.
    covers: Vec<Exposed>,
    uids: Option<Uids>,
    cgroups: Option<Cgroups>,
    isolation: Isolation,
}

/// Where the parts of one instance are, for its sandbox.
pub(crate) struct Parts<'a> {
    pub app_dir: &'a Path,
    /// Where the agent's own copy of it is, unless the sandbox makes one; `None` if it has none.
    pub own_app: Option<PathBuf>,
    pub site_dirs: &'a [PathBuf],
    /// The runner's main file. The agent sees the directory that it is in.
    pub runner: &'a Path,
    /// `HOME` and `TMPDIR` where the sandbox has none of its own.
    pub home: PathBuf,
    pub tmp: PathBuf,
    /// An empty directory.
    pub root: PathBuf,
    /// The hosts that the agent reaches by name.
    pub endpoints: &'a [Endpoint],
    /// Where the agent answers its callers.
    pub port: Option<u16>,
}

/// The same as the agent sees them.
pub(crate) struct Placed {
    pub app_dir: PathBuf,
    pub site_dirs: Vec<PathBuf>,
    pub runner: PathBuf,
    pub home: PathBuf,
    pub tmp: PathBuf,
    pub ca_bundle: Option<PathBuf>,
    pub confinement: Confinement,
}

impl Sandbox {
    /// Finds out what this machine has, by trying it, and takes the strongest that `settings` allow. `dir` is the
    /// directory of the runtime, which no sandbox lets an agent into.
    pub async fn find(dir: &Path, launcher: &Path, python: &Path, settings: Settings, limits: Limits) -> Result<Self> {
        operator_paths::check(&settings, dir)?;
        let host = PythonPaths::of_interpreter(python).await?;
        let limits = limits.normalised();
        let (opened, pretend, interpreter) = (dir.to_owned(), settings.pretend, python.to_owned());
        let readable = settings.readable.clone();
        let opening = tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(opened.join("run"))?;
            let uids = if pretend.no_uids { None } else { Uids::open(&opened)? };
            let cgroups = if pretend.no_cgroups { None } else { Cgroups::find(&opened, &limits) };
            let mut covers = OtherPythons::look(&interpreter).covers(&opened.join("covers"))?;
            // The paths that the operator exposes stay.
            covers.retain(|cover| !readable.iter().any(|path| cover.inside.starts_with(path)));
            Ok((uids, cgroups, covers))
        });
        let opened = opening.await.map_err(std::io::Error::other).and_then(|opened| opened);
        let (uids, cgroups, covers) = opened.map_err(|e| Error::internal("looking at the machine", e))?;
        let mut notes = Vec::new();
        let probing = probe::Probing { dir, launcher, python, host: &host, settings: &settings, uids: uids.as_ref() };
        let Choice { tier, closed, own_users } = probing.choose(&mut notes).await?;
        let uids = uids.filter(|_| own_users);
        let isolation =
            isolation_report::Report { tier, closed, limits: &limits, uids: uids.is_some(), cgroups: cgroups.as_ref() };
        let isolation = isolation.words(notes);
        Ok(Self { tier, closed, settings, limits, host, covers, uids, cgroups, isolation })
    }

    /// The enforced isolation, in words.
    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// The agent's own user, if agents have such. The first call for an agent chooses it. Blocks.
    pub fn user(&self, agent: &Name) -> Result<Option<RunAs>> {
        self.uids.as_ref().map(|uids| uids.of(agent)).transpose()
    }

    /// Removes what a deleted agent left outside of its directories, and gives its user back. Blocks.
    pub fn forget(&self, agent: &Name) -> Result<()> {
        let Some(uids) = &self.uids else { return Ok(()) };
        // In a root of its own it had another directory of that name.
        if let Some(user) = uids.user_of(agent).filter(|_| !self.has_own_root()) {
            shm_cleanup::sweep(Path::new(SHM), user);
        }
        uids.release(agent)
    }

    /// Makes the control groups of an instance. Blocks.
    pub fn group(&self, name: &str) -> std::io::Result<Option<Group>> {
        self.cgroups.as_ref().map(|groups| groups.create(name, &self.limits)).transpose()
    }

    /// Ends what an earlier run left in its control groups. Blocks. Returns how many processes it were.
    pub fn sweep(&self) -> usize {
        self.cgroups.as_ref().map_or(0, Cgroups::sweep)
    }

    /// The limits that the launcher sets on the agent's process.
    pub fn rlimits(&self) -> Limits {
        isolation_report::rlimits(&self.limits, self.tier, self.uids.is_some(), self.cgroups.as_ref())
    }

    /// Whether the agent has a network of its own, whose sockets are handed out.
    pub fn has_own_network(&self) -> bool {
        self.closed && matches!(self.tier, Tier::Namespaces { .. })
    }

    /// Whether `HOME` and `TMPDIR` are in memory, and not in the instance's directory.
    pub fn has_own_root(&self) -> bool {
        matches!(self.tier, Tier::Namespaces { .. })
    }

    /// Whether agents can be forked: each needs namespaces, also of its network, and a user of the machine or of a user
    /// namespace of its own.
    pub fn can_fork(&self) -> bool {
        self.closed && matches!(self.tier, Tier::Namespaces { user, .. } if user != self.uids.is_some())
    }

    /// The user of the processes that agents are forked from, if agents have users.
    pub fn warm_parents_user(&self) -> Option<RunAs> {
        self.uids.as_ref().map(Uids::warm_parents_user)
    }

    /// The users of such a process and its agents, if agents have users: ranges with their first number and their length.
    pub fn forked_users(&self) -> Option<[(u32, u32); 2]> {
        self.uids.as_ref().map(Uids::forked_users)
    }

    /// The specification for one instance's launcher.
    pub fn place(&self, parts: &Parts<'_>) -> Placed {
        let mut placed = place(self.tier, self.closed, &self.settings, &self.host, self.limits.disk, parts);
        if self.has_own_root() {
            placed.confinement.exposed.extend_from_slice(&self.covers);
        }
        placed
    }
}

/// The directories of an image, where the agent has a root of its own.
const APP: &str = "/app";
const RUNNER: &str = "/opt/hoistway/runner";
const SITE: &str = "/opt/hoistway/site-packages";
/// The path of the certificate authorities that agents trust, there.
const CA_BUNDLE: &str = "/opt/hoistway/ca-bundle.pem";

fn place(
    tier: Tier,
    closed: bool,
    settings: &Settings,
    host: &PythonPaths,
    disk: Option<u64>,
    parts: &Parts<'_>,
) -> Placed {
    let own_root = matches!(tier, Tier::Namespaces { .. });
    let mut exposed = host.exposed(own_root);
    let mut show = |host: &Path, inside: PathBuf, access| {
        let inside = if own_root { inside } else { host.to_owned() };
        exposed.push(Exposed { host: host.to_owned(), inside: inside.clone(), access });
        inside
    };
    let app_dir = match &parts.own_app {
        Some(_) if own_root => show(parts.app_dir, APP.into(), Access::Copy),
        Some(copy) => show(copy, copy.clone(), Access::Write),
        None => show(parts.app_dir, APP.into(), Access::Read),
    };
    // Its directory: the runner is more than its main file, but in images of earlier versions.
    let directory = parts.runner.parent().unwrap_or(parts.runner);
    let file = parts.runner.file_name().unwrap_or_default();
    let runner = show(directory, RUNNER.into(), Access::Read).join(file);
    let site_dirs: Vec<PathBuf> = match parts.site_dirs {
        [only] => vec![show(only, SITE.into(), Access::Read)],
        many => many.iter().zip(1..).map(|(dir, n)| show(dir, format!("{SITE}-{n}").into(), Access::Read)).collect(),
    };
    let ca_bundle = settings.ca_bundle.as_deref().filter(|path| path.exists());
    let ca_bundle = ca_bundle.map(|path| show(path, CA_BUNDLE.into(), Access::Read));
    for path in &settings.readable {
        show(path, path.clone(), Access::Read);
    }
    for path in &settings.writable {
        show(path, path.clone(), Access::Write);
    }
    let (home, tmp) = match own_root {
        true => (HOME.into(), TMP.into()),
        false => {
            (show(&parts.home, parts.home.clone(), Access::Write), show(&parts.tmp, parts.tmp.clone(), Access::Write))
        }
    };
    let confinement = match tier {
        Tier::Namespaces { user, landlock } => Confinement {
            namespaces: Some(Namespaces {
                user,
                processes: true,
                network: closed.then(|| own_network(parts.endpoints, parts.port, &host.name)),
                root: parts.root.clone(),
                disk,
            }),
            landlock,
            seccomp: true,
            exposed,
            ..Confinement::default()
        },
        Tier::Landlock { abi } => Confinement {
            landlock: Some(abi),
            seccomp: true,
            only_port: closed.then_some(settings.egress_port),
            exposed,
            ..Confinement::default()
        },
        Tier::None => Confinement::default(),
    };
    Placed { app_dir, site_dirs, runner, home, tmp, ca_bundle, confinement }
}
