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
pub mod launcher;
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
pub use rlimits::{limit, limit_process};
pub use rootfs::Detached;
pub use spec::{Access, Confinement, Exposed, Limits, Namespaces, OwnNetwork, RunAs};

use rootfs::Copies;
use rustix::thread::CapabilitySet;
use std::io::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// The capabilities of a process that agents are forked from, in the user namespace to which their namespaces belong: to
/// join these, and to mount `/proc`.
const JOINING: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT);

/// Applies the part that needs privileges: the new root, the agent's user, no capabilities. The returned part is
/// applied last.
pub fn enter(confinement: &Confinement, user: Option<RunAs>) -> Result<Prepared> {
    enter_with(confinement, || privileges::switch(user, CapabilitySet::empty()), user)
}

/// The same for a process that agents are forked from. `users` is the user namespace to which their namespaces belong; its
/// own do not.
pub fn enter_as_parent(confinement: &Confinement, user: Option<RunAs>, users: impl AsFd) -> Result<Prepared> {
    let switch = || {
        namespaces::join_users(users).map_err(naming("the user namespace of its agents"))?;
        privileges::switch(user, JOINING)
    };
    enter_with(confinement, switch, user)
}

fn enter_with(confinement: &Confinement, switch: impl FnOnce() -> Result<()>, user: Option<RunAs>) -> Result<Prepared> {
    if let Some(namespaces) = &confinement.namespaces {
        rootfs::enter(namespaces, &confinement.exposed, user, Copies::Now)?;
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
    switch()?;
    Ok(Prepared { landlock, seccomp })
}

/// One instruction of a seccomp filter: `code`, `jt`, `jf` and `k` of `struct sock_filter`.
pub type Instruction = (u16, u8, u8, u32);

/// Returns the seccomp filters for a process in namespaces of its own, for a program that installs them by itself.
pub fn seccomp_filters() -> Result<Vec<Vec<Instruction>>> {
    let namespaces = Namespaces { user: false, processes: true, network: None, root: PathBuf::new(), disk: None };
    let confinement = Confinement { namespaces: Some(namespaces), seccomp: true, ..Confinement::default() };
    Ok(seccomp::programs(&confinement).map_err(naming("seccomp"))?.into_iter().map(instructions).collect())
}

/// Returns the seccomp filter that a forked process adds to those of the one from which it was forked, whose
/// [`Confinement::joins_namespaces`].
pub fn forked_filter() -> Result<Vec<Instruction>> {
    seccomp::forked_program().map(instructions).map_err(naming("seccomp"))
}

fn instructions(program: seccompiler::BpfProgram) -> Vec<Instruction> {
    program.into_iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

/// Builds the root directory of an agent that is forked, and moves there. This process must be in a mount namespace of
/// its own. Returns the Landlock ruleset that the agent applies, if there is one, and directories for the parts of which
/// the agent gets a copy, in their order.
pub fn build_root(confinement: &Confinement, user: Option<RunAs>) -> Result<(Option<OwnedFd>, Vec<Detached>)> {
    let Some(own) = &confinement.namespaces else { return Err(Error::other("no namespaces are wanted")) };
    let detached = rootfs::enter(own, &confinement.exposed, user, Copies::Later)?;
    let Some(abi) = confinement.landlock else { return Ok((None, detached)) };
    let mut confinement = confinement.clone();
    // A rule is about the directory itself, wherever it is mounted later.
    let copies = confinement.exposed.iter_mut().filter(|part| part.access == Access::Copy);
    copies.zip(&detached).for_each(|(part, detached)| part.inside = detached.path());
    let ruleset: Option<OwnedFd> = landlock::prepare(abi, &confinement).map_err(naming("Landlock"))?.into();
    let ruleset = ruleset.ok_or_else(|| Error::other("Landlock: the ruleset cannot be handed on"))?;
    Ok((Some(ruleset), detached))
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
        apply(&self.seccomp)
    }
}

fn apply(programs: &[seccompiler::BpfProgram]) -> Result<()> {
    programs
        .iter()
        .try_for_each(|program| seccompiler::apply_filter(program).map_err(|e| naming("seccomp")(Error::other(e))))
}

fn naming(what: &'static str) -> impl Fn(Error) -> Error {
    move |error| Error::new(error.kind(), format!("{what}: {error}"))
}
