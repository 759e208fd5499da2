//! Finding out what this machine has: every sandbox is put on a throw-away Python, which looks around from within. No
//! version number is believed.

use super::{Mode, Network, Parts, Settings, Tier, place};
use crate::launcher::protocol::{CommandLine, LaunchSpec, Order, Report, Restrictions};
use crate::launcher::{client, receive, send_order};
use hoistway_confine::exec::landlock_abi;
use hoistway_confine::landlock::TCP;
use hoistway_confine::python_paths::PythonPaths;
use hoistway_confine::uids::Uids;
use hoistway_confine::{Limits, RunAs};
use hoistway_model::{Code, Error, Result};
use rustix::fs::{Gid, Uid, chown};
use serde::Deserialize;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time that a probe may take; it takes tens of milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Prints what is seen from within.
const LOOK: &str = r#"
import json, os, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
def can(what):
    try: what(); return True
    except OSError: return False
def write(path):
    with open(path, "w") as file: file.write("x")
    os.unlink(path)
directory = sys.argv[1]
print(json.dumps({
    "pid_namespace": os.readlink("/proc/self/ns/pid"),
    "uid": os.getuid(),
    "capabilities": int(status["CapPrm"], 16) | int(status["CapEff"], 16) | int(status["CapInh"], 16),
    "seccomp": status["Seccomp"].strip() == "2",
    "lists_data": can(lambda: os.listdir(directory)),
    "sees_data": os.path.exists(directory + "/run"),
    "reads_app": can(lambda: os.listdir(sys.argv[2])),
    "writes": can(lambda: write(os.environ["HOME"] + "/x")) and can(lambda: write(os.environ["TMPDIR"] + "/x"))
              and can(lambda: write("/dev/shm/hoistway-probe-%d-%d" % (os.getuid(), os.getpid()))),
    "random": can(lambda: open("/dev/urandom").close()) and can(lambda: open("/dev/null", "w").close()),
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line],
}))
"#;

/// The report of the probe.
#[derive(Debug, Deserialize)]
struct Seen {
    pid_namespace: String,
    uid: u32,
    capabilities: u64,
    seccomp: bool,
    lists_data: bool,
    sees_data: bool,
    reads_app: bool,
    writes: bool,
    random: bool,
    interfaces: Vec<String>,
}

pub(super) struct Probing<'a> {
    /// The runtime's directory.
    pub dir: &'a Path,
    pub launcher: &'a Path,
    pub python: &'a Path,
    pub host: &'a PythonPaths,
    pub settings: &'a Settings,
    pub uids: Option<&'a Uids>,
}

type Why = String;

/// The sandbox that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub tier: Tier,
    /// Whether agents reach egress and nothing else in it.
    pub closed: bool,
    /// Whether each agent has a user of its own.
    pub own_users: bool,
}

impl Probing<'_> {
    /// Chooses the strongest sandbox that the settings allow, and closes the network in it if they allow that and it
    /// can. What an operator should know of the choice is added to `notes`.
    pub async fn choose(&self, notes: &mut Vec<String>) -> Result<Choice> {
        let root = rustix::process::geteuid().is_root();
        let user = self.uids.map(Uids::probe);
        let landlock = self.landlock().await;
        let abi = landlock.as_ref().ok().copied();
        let mode = self.settings.mode;

        if matches!(mode, Mode::Auto | Mode::Namespaces) {
            let tier = Tier::Namespaces { user: !root, landlock: abi };
            let tried = match (root, user) {
                // As root in there it would be root to files and settings of the kernel.
                (true, None) => {
                    Err("agents of root need users of their own, and this program may not choose users".into())
                }
                _ if self.settings.pretend.no_namespaces => Err("they are taken to be forbidden".into()),
                (_, user) => self.closed_or_open(tier, user.filter(|_| root), notes).await,
            };
            match tried {
                Ok(closed) => return Ok(Choice { tier, closed, own_users: root }),
                Err(why) if mode == Mode::Namespaces => return Err(cannot("namespaces", &why)),
                Err(why) => notes.push(format!("no namespaces for agents: {why}")),
            }
        }
        if matches!(mode, Mode::Auto | Mode::Landlock) {
            let tried = match landlock {
                Err(why) => Err(why),
                Ok(abi) => self.with_or_without_user(Tier::Landlock { abi }, user, notes).await,
            };
            match tried {
                Ok(choice) => return Ok(choice),
                Err(why) if mode == Mode::Landlock => return Err(cannot("landlock", &why)),
                Err(why) => notes.push(format!("no Landlock for agents: {why}")),
            }
        }
        if self.settings.network == Network::Closed {
            let why = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
            let text = format!("a closed network cannot be enforced without a sandbox{why}: set the network to open");
            return Err(Error::new(Code::InvalidArgument, text));
        }
        self.with_or_without_user(Tier::None, user, notes).await.map_err(|why| cannot("none", &why))
    }

    /// Tries a tier with the network that the settings ask for. Returns whether it is closed.
    async fn closed_or_open(
        &self,
        tier: Tier,
        user: Option<RunAs>,
        notes: &mut Vec<String>,
    ) -> std::result::Result<bool, Why> {
        if self.settings.network != Network::Open {
            let tried = match tier {
                Tier::Landlock { abi } if abi < TCP => {
                    Err(format!("a closed network needs Landlock ABI {TCP}, and this machine has {abi}"))
                }
                Tier::None => Err("nothing limits the network without a sandbox".to_owned()),
                Tier::Landlock { .. } | Tier::Namespaces { .. } => self.attempt(tier, true, user).await,
            };
            match tried {
                Ok(()) => return Ok(true),
                Err(why) if self.settings.network == Network::Closed => return Err(why),
                Err(why) => {
                    self.attempt(tier, false, user).await?;
                    notes.push(format!("agents reach whatever this machine reaches: {why}"));
                    return Ok(false);
                }
            }
        }
        self.attempt(tier, false, user).await.map(|()| false)
    }

    /// Whether it works with a user of the agent's own. If not even without one, why.
    async fn with_or_without_user(
        &self,
        tier: Tier,
        user: Option<RunAs>,
        notes: &mut Vec<String>,
    ) -> std::result::Result<Choice, Why> {
        if user.is_some() {
            self.passable(true);
            match self.closed_or_open(tier, user, notes).await {
                Ok(closed) => return Ok(Choice { tier, closed, own_users: true }),
                Err(why) => {
                    self.passable(false);
                    notes.push(format!(
                        "agents run as root, without capabilities: users of their own do not work: {why}"
                    ));
                }
            }
        }
        self.closed_or_open(tier, None, notes).await.map(|closed| Choice { tier, closed, own_users: false })
    }

    /// Lets other users pass through the directories above layers and private directories, without listing them. What
    /// is secret in there is readable by its owner only.
    fn passable(&self, passable: bool) {
        let mode = if passable { 0o711 } else { 0o700 };
        let ours = [self.dir.parent(), Some(self.dir)].into_iter().flatten().map(Path::to_owned);
        for dir in ours.chain(["run", "layers"].map(|name| self.dir.join(name))) {
            if let Err(error) = fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
                && dir.exists()
            {
                tracing::warn!(%error, dir = %dir.display(), "cannot change a directory's mode");
            }
        }
    }

    /// The newest ABI of this kernel's Landlock.
    async fn landlock(&self) -> std::result::Result<i32, Why> {
        let abi = landlock_abi(self.launcher).await?;
        match self.settings.pretend.landlock_abi.map_or(abi, |most| abi.min(i32::from(most))) {
            0 => Err("this kernel has no Landlock, or it is switched off".to_owned()),
            abi => Ok(abi),
        }
    }

    /// Puts one sandbox on and looks around.
    async fn attempt(&self, tier: Tier, closed: bool, user: Option<RunAs>) -> std::result::Result<(), Why> {
        let place = Place::make(self.dir, user).map_err(|e| format!("a place to try it: {e}"))?;
        let seen = self.look(tier, closed, user, &place).await?;
        let own_namespace = fs::read_link("/proc/self/ns/pid").map_err(|e| e.to_string())?;
        let wrong = |what: &str| Err(format!("tried, and {what}"));
        if user.is_some_and(|user| user.uid != seen.uid) || seen.capabilities != 0 {
            return wrong("it had another user or capabilities");
        }
        if !(seen.reads_app && seen.writes) {
            return wrong("it could not read its code or write its own directories");
        }
        match tier {
            Tier::None => return Ok(()),
            Tier::Landlock { .. } if seen.lists_data => return wrong("it could list the data directory"),
            Tier::Namespaces { .. } if Path::new(&seen.pid_namespace) == own_namespace => {
                return wrong("it was in our PID namespace");
            }
            Tier::Namespaces { .. } if seen.sees_data || seen.lists_data => {
                return wrong("it could see the data directory");
            }
            Tier::Namespaces { .. } if closed && seen.interfaces != ["lo"] => {
                return wrong("it had other networks than its own");
            }
            _ => {}
        }
        if !seen.seccomp {
            return wrong("system calls were not filtered");
        }
        if !seen.random {
            return wrong("it had no devices");
        }
        Ok(())
    }

    async fn look(&self, tier: Tier, closed: bool, user: Option<RunAs>, at: &Place) -> std::result::Result<Seen, Why> {
        let app_dir = at.0.join("app");
        let runner = app_dir.join("runner.py");
        let parts = Parts {
            app_dir: &app_dir,
            own_app: None,
            site_dirs: &[],
            runner: &runner,
            home: at.0.join("home"),
            tmp: at.0.join("tmp"),
            root: at.0.join("root"),
            endpoints: &[],
            port: None,
        };
        let placed = place(tier, closed, self.settings, self.host, Some(1 << 20), &parts);
        let hands_out = placed.confinement.namespaces.as_ref().is_some_and(|n| n.network.is_some());
        let spec = LaunchSpec {
            program: self.python.to_owned(),
            command: CommandLine {
                args: [
                    "-I".into(),
                    "-S".into(),
                    "-c".into(),
                    LOOK.to_owned(),
                    self.dir.display().to_string(),
                    placed.app_dir.display().to_string(),
                ]
                .into(),
                fd_options: Vec::new(),
                env: [("HOME", &placed.home), ("TMPDIR", &placed.tmp)]
                    .map(|(name, path)| (name.to_owned(), path.display().to_string()))
                    .into(),
                cwd: placed.app_dir.clone(),
            },
            restrictions: Restrictions {
                limits: Limits { processes: None, ..Limits::default() },
                run_as: user,
                confinement: placed.confinement,
                cgroups: Vec::new(),
            },
            grace_ms: 0,
        };
        let (egress, egress_theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        let launched = client::spawn(self.launcher, |command| {
            command.kill_on_drop(true);
        });
        let (launcher, ours) = launched.map_err(|e| e.to_string())?;
        let fds: Vec<BorrowedFd<'_>> = if hands_out { vec![egress_theirs.as_fd()] } else { Vec::new() };
        let rest = send_order(&ours, &Order::Launch(Box::new(spec)), &fds).map_err(|e| e.to_string())?;
        drop(egress_theirs);
        // The rest fits in the socket's buffer as well: a probe has no secrets and a short environment.
        std::io::Write::write_all(&mut &ours, &rest).map_err(|e| e.to_string())?;
        let output = tokio::time::timeout(LIMIT, launcher.wait_with_output()).await;
        let output = output.map_err(|_| "it took too long".to_owned())?.map_err(|e| e.to_string())?;
        if let Ok(seen) = serde_json::from_slice(&output.stdout) {
            if hands_out && !handed_out(&egress) {
                return Err("egress' listener was not handed out".to_owned());
            }
            return Ok(seen);
        }
        Err(why_not(&ours, &output.stderr))
    }
}

fn handed_out(egress: &UnixStream) -> bool {
    let (mut fds, mut buffer) = (Vec::new(), [0; 16]);
    receive(egress, &mut buffer, &mut fds).is_ok() && fds.len() == 1
}

/// The launcher's report, or its last line.
fn why_not(control: &UnixStream, stderr: &[u8]) -> Why {
    // The launcher is gone, so all that it said is there.
    let _ = control.set_nonblocking(true);
    let reports = BufReader::new(control).lines().map_while(std::result::Result::ok);
    let failed = reports.filter_map(|line| serde_json::from_str(&line).ok()).find_map(|report| match report {
        Report::Failed(why) => Some(why),
        _ => None,
    });
    let last = || {
        let text = String::from_utf8_lossy(stderr);
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        line.map(|line| line.trim_start_matches("hoistway: ").to_owned())
    };
    failed.or_else(last).unwrap_or_else(|| "it ended without a word".to_owned())
}

fn cannot(mode: &str, why: &str) -> Error {
    let text = format!("the sandbox \"{mode}\" cannot be had on this machine: {why}");
    Error::new(Code::InvalidArgument, text)
}

/// The directories of a probe, removed after it.
struct Place(PathBuf);

impl Place {
    fn make(dir: &Path, user: Option<RunAs>) -> std::io::Result<Self> {
        let place = Self(dir.join("run").join("probe"));
        // Files that a killed probe left behind.
        let _ = fs::remove_dir_all(&place.0);
        for name in ["app", "home", "tmp", "root"] {
            fs::create_dir_all(place.0.join(name))?;
        }
        for (name, mode) in [("", 0o711), ("app", 0o755), ("home", 0o700), ("tmp", 0o700), ("root", 0o700)] {
            fs::set_permissions(place.0.join(name), fs::Permissions::from_mode(mode))?;
        }
        if let Some(user) = user {
            for name in ["home", "tmp"] {
                chown(place.0.join(name), Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
            }
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "cannot remove a probe's directory");
        }
    }
}
