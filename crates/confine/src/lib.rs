//! Confinement of a child process, which the process applies to itself: namespaces with a root directory of its own, a
//! user of its own, no capabilities, resource limits, Landlock, and a system call filter. Every requested measure is
//! applied, or the start fails. The crate also manages the control groups and the users of an installation, and the
//! paths that Python needs.

pub mod cgroup;
mod cgroup_lock;
pub mod copy_tree;
pub mod exec;
mod host_python_masking;
mod kill;
pub mod landlock;
pub mod namespaces;
pub mod privileges;
pub mod python;
pub mod python_paths;
mod remove_tree;
mod rlimits;
pub mod rootfs;
mod seccomp;
mod spec;
pub mod uids;

pub use host_python_masking::OtherPythons;
pub use kill::{await_death, kill_all};
pub use remove_tree::remove_tree;
pub use rlimits::limit;
pub use spec::{Access, Confinement, Exposed, Limits, Namespaces, OwnNetwork, RunAs};

use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Applies the part that needs privileges: the new root, the agent's user, no capabilities. The returned part is
/// applied last.
pub fn enter(confinement: &Confinement, user: Option<RunAs>) -> Result<Prepared> {
    if let Some(namespaces) = &confinement.namespaces {
        rootfs::enter(namespaces, &confinement.exposed, user)?;
    }
    // Its paths are opened while the process still may.
    let landlock = match confinement.landlock {
        Some(abi) => Some(landlock::prepare(abi, confinement).map_err(naming("Landlock"))?),
        None => None,
    };
    let seccomp = match confinement.seccomp {
        true => seccomp::programs(confinement).map_err(naming("seccomp"))?,
        false => Vec::new(),
    };
    privileges::drop_all(user)?;
    Ok(Prepared { landlock, seccomp })
}

/// One instruction of a seccomp filter: `code`, `jt`, `jf` and `k` of `struct sock_filter`.
pub type Instruction = (u16, u8, u8, u32);

/// Returns the seccomp filters for a process in namespaces of its own, for a program that installs them by itself.
pub fn seccomp_filters() -> Result<Vec<Vec<Instruction>>> {
    let namespaces =
        Namespaces { user: false, owner: None, processes: true, network: None, root: PathBuf::new(), disk: None };
    let confinement = Confinement { namespaces: Some(namespaces), seccomp: true, ..Confinement::default() };
    filters_of(&confinement)
}

/// Returns the seccomp filters of `confinement`, for a program that installs them by itself.
pub fn filters_of(confinement: &Confinement) -> Result<Vec<Vec<Instruction>>> {
    let programs = match confinement.seccomp {
        true => seccomp::programs(confinement).map_err(naming("seccomp"))?,
        false => Vec::new(),
    };
    let plain = |program: seccompiler::BpfProgram| program.into_iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
    Ok(programs.into_iter().map(plain).collect())
}

/// Builds the root directory for a process that joins this mount namespace later, and returns the Landlock ruleset that
/// it applies then, if there is one.
pub fn build_root(confinement: &Confinement, user: Option<RunAs>) -> Result<Option<OwnedFd>> {
    if let Some(namespaces) = &confinement.namespaces {
        rootfs::enter(namespaces, &confinement.exposed, user)?;
    }
    let Some(abi) = confinement.landlock else { return Ok(None) };
    let ruleset: Option<OwnedFd> = landlock::prepare(abi, confinement).map_err(naming("Landlock"))?.into();
    ruleset.map(Some).ok_or_else(|| Error::other("Landlock: the ruleset cannot be handed on"))
}

/// The part that needs no privileges.
#[derive(Debug)]
pub struct Prepared {
    landlock: Option<::landlock::RulesetCreated>,
    seccomp: Vec<seccompiler::BpfProgram>,
}

impl Prepared {
    /// Applies it, as the last step before the agent's program.
    pub fn restrict(self) -> Result<()> {
        if let Some(ruleset) = self.landlock {
            landlock::restrict(ruleset).map_err(naming("Landlock"))?;
        }
        for program in &self.seccomp {
            seccompiler::apply_filter(program).map_err(|e| naming("seccomp")(Error::other(e)))?;
        }
        Ok(())
    }
}

fn naming(what: &'static str) -> impl Fn(Error) -> Error {
    move |error| Error::new(error.kind(), format!("{what}: {error}"))
}
