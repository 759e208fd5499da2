//! Starts the programs that read untrusted input: `uv`, and the Python processes that parse and compile. Each
//! is confined: a user of its own, no capabilities, no files but those it needs, limits, and a control group for each
//! build, as far as this machine has these. Nothing else in the service starts such a program.

mod cgroup;
mod ownership;
mod probe;

use super::{Interpreter, process};
use crate::Config;
use cgroup::BuildGroup;
use hoistway_confine::{
    Access, Confinement, Exposed, Limits, Namespaces, RunAs,
    cgroup::Cgroups,
    exec::{EXEC, Plan},
    launcher,
    python_paths::PythonPaths,
    uids::Uids,
};
use hoistway_model::{Error, Result};
use probe::Isolation;
use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{process::Command, task::spawn_blocking};

pub use hoistway_confine::exec::run_if_requested;

/// The most processes and threads of one build.
const PROCESSES: u64 = 256;
/// The most files that one process has open.
const OPEN_FILES: u64 = 4096;
/// The most bytes that a program may keep in `HOME` and `TMPDIR` in memory, where these are its own.
const SCRATCH: u64 = 256 << 20;
/// The first Landlock with which files can be moved between directories, which uv does.
const MOVES: i32 = 2;

/// Whose user a program has: what one of the two has been made to do, the other's files are safe from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It talks to package indexes and has the cache.
    Installer,
    /// It parses and compiles, and has no network.
    Reader,
}

/// The files that one program may use beside the interpreter and the system's.
#[derive(Debug, Default)]
pub struct FileAccess<'a> {
    /// Read, where they are there.
    pub read: Vec<&'a Path>,
    /// Read and written.
    pub write: Vec<&'a Path>,
    /// Whether it works for many builds, and so limits its processor time itself.
    pub lasting: bool,
}

/// Starts programs. Clones share everything but the group of a build.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    /// None in tests without a program that could start them.
    shared: Option<Arc<Shared>>,
    group: Option<Arc<BuildGroup>>,
}

#[derive(Debug)]
struct Shared {
    launcher: PathBuf,
    way: Isolation,
    host: PythonPaths,
    users: Option<[RunAs; 2]>,
    groups: Option<cgroup::Groups>,
    /// An empty directory, where a root of a program's own is put together.
    root: PathBuf,
}

impl Sandbox {
    /// Finds out how programs can be confined here, and gives the installer its cache.
    pub async fn open(config: &Config, interpreter: &Interpreter) -> Result<Self> {
        let Some(program) = config.launcher.clone() else { return Ok(Self::default()) };
        let host = PythonPaths::of_interpreter(&interpreter.executable).await?;
        let (dir, agents) = (config.service_dir(), config.data_dir.join("agent"));
        let (root, own_users) = (dir.join("root"), config.own_users);
        let limits = Limits { memory: Some(config.max_memory_bytes), processes: Some(PROCESSES), ..none() };
        let (at, empty) = (dir.clone(), root.clone());
        let opening = spawn_blocking(move || {
            std::fs::create_dir_all(empty)?;
            let cgroups = Cgroups::find(&at, &limits);
            if let Some(groups) = &cgroups {
                // Programs that an earlier process left running would write where this one works.
                groups.sweep();
            }
            let users = if own_users { Uids::open(&agents)? } else { None };
            Ok((users.map(|uids| uids.build_users()), cgroups, launcher::chosen(program, &[])))
        });
        let failed = |e: io::Error| Error::internal("preparing to start programs of builds", e);
        let (users, cgroups, launcher) = opening.await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        let groups = cgroups.map(|cgroups| cgroup::Groups::new(cgroups, limits));
        let mut shared = Shared { launcher, way: Isolation::default(), host, users, groups, root };
        shared.way = probe::choose(&mut shared, &dir, &interpreter.executable).await?;
        let sandbox = Self { shared: Some(Arc::new(shared)), group: None };
        let owner = sandbox.owner(Role::Installer);
        let handing = spawn_blocking(move || ownership::hand_over(&dir, owner));
        handing.await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        Ok(sandbox)
    }

    /// The same in a control group of one build's own, which ends with the last of its clones.
    pub async fn for_build(&self) -> Result<Self> {
        let Some(shared) = self.shared.clone().filter(|shared| shared.groups.is_some()) else {
            return Ok(self.clone());
        };
        let made = spawn_blocking(move || shared.groups.as_ref().map(cgroup::Groups::make).transpose());
        let failed = |e: io::Error| Error::internal("making a control group for a build", e);
        let group = made.await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        Ok(Self { shared: self.shared.clone(), group: group.map(Arc::new) })
    }

    /// Ends what still runs in control groups, and removes them, when the service ends.
    pub async fn end(&self) {
        let Some(shared) = self.shared.clone() else { return };
        let _ = spawn_blocking(move || shared.groups.as_ref().map(cgroup::Groups::end)).await;
    }

    /// The user that has what programs of a kind write, if that is another one than the service's.
    pub fn owner(&self, role: Role) -> Option<RunAs> {
        self.shared.as_ref()?.owner(role)
    }

    /// Makes a directory for what programs of a kind write. Blocks.
    pub fn make_dir(&self, dir: &Path, role: Role) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        ownership::change_owner(dir, self.owner(role))
    }

    /// Gives a file or directory to the user of a kind. Blocks.
    pub fn change_owner(&self, path: &Path, role: Role) -> io::Result<()> {
        ownership::change_owner(path, self.owner(role))
    }

    /// The memory of the build that this is for, where it is limited.
    pub fn memory(&self) -> Option<u64> {
        self.group.as_ref()?.memory()
    }

    /// A command that inherits nothing but its arguments, and reaches nothing but what it needs.
    pub fn command(
        &self,
        program: &Path,
        env: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
        role: Role,
        access: &FileAccess<'_>,
    ) -> io::Result<Command> {
        let Some(shared) = &self.shared else { return Ok(process::command(program, env)) };
        let plan = shared.plan(self.group.as_deref(), role, access);
        let mut command = process::command(&shared.launcher, env);
        command.arg(EXEC).arg(serde_json::to_string(&plan)?).arg(program);
        Ok(command)
    }
}

impl Shared {
    fn owner(&self, role: Role) -> Option<RunAs> {
        let [installer, reader] = self.users.filter(|_| self.way.own_root)?;
        Some(match role {
            Role::Installer => installer,
            Role::Reader => reader,
        })
    }

    fn plan(&self, group: Option<&BuildGroup>, role: Role, access: &FileAccess<'_>) -> Plan {
        let limits = Limits {
            file_size: Some(process::FILE),
            data: Some(process::MEMORY),
            open_files: Some(OPEN_FILES),
            ..none()
        };
        Plan {
            parent: std::process::id(),
            cgroups: group.map_or(Vec::new(), BuildGroup::procs),
            limits,
            cpu_seconds: (!access.lasting).then_some(process::CPU_SECONDS),
            run_as: self.owner(role),
            confinement: self.confinement(role, access),
        }
    }

    fn confinement(&self, role: Role, access: &FileAccess<'_>) -> Confinement {
        let Isolation { own_root, landlock, seccomp, .. } = self.way;
        let landlock = landlock.filter(|abi| role == Role::Reader || *abi >= MOVES);
        if !seccomp {
            return Confinement::default();
        }
        let mut exposed = self.host.exposed(own_root);
        // The shared writable paths are for agents.
        exposed.retain(|part| part.access != Access::Write);
        let part = |path: &&Path, access| Exposed { host: path.to_path_buf(), inside: path.to_path_buf(), access };
        exposed.extend(access.read.iter().map(|path| part(path, Access::ReadIfThere)));
        exposed.extend(access.write.iter().map(|path| part(path, Access::Write)));
        let root = self.root.clone();
        Confinement {
            namespaces: own_root.then_some(Namespaces {
                user: false,
                processes: false,
                network: None,
                root,
                disk: Some(SCRATCH),
            }),
            landlock,
            seccomp,
            no_sockets: role == Role::Reader,
            keeps_group: true,
            exposed,
            ..Confinement::default()
        }
    }
}

/// No limits.
const fn none() -> Limits {
    Limits {
        memory: None,
        processes: None,
        cpu_millicores: None,
        disk: None,
        open_files: None,
        file_size: None,
        data: None,
    }
}
