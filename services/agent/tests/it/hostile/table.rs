//! The attempts of hostile agents, and the sandbox in which it is stopped. The table in docs/sandbox.md is this one.

use hoistway_agent::sandbox::Mode;

/// A way of keeping agents.
pub struct Column {
    /// As the documentation calls it.
    pub name: &'static str,
    pub mode: Mode,
    /// The newest Landlock that is used.
    pub landlock_abi: Option<u8>,
    /// Whether Hoistway runs as root and gives agents users and control groups.
    pub root: bool,
}

pub const COLUMNS: [Column; 6] = [
    Column { name: "namespaces, as root", mode: Mode::Namespaces, landlock_abi: None, root: true },
    Column { name: "namespaces", mode: Mode::Namespaces, landlock_abi: None, root: false },
    Column { name: "Landlock", mode: Mode::Landlock, landlock_abi: None, root: false },
    Column { name: "Landlock ABI 1", mode: Mode::Landlock, landlock_abi: Some(1), root: false },
    Column { name: "none, as root", mode: Mode::None, landlock_abi: None, root: true },
    Column { name: "none", mode: Mode::None, landlock_abi: None, root: false },
];

/// The needs of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Open,
    Closed,
}
use Network::{Closed, Open};

/// One attempt: the function of `attempts.py`, in words, with which network, and what becomes of it in each column:
/// `s` stopped, `r` reached, `-` there is no such column (a closed network cannot be had), `?` other settings of the
/// machine decide.
pub type Attempt = (&'static str, &'static str, Network, &'static str);

pub const ATTEMPTS: &[Attempt] = &[
    // Files.
    ("read_secret", "read a private file of the user who runs Hoistway", Open, "sssssr"),
    ("read_shadow", "read `/etc/shadow`", Open, "ssssss"),
    ("read_master_key", "read `master.key`", Open, "sssssr"),
    ("list_data", "list the data directory", Open, "sssssr"),
    ("stat_data", "see that a file exists, its size and its owner", Open, "ssrrrr"),
    ("write_data", "write into the data directory", Open, "sssssr"),
    ("read_other_logs", "read another agent's logs", Open, "sssssr"),
    ("list_runs", "list other agents' private directories", Open, "sssssr"),
    ("read_other_memory_file", "read others' shared memory in `/dev/shm`", Open, "ssrrsr"),
    ("truncate_outside", "truncate a file elsewhere", Open, "sssssr"),
    ("truncate_readable", "truncate a file that it may read, by opening it", Open, "sssssr"),
    ("chmod_outside", "change the mode of a file elsewhere", Open, "ssrrsr"),
    ("touch_outside", "change the times of a file elsewhere", Open, "ssrrsr"),
    ("label_outside", "set an extended attribute of a file elsewhere", Open, "ss??s?"),
    ("watch_outside", "be told of changes in the data directory (inotify)", Open, "ssrrsr"),
    ("run_outside", "run a program from elsewhere", Open, "sssssr"),
    ("hard_link", "read a file elsewhere through a hard link of its own", Open, "sssssr"),
    ("symlink_read", "the same through a symbolic link", Open, "sssssr"),
    ("climb_out", "the same through `..`", Open, "sssssr"),
    ("change_image", "change its source in the image, for the next start", Open, "sssssr"),
    ("plant_in_image", "plant bytecode beside it", Open, "sssssr"),
    ("plant_package", "plant a package in a layer that agents share", Open, "sssssr"),
    ("change_runner", "change the runner that agents share", Open, "sssssr"),
    ("change_kernel_settings", "change settings of the kernel in `/proc/sys`", Open, "ssssss"),
    // Processes.
    ("see_processes", "see others' processes", Open, "ssrrrr"),
    ("read_environment", "read secrets in another process's environment", Open, "sssssr"),
    ("read_other_environment", "read secrets in another agent's environment", Open, "sssssr"),
    ("read_memory", "open another process's memory", Open, "sssssr"),
    ("read_parent_memory", "open its launcher's memory", Open, "sssssr"),
    ("open_files_of_others", "see which files another process has open", Open, "sssssr"),
    ("trace", "trace another process (ptrace)", Open, "sssssr"),
    ("read_with_a_call", "read another process's memory (process_vm_readv)", Open, "sssssr"),
    ("signal_supervisor", "signal Hoistway", Open, "sssrsr"),
    ("signal_other_agent", "signal another agent", Open, "sssrsr"),
    ("signal_stranger", "signal any other process of the user", Open, "sssrsr"),
    ("slow_stranger", "take processor time from another process (nice)", Open, "sssssr"),
    ("starve_stranger", "the same at the disk (ioprio_set)", Open, "sssssr"),
    ("pin_stranger", "choose the processors of another process (sched_setaffinity)", Open, "sssssr"),
    ("limit_stranger", "limit another process, until the kernel ends it (prlimit)", Open, "sssssr"),
    ("limit_supervisor", "the same with Hoistway", Open, "sssssr"),
    ("inherited_descriptors", "find descriptors that it inherited by mistake", Open, "ssssss"),
    ("dump_core", "have its memory written to disk (core dump)", Open, "ssssss"),
    ("type_into_terminal", "type into Hoistway's terminal (TIOCSTI)", Open, "ssssss"),
    // Privileges and the kernel.
    ("gain_privileges", "gain privileges by a set-user-ID program", Open, "ssssss"),
    ("new_user_namespace", "make a user namespace, for more of the kernel", Open, "ssss??"),
    ("key_rings", "reach the kernel's key rings", Open, "ssssrr"),
    ("io_uring", "use io_uring, which filters do not see", Open, "ssss??"),
    ("second_numbering", "call the kernel by other numbers (x32)", Open, "ssss??"),
    // Other ways to speak.
    ("unix_socket", "connect to another program's Unix socket", Open, "sssssr"),
    ("abstract_socket", "connect to an abstract Unix socket", Open, "ssssrr"),
    ("raw_socket", "open a raw socket", Open, "ssssss"),
    ("packet_socket", "listen to the network's packets", Open, "ssssss"),
    ("kernel_crypto_socket", "open a socket into the kernel's cryptography (AF_ALG)", Open, "ssss??"),
    ("system_v_memory", "read others' shared memory of System V", Open, "sssssr"),
    ("listen_unbound", "listen on a port of its own, and be reached from outside", Open, "rrrrrr"),
    // The closed network.
    ("other_agents_listener", "connect to another agent", Closed, "sss---"),
    ("strangers_port", "connect to a port of this machine", Closed, "sss---"),
    ("strangers_port_v6", "the same over IPv6", Closed, "sss---"),
    ("udp", "send UDP", Closed, "sss---"),
    ("fast_open", "connect with TCP Fast Open", Closed, "sss---"),
    ("multipath", "connect with multipath TCP", Closed, "sss---"),
    ("reuse_connection", "connect a caller's connection to a port of this machine", Closed, "sss---"),
    ("listen_bound", "listen on a port of its own", Closed, "sss---"),
    ("listen_unbound", "the same without `bind`", Closed, "sss---"),
    // Using it all up.
    ("fork_bomb", "start processes without end", Open, "ssrrsr"),
    ("memory_hog", "take private memory without end, in one process", Open, "ssssss"),
    ("shared_memory_hog", "take shared memory without end, in one process (mmap)", Open, "srrrsr"),
    ("nameless_file_hog", "the same in a file without a name (memfd)", Open, "srrrsr"),
    ("memory_hogs", "take memory without end, in many processes", Open, "srrrsr"),
    ("fill_disk", "fill the disk", Open, "ssrrrr"),
    ("huge_file", "write a huge file", Open, "ssssss"),
    ("open_many", "open files without end", Open, "ssssss"),
    // Staying behind; these are looked at after the agent was deleted.
    ("leave_system_v_memory", "leave System V shared memory behind when it is deleted", Open, "ssssrr"),
    ("leave_message_queue", "the same with a POSIX message queue", Open, "ssssrr"),
    ("leave_memory_file", "the same with a file in `/dev/shm`", Open, "ssrrsr"),
    ("stay_behind", "leave a daemon behind when it is deleted", Open, "ssssss"),
    ("stay_behind_and_kill_launcher", "kill its launcher and leave a daemon behind", Open, "sssrsr"),
];

/// The table as it stands in docs/sandbox.md.
pub fn markdown() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    let mut text =
        format!("| a hostile agent tries to | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (_, words, network, verdicts) in ATTEMPTS {
        let note = if *network == Closed { " (closed network)" } else { "" };
        let cells = verdicts.chars().map(|verdict| match verdict {
            's' => "stopped",
            'r' => "**not stopped**",
            '-' => "–",
            _ => "depends",
        });
        text.push_str(&format!("| {words}{note} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    text
}
