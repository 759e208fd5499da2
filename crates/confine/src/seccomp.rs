//! The system calls that an agent may not make: those that reach into other processes, change the machine or create
//! namespaces, and those that would bypass Landlock where it has gaps.

use super::landlock::{TRUNCATE, UNIX};
use super::rootfs;
use crate::spec::Confinement;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};
use std::collections::BTreeMap;
use std::io::{Error, Result};

/// The number of `open_tree_attr` on all architectures: a copy of mounts with other flags.
const OPEN_TREE_ATTR: i64 = 467;
/// The first number of which nothing was known when the list of refused calls was last compared with Linux (6.18). The
/// numbers of later calls follow, on all architectures.
const FIRST_UNKNOWN: u32 = 470;

/// Refused unconditionally.
const REFUSED: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    // The kernel's key rings, which are shared by all processes of a user.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Files by handles, which bypass directories, and watches over whole file systems.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // The machine.
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Refused without an IPC namespace: these objects belong to the machine, are open to every agent of the same user and
/// outlive their creator. They are addressed by numbers, so their use is refused as well as their creation.
const SHARED: &[i64] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

/// Reported as missing, since programs have a fallback then. A filter cannot read the flags of clone3, but those of
/// clone; io_uring performs other system calls that no filter sees.
const MISSING: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

const NEW_NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;
/// The system calls and the kinds of namespaces of [`forking`].
const FORKING: [i64; 3] = [libc::SYS_setns, libc::SYS_unshare, libc::SYS_mount];
const JOINED: [libc::c_int; 4] = [libc::CLONE_NEWNS, libc::CLONE_NEWIPC, libc::CLONE_NEWNET, libc::CLONE_NEWUSER];
/// `TIOCSTI` and `TIOCLINUX` inject input into a terminal.
const TYPING: [u64; 2] = [0x5412, 0x541c];
/// The bits of a socket's type that are not flags.
const SOCKET_TYPE: u64 = 0xf;
/// The first argument of `setpriority` and of `ioprio_set` for a single process.
const PRIO_PROCESS: u64 = 0;
const IOPRIO_WHO_PROCESS: u64 = 1;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Returns the filters of `confinement`; each one runs at every system call.
pub(crate) fn programs(confinement: &Confinement) -> Result<Vec<BpfProgram>> {
    let mut missing: Rules = MISSING.iter().map(|&call| (call, Vec::new())).collect();
    if needs_truncation(confinement) {
        // The flags are behind a pointer; the C library works without this call.
        missing.insert(libc::SYS_openat2, Vec::new());
    }
    let missing = compile(missing, libc::ENOSYS)?;
    Ok(vec![without_unknown(missing), compile(refused(confinement)?, libc::EPERM)?])
}

/// Returns the filter that an agent adds to those of the process from which it was forked, which had to be allowed
/// what [`forking`] allows.
pub(crate) fn forked_program() -> Result<BpfProgram> {
    compile(FORKING.iter().map(|&call| (call, Vec::new())).collect(), libc::EPERM)
}

/// Allows what a process does that is forked to become an agent: it joins namespaces, each by its kind, makes a PID
/// namespace and no other, and mounts `/proc`, with flags that give no rights.
fn forking(rules: &mut Rules) -> Result<()> {
    let other_kind = JOINED.iter().map(|&kind| unequal(1, word(kind))).collect::<Result<Vec<_>>>()?;
    rules.insert(libc::SYS_setns, vec![all(other_kind)?]);
    rules.insert(libc::SYS_unshare, vec![one(unequal(0, word(libc::CLONE_NEWPID))?)?]);
    rules.insert(libc::SYS_mount, vec![one(unequal(3, u64::from(rootfs::PROC_FLAGS.bits()))?)?]);
    Ok(())
}

fn compile(rules: Rules, errno: libc::c_int) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(Error::other)?;
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).map_err(Error::other)?;
    filter.try_into().map_err(Error::other)
}

/// Reports calls that the lists here could not know as missing, and with them the x32 calls of x86_64 kernels, which are
/// the same calls under higher numbers.
fn without_unknown(program: BpfProgram) -> BpfProgram {
    const LOAD_NUMBER: sock_filter = sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    const IS_UNKNOWN: sock_filter = sock_filter { code: 0x35, jt: 0, jf: 1, k: FIRST_UNKNOWN };
    const NO_SUCH_CALL: sock_filter =
        sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | libc::ENOSYS.unsigned_abs() };
    [LOAD_NUMBER, IS_UNKNOWN, NO_SUCH_CALL].into_iter().chain(program).collect()
}

fn refused(confinement: &Confinement) -> Result<Rules> {
    let mut rules: Rules = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    if confinement.joins_namespaces {
        forking(&mut rules)?;
    }
    // Namespaces, one flag at a time: a rule matches when all bits of its mask have the given values.
    let flags = (0..31).map(|bit| 1 << bit).filter(|flag| NEW_NAMESPACES & flag != 0);
    let clone = flags.map(|flag| masked(0, word(flag), word(flag)).and_then(one)).collect::<Result<Vec<_>>>()?;
    rules.insert(libc::SYS_clone, clone);
    rules.insert(libc::SYS_ioctl, TYPING.map(|call| equal(1, call).and_then(one)).into_iter().collect::<Result<_>>()?);
    rules.insert(libc::SYS_socket, sockets(confinement)?);
    if confinement.namespaces.is_none() {
        rules.extend(SHARED.iter().map(|&call| (call, Vec::new())));
    }
    if !confinement.namespaces.as_ref().is_some_and(|own| own.processes) {
        others(&mut rules)?;
    }
    if confinement.no_sockets {
        rules.insert(libc::SYS_socket, Vec::new());
    }
    if confinement.keeps_group {
        rules.extend([libc::SYS_setsid, libc::SYS_setpgid].map(|call| (call, Vec::new())));
    }
    // In its own network an agent is not restricted.
    if confinement.only_port.is_some() && confinement.namespaces.is_none() {
        let fast_open = word(libc::MSG_FASTOPEN);
        // It connects without a check by Landlock.
        for (call, argument) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            rules.insert(call, vec![one(masked(argument, fast_open, fast_open)?)?]);
        }
        // A socket that listens unbound gets a port on every address, without a check by Landlock.
        rules.insert(libc::SYS_listen, Vec::new());
    }
    if needs_truncation(confinement) {
        truncation(&mut rules)?;
    }
    Ok(rules)
}

/// Refuses to change limits, priorities and processors of other processes: the kernel lets a process set those of every
/// other one of its user, and Landlock does not cover it. 0 is the caller. In a PID namespace there are only the
/// agent's own processes.
fn others(rules: &mut Rules) -> Result<()> {
    // Without new limits the call only reads.
    rules.insert(libc::SYS_prlimit64, vec![all(vec![unequal(0, 0)?, some_pointer(2)?])?]);
    for call in
        [libc::SYS_sched_setaffinity, libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr]
    {
        rules.insert(call, vec![one(unequal(0, 0)?)?]);
    }
    // These accept process groups and users as well.
    for (call, process) in [(libc::SYS_setpriority, PRIO_PROCESS), (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS)] {
        rules.insert(call, vec![one(unequal(0, process)?)?, one(unequal(1, 0)?)?]);
    }
    Ok(())
}

/// Refuses all sockets but internet sockets and the netlink sockets that list networks.
fn sockets(confinement: &Confinement) -> Result<Vec<SeccompRule>> {
    let mut allowed = vec![libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    // Before that ABI, Landlock does not check connections of Unix sockets. Socket pairs use another call.
    if confinement.namespaces.is_some() || confinement.landlock.is_some_and(|abi| abi >= UNIX) {
        allowed.push(libc::AF_UNIX);
    }
    let others = allowed.iter().map(|&family| unequal(0, word(family))).collect::<Result<Vec<_>>>()?;
    let mut rules = vec![SeccompRule::new(others).map_err(Error::other)?];
    let route = word(libc::NETLINK_ROUTE);
    rules.push(all(vec![equal(0, word(libc::AF_NETLINK))?, unequal(2, route)?])?);
    if confinement.only_port.is_some() && confinement.namespaces.is_none() {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = equal(0, word(family))?;
            // Only TCP can be limited by port, so only TCP is allowed.
            for kind in (0..=SOCKET_TYPE).filter(|&kind| kind != word(libc::SOCK_STREAM)) {
                rules.push(all(vec![family.clone(), masked(1, SOCKET_TYPE, kind)?])?);
            }
            let tcp = [unequal(2, 0)?, unequal(2, word(libc::IPPROTO_TCP))?];
            rules.push(all([vec![family], tcp.to_vec()].concat())?);
        }
    }
    Ok(rules)
}

/// Whether truncation must be refused: before ABI 3, Landlock does not check it on a file that may be read. In a root
/// of its own all else is read-only anyway.
fn needs_truncation(confinement: &Confinement) -> bool {
    confinement.namespaces.is_none() && confinement.landlock.is_some_and(|abi| abi < TRUNCATE)
}

fn truncation(rules: &mut Rules) -> Result<()> {
    rules.insert(libc::SYS_truncate, Vec::new());
    let (mask, read_and_truncate) = (word(libc::O_ACCMODE | libc::O_TRUNC), word(libc::O_RDONLY | libc::O_TRUNC));
    rules.insert(libc::SYS_openat, vec![one(masked(2, mask, read_and_truncate)?)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![one(masked(1, mask, read_and_truncate)?)?]);
    Ok(())
}

/// Returns the lower half of an argument, as the kernel reads an `int`.
fn word(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(Error::other)
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn unequal(argument: u8, value: u64) -> Result<SeccompCondition> {
    condition(argument, SeccompCmpOp::Ne, value)
}

fn some_pointer(argument: u8) -> Result<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0).map_err(Error::other)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition> {
    condition(argument, SeccompCmpOp::MaskedEq(mask), value)
}

fn one(condition: SeccompCondition) -> Result<SeccompRule> {
    all(vec![condition])
}

fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(Error::other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The copy of the source is mounted where the kernel does not lock it.
    #[test]
    fn a_process_that_agents_are_forked_from_changes_no_mounts() {
        let confinement = Confinement { joins_namespaces: true, seccomp: true, ..Confinement::default() };
        let rules = refused(&confinement).unwrap();
        for call in [libc::SYS_umount2, libc::SYS_move_mount, libc::SYS_mount_setattr, libc::SYS_open_tree] {
            assert_eq!(rules[&call], [], "{call} is refused whatever its arguments are");
        }
        assert_eq!(rules[&libc::SYS_mount].len(), 1, "only the flags of /proc are allowed");
    }

    #[test]
    fn every_combination_compiles() {
        for landlock in [None, Some(1), Some(3), Some(7), Some(9)] {
            for (only_port, no_sockets) in [(None, false), (Some(3128), false), (None, true)] {
                let keeps_group = no_sockets;
                let confinement = Confinement {
                    landlock,
                    only_port,
                    no_sockets,
                    keeps_group,
                    seccomp: true,
                    ..Confinement::default()
                };
                let programs = programs(&confinement).unwrap();
                assert!(programs.iter().all(|program| !program.is_empty() && program.len() < 4096));
            }
        }
    }
}
