//! Creation of namespaces.

use crate::privileges::keep_over_exec;
use crate::spec::{Namespaces, RunAs};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::process::{DumpableBehavior, Gid, Uid, getegid, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsFd;

/// The capabilities that the following stages need; the last stage drops them.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT).union(CapabilitySet::SETPCAP);

/// Kinds of namespaces.
pub use rustix::thread::UnshareFlags as Kinds;

/// Leaves the namespaces of these kinds for new ones that belong to the present user namespace.
pub fn leave(kinds: Kinds) -> Result<()> {
    // Deprecated because other threads could lose descriptors with UnshareFlags::FILES: neither is used here.
    #[allow(deprecated)]
    Ok(rustix::thread::unshare(kinds)?)
}

/// Leaves for a new user namespace whose one user is this program's.
pub fn leave_other_users() -> Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    leave(Kinds::NEWUSER)?;
    map_user(uid, gid)
}

/// Becomes `user`, who has to exist in the present user namespace, and leaves for a new one in which there is nobody
/// else.
pub fn leave_other_users_as(user: RunAs) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    // The change of the user took the right to open the files of this process in /proc.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    leave_other_users()
}

/// Joins a user namespace, with all capabilities there. Programs executed from now on keep those that the stages of a
/// start need.
pub fn join_users(namespace: impl AsFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
    keep_over_exec(KEPT)
}

/// Joins a namespace of any kind but that of users.
pub fn join(namespace: impl AsFd) -> Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), None)?)
}

/// Gives a user namespace its users, which are those of the machine by the same numbers: ranges with their first number
/// and their length. `pid` is a process in it.
pub fn map_users_of(pid: u32, ranges: &[(u32, u32)]) -> Result<()> {
    let map: String = ranges.iter().map(|(first, count)| format!("{first} {first} {count}\n")).collect();
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), map)
}

fn flags(plan: &Namespaces) -> Kinds {
    let mut flags = Kinds::NEWNS | Kinds::NEWIPC;
    if plan.processes {
        flags |= Kinds::NEWPID;
    }
    if plan.user {
        flags |= Kinds::NEWUSER;
    }
    if plan.network.is_some() {
        flags |= Kinds::NEWNET;
    }
    flags
}

/// Leaves the host's namespaces; the PID namespace begins with the next child. With a user namespace, its one user is
/// this program's, who keeps the capabilities that the following stages need.
pub fn unshare(plan: &Namespaces) -> Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    leave(flags(plan))?;
    if plan.user {
        map_user(uid, gid)?;
        keep_over_exec(KEPT)?;
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
