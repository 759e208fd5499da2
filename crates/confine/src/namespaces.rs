//! Creation of namespaces.

use crate::spec::{Namespaces, RunAs};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, configure_capability_in_ambient_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::fs;
use std::io::{Error, ErrorKind, Result};

/// The capabilities that the following stages need; the last stage drops them.
const KEPT: [CapabilitySet; 2] = [CapabilitySet::SYS_ADMIN, CapabilitySet::SETPCAP];

/// Leaves the host's PID namespace with the next child, and with `user` its user namespace now.
pub fn unshare_processes(user: bool) -> Result<()> {
    let user = if user { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
    unshare_as_oneself(UnshareFlags::NEWPID | user)
}

/// Leaves the host's mount namespace.
pub fn unshare_mounts() -> Result<()> {
    unshare_as_oneself(UnshareFlags::NEWNS)
}

/// Like [`unshare`], with a user namespace of `owner`, whose processes without privileges may join it and the others,
/// and become `agent`. `map` gives it that one user from outside, and this process becomes it. It must be root, and
/// have left whatever `owner` may not see.
pub fn unshare_for(plan: &Namespaces, owner: RunAs, agent: RunAs, map: impl FnOnce() -> Result<()>) -> Result<()> {
    let root = Uid::ROOT;
    set_thread_res_uid(root, Uid::from_raw(owner.uid), root)?;
    // Where only privileged users may make a user namespace.
    let now = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: now.permitted, ..now })?;
    // See below.
    #[allow(deprecated)]
    rustix::thread::unshare(flags(plan) | UnshareFlags::NEWUSER)?;
    map()?;
    let (uid, gid) = (Uid::from_raw(agent.uid), Gid::from_raw(agent.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    keep_over_exec()
}

/// The same where this program is an ordinary user, who is the owner and the agent's user, in a user namespace of its
/// own already.
pub fn unshare_for_oneself(plan: &Namespaces) -> Result<()> {
    unshare_as_oneself(flags(plan) | UnshareFlags::NEWUSER)
}

/// Gives a user namespace its one user, which is one of the machine, by the same numbers. `pid` is a process in it.
pub fn map_user_of(pid: i32, user: RunAs) -> Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), format!("{0} {0} 1", user.uid))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{0} {0} 1", user.gid))
}

fn flags(plan: &Namespaces) -> UnshareFlags {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC;
    if plan.processes {
        flags |= UnshareFlags::NEWPID;
    }
    if plan.user {
        flags |= UnshareFlags::NEWUSER;
    }
    if plan.network.is_some() {
        flags |= UnshareFlags::NEWNET;
    }
    flags
}

/// Leaves the host's namespaces; the PID namespace begins with the next child.
pub fn unshare(plan: &Namespaces) -> Result<()> {
    unshare_as_oneself(flags(plan))
}

/// With a user namespace, its one user is this program's, who keeps the capabilities that the following stages need.
fn unshare_as_oneself(flags: UnshareFlags) -> Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    // Deprecated because other threads could lose descriptors with UnshareFlags::FILES: neither is used here.
    #[allow(deprecated)]
    rustix::thread::unshare(flags)?;
    if flags.contains(UnshareFlags::NEWUSER) {
        map_user(uid, gid)?;
        keep_over_exec()?;
    }
    Ok(())
}

/// Maps our own user as the only one.
fn map_user(uid: u32, gid: u32) -> Result<()> {
    // Kernels before 3.19 have neither this file nor this rule.
    match fs::write("/proc/self/setgroups", "deny") {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Makes the capabilities ambient: those of a user other than root are lost with exec otherwise.
fn keep_over_exec() -> Result<()> {
    let now = capabilities(None)?;
    let kept = KEPT.into_iter().fold(CapabilitySet::empty(), CapabilitySet::union);
    set_capabilities(None, CapabilitySets { inheritable: kept, ..now })?;
    for capability in KEPT {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Sets the flag "up" of interface 1, which is `lo` in every new network namespace.
pub fn bring_loopback_up() -> Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const UP: u32 = 1;
    const LENGTH: u32 = 32;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // `struct nlmsghdr`, then `struct ifinfomsg`.
    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(1_i32.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 128];
    let (_, got) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // The acknowledgement is an error message with code 0 on success.
    match answer.get(16..20).filter(|_| got >= 20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(Error::from_raw_os_error(-error)),
        None => Err(Error::other("the kernel's answer is too short")),
    }
}
