//! Control groups that limit memory, processes and processor time of a whole agent, where this program may create
//! groups. Version 2 where it has the controllers, else version 1.

use super::cgroup_lock::{self, Claim, make};
use crate::kill::kill_all;
use crate::spec::Limits;
use std::fs;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The most rounds of killing a group's processes, since new ones may be forked meanwhile.
const ROUNDS: usize = 16;
/// The CPU period of the quota, in microseconds.
const PERIOD: u64 = 100_000;
/// The number of attempts to remove a group that the kernel still holds, and the pause between them.
const REMOVALS: usize = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(5);

/// The group of this program itself, inside a group that was delegated to it.
const SUPERVISOR: &str = "supervisor";

/// The groups of one installation.
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    /// Marks the groups as in use. Set as soon as groups are created.
    claim: Option<Arc<Claim>>,
    /// The directory that has one group for each agent: one, or with version 1 one for each controller.
    parents: Vec<(Controller, PathBuf)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A resource controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
}

const CONTROLLERS: [(Controller, &str); 3] =
    [(Controller::Memory, "memory"), (Controller::Pids, "pids"), (Controller::Cpu, "cpu")];

/// The group of one instance.
#[derive(Debug, Clone)]
pub struct Group {
    dirs: Vec<PathBuf>,
    /// Keeps the parent directories in use as long as the group exists.
    _claim: Option<Arc<Claim>>,
}

impl Cgroups {
    /// Finds the groups that this program may create, by creating one with these limits.
    pub fn find(dir: &Path, limits: &Limits) -> Option<Self> {
        let tag = cgroup_lock::name(dir);
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let candidates = [second(&mounts, &own, &tag), first(&mounts, &own, &tag)];
        candidates.into_iter().flatten().find_map(|groups| {
            let claim = Claim::new(groups.parents.iter().map(|(_, parent)| parent)).ok()?;
            let groups = Self { claim: Some(Arc::new(claim)), ..groups };
            groups.create("probe", limits).ok()?.remove();
            Some(groups)
        })
    }

    /// Whether a controller is available.
    pub fn has(&self, wanted: Controller) -> bool {
        self.parents.iter().any(|(controller, _)| *controller == wanted)
    }

    /// Creates a group with limits.
    pub fn create(&self, name: &str, limits: &Limits) -> Result<Group> {
        let mut group = Group { dirs: Vec::new(), _claim: self.claim.clone() };
        let made = self.parents.iter().try_for_each(|(controller, parent)| {
            let dir = parent.join(name);
            if !group.dirs.contains(&dir) {
                self.prepare(parent)?;
                make(&dir)?;
                group.dirs.push(dir.clone());
            }
            self.limit(*controller, &dir, limits)
        });
        match made {
            Ok(()) => Ok(group),
            Err(error) => {
                group.remove();
                Err(error)
            }
        }
    }

    /// Creates the parent, and enables the controllers for its children.
    fn prepare(&self, parent: &Path) -> Result<()> {
        make(parent)?;
        if self.version == Version::Two {
            let wanted: Vec<String> = CONTROLLERS
                .iter()
                .filter(|(controller, _)| self.has(*controller))
                .map(|(_, name)| format!("+{name}"))
                .collect();
            fs::write(parent.join("cgroup.subtree_control"), wanted.join(" "))?;
        }
        Ok(())
    }

    fn limit(&self, controller: Controller, dir: &Path, limits: &Limits) -> Result<()> {
        let set = |file: &str, value: String| fs::write(dir.join(file), value);
        match (controller, self.version) {
            (Controller::Memory, version) => {
                let Some(bytes) = limits.memory else { return Ok(()) };
                let (memory, swap, none) = match version {
                    Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes.to_string()),
                    Version::Two => ("memory.max", "memory.swap.max", "0".to_owned()),
                };
                set(memory, bytes.to_string())?;
                // Kernels without swap accounting have no swap to limit.
                let _ = set(swap, none);
                Ok(())
            }
            (Controller::Pids, _) => match limits.processes {
                // The group contains the agent's launcher, or the first process of its namespace, too.
                Some(count) => set("pids.max", (count + 2).to_string()),
                None => Ok(()),
            },
            (Controller::Cpu, version) => {
                let Some(millicores) = limits.cpu_millicores else { return Ok(()) };
                let quota = (millicores.saturating_mul(PERIOD) / 1000).max(1000);
                match version {
                    Version::One => {
                        set("cpu.cfs_period_us", PERIOD.to_string())?;
                        set("cpu.cfs_quota_us", quota.to_string())
                    }
                    Version::Two => set("cpu.max", format!("{quota} {PERIOD}")),
                }
            }
        }
    }

    /// Kills and removes every existing group of ours, and removes those of abandoned installations. Returns the number
    /// of processes found.
    pub fn sweep(&self) -> usize {
        let mut killed = 0;
        for (_, parent) in &self.parents {
            let Ok(entries) = fs::read_dir(parent) else { continue };
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let group = Group { dirs: vec![entry.path()], _claim: None };
                killed += group.kill();
                group.remove();
            }
        }
        if let Some(claim) = &self.claim {
            claim.sweep_abandoned();
        }
        killed
    }
}

impl Group {
    /// Returns the files through which a process joins.
    pub fn procs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// Returns the number of its processes that the kernel has killed for lack of memory.
    pub fn out_of_memory_kills(&self) -> u64 {
        let events = ["memory.events", "memory.oom_control"];
        let read = |dir: &PathBuf| events.iter().find_map(|file| fs::read_to_string(dir.join(file)).ok());
        self.dirs.iter().filter_map(read).map(|events| oom_kills(&events)).max().unwrap_or_default()
    }

    /// Kills every process in it, whatever its parents and its environment are now. Returns the number of processes
    /// found.
    pub fn kill(&self) -> usize {
        let mut killed = 0;
        for _ in 0..ROUNDS {
            let pids: Vec<i32> = self.procs().iter().flat_map(|procs| pids(procs)).collect();
            if pids.is_empty() {
                break;
            }
            killed += pids.len();
            kill_all(&pids);
        }
        killed
    }

    /// Removes it.
    pub fn remove(&self) {
        for dir in &self.dirs {
            for _ in 0..REMOVALS {
                match fs::remove_dir(dir) {
                    // The kernel releases a process shortly after it ends.
                    Err(error) if error.kind() == ErrorKind::ResourceBusy => std::thread::sleep(REMOVAL_PAUSE),
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        tracing::warn!(%error, dir = %dir.display(), "cannot remove a control group");
                        break;
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Parses the count in `memory.events` (version 2) or `memory.oom_control` (version 1).
fn oom_kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

fn pids(procs: &Path) -> Vec<i32> {
    let text = fs::read_to_string(procs).unwrap_or_default();
    // 0 is a process of another PID namespace.
    text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect()
}

/// Finds the groups of version 2: below our own group if it contains only us, as a service manager delegates it; else,
/// as root, at the top.
fn second(mounts: &str, own: &str, tag: &str) -> Option<Cgroups> {
    let (root, mount) = mount_of(mounts, |kind, _| kind == "cgroup2")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let here = below(&mount, &root, own);
    [delegated(&here, tag), top(&mount, tag)].into_iter().flatten().next()
}

fn delegated(here: &Path, tag: &str) -> Option<Cgroups> {
    // Another part of this program has created the group already.
    let here = if here.ends_with(SUPERVISOR) { here.parent()? } else { here };
    let controllers = controllers(here)?;
    let me = i32::try_from(std::process::id()).ok()?;
    let inhabitants = pids(&here.join("cgroup.procs"));
    if inhabitants == [me] {
        // A group that enables controllers for its children may have no processes of its own.
        let supervisor = here.join(SUPERVISOR);
        make(&supervisor).ok()?;
        fs::write(supervisor.join("cgroup.procs"), "0").ok()?;
    } else if !inhabitants.is_empty() {
        return None;
    }
    enable(here, &controllers).ok()?;
    Some(second_at(here.join(tag), controllers))
}

fn top(mount: &Path, tag: &str) -> Option<Cgroups> {
    let controllers = controllers(mount)?;
    enable(mount, &controllers).ok()?;
    Some(second_at(mount.join(tag), controllers))
}

/// Returns the available controllers of a group; `None` if there are none that we use.
fn controllers(group: &Path) -> Option<Vec<(Controller, &'static str)>> {
    let text = fs::read_to_string(group.join("cgroup.controllers")).ok()?;
    let there = CONTROLLERS.into_iter().filter(|(_, name)| text.split_whitespace().any(|word| word == *name));
    let there: Vec<_> = there.collect();
    (!there.is_empty()).then_some(there)
}

fn enable(group: &Path, controllers: &[(Controller, &str)]) -> Result<()> {
    let wanted: Vec<String> = controllers.iter().map(|(_, name)| format!("+{name}")).collect();
    fs::write(group.join("cgroup.subtree_control"), wanted.join(" "))
}

fn second_at(parent: PathBuf, controllers: Vec<(Controller, &'static str)>) -> Cgroups {
    let parents = controllers.into_iter().map(|(controller, _)| (controller, parent.clone())).collect();
    Cgroups { version: Version::Two, claim: None, parents }
}

/// Finds the groups of version 1: below our own group of each controller.
fn first(mounts: &str, own: &str, tag: &str) -> Option<Cgroups> {
    let mut parents = Vec::new();
    for (controller, name) in CONTROLLERS {
        let is = |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|option| option == name);
        let Some((root, mount)) = mount_of(mounts, is) else { continue };
        let group = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            controllers.split(',').any(|c| c == name).then(|| fields.next())?
        });
        let here = below(&mount, &root, group.unwrap_or("/"));
        let parent = if here.is_dir() { here } else { mount };
        parents.push((controller, parent.join(tag)));
    }
    (!parents.is_empty()).then_some(Cgroups { version: Version::One, claim: None, parents })
}

/// Returns the root and the mount point of the first mount whose type and options match.
fn mount_of(mounts: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let (kind, options) = (file_system.next()?, file_system.nth(1)?);
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        wanted(kind, options).then(|| (root.into(), point.into()))
    })
}

/// Returns the path of a group in a hierarchy that is mounted from `root` on.
fn below(mount: &Path, root: &Path, group: &str) -> PathBuf {
    let group = Path::new(group);
    let rest = group.strip_prefix(root).or_else(|_| group.strip_prefix("/")).unwrap_or(group);
    mount.join(rest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MOUNTS: &str = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 25 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn kills_for_want_of_memory_are_read_in_both_versions() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!((oom_kills("oom_kill_disable 0\n"), oom_kills("")), (0, 0));
    }

    #[test]
    fn groups_of_version_1_are_below_our_own() {
        let own = "9:memory:/docker/abc/ours\n8:cpu,cpuacct:/nowhere\n0::/\n";
        let found = first(MOUNTS, own, "tag").unwrap();
        let of = |wanted| found.parents.iter().find(|(c, _)| *c == wanted).map(|(_, path)| path.as_path());
        // Neither group exists on this machine: the mount itself is used then.
        assert_eq!(of(Controller::Memory), Some(Path::new("/sys/fs/cgroup/memory/tag")));
        assert_eq!(of(Controller::Cpu), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/tag")));
        assert!(!found.has(Controller::Pids));
    }

    #[test]
    fn paths_are_relative_to_what_is_mounted() {
        assert_eq!(below(Path::new("/m"), Path::new("/docker/abc"), "/docker/abc/x"), Path::new("/m/x"));
        assert_eq!(below(Path::new("/m"), Path::new("/"), "/a/b"), Path::new("/m/a/b"));
        let (root, mount) = mount_of(MOUNTS, |kind, _| kind == "cgroup2").unwrap();
        assert_eq!((root.as_path(), mount.as_path()), (Path::new("/"), Path::new("/sys/fs/cgroup/unified")));
    }
}
