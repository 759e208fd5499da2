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
    /// Whether agents run in containers. Their network is always closed.
    pub docker: bool,
}

const fn process(name: &'static str, mode: Mode, landlock_abi: Option<u8>, root: bool) -> Column {
    Column { name, mode, landlock_abi, root, docker: false }
}

pub const COLUMNS: [Column; 7] = [
    process("namespaces, as root", Mode::Namespaces, None, true),
    process("namespaces", Mode::Namespaces, None, false),
    process("Landlock", Mode::Landlock, None, false),
    process("Landlock ABI 1", Mode::Landlock, Some(1), false),
    process("none, as root", Mode::None, None, true),
    process("none", Mode::None, None, false),
    Column { name: "containers", mode: Mode::Auto, landlock_abi: None, root: true, docker: true },
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
    ("read_secret", "read a private file of the user who runs Hoistway", Open, "sssssrs"),
    ("read_shadow", "read `/etc/shadow`", Open, "sssssss"),
    ("read_master_key", "read `master.key`", Open, "sssssrs"),
    ("list_data", "list the data directory", Open, "sssssrs"),
    ("stat_data", "see that a file exists, its size and its owner", Open, "ssrrrrs"),
    ("write_data", "write into the data directory", Open, "sssssrs"),
    ("read_other_logs", "read another agent's logs", Open, "sssssrs"),
    ("list_runs", "list other agents' private directories", Open, "sssssrs"),
    ("read_other_memory_file", "read others' shared memory in `/dev/shm`", Open, "ssrrsrs"),
    ("truncate_outside", "truncate a file elsewhere", Open, "sssssrs"),
    ("truncate_readable", "truncate a file that it may read, by opening it", Open, "sssssrs"),
    ("chmod_outside", "change the mode of a file elsewhere", Open, "ssrrsrs"),
    ("touch_outside", "change the times of a file elsewhere", Open, "ssrrsrs"),
    ("label_outside", "set an extended attribute of a file elsewhere", Open, "ss??s?s"),
    ("watch_outside", "be told of changes in the data directory (inotify)", Open, "ssrrsrs"),
    ("run_outside", "run a program from elsewhere", Open, "sssssrs"),
    ("hard_link", "read a file elsewhere through a hard link of its own", Open, "sssssrs"),
    ("symlink_read", "the same through a symbolic link", Open, "sssssrs"),
    ("climb_out", "the same through `..`", Open, "sssssrs"),
    ("change_image", "change its source in the image, for the next start", Open, "sssssrs"),
    ("plant_in_image", "plant bytecode beside it", Open, "sssssrs"),
    ("plant_package", "plant a package in a layer that agents share", Open, "sssssrs"),
    ("change_runner", "change the runner that agents share", Open, "sssssrs"),
    ("change_kernel_settings", "change settings of the kernel in `/proc/sys`", Open, "sssssss"),
    // Processes.
    ("see_processes", "see others' processes", Open, "ssrrrrs"),
    ("read_environment", "read secrets in another process's environment", Open, "sssssrs"),
    ("read_other_environment", "read secrets in another agent's environment", Open, "sssssrs"),
    ("read_memory", "open another process's memory", Open, "sssssrs"),
    ("read_parent_memory", "open its launcher's memory", Open, "sssssrr"),
    ("open_files_of_others", "see which files another process has open", Open, "sssssrs"),
    ("trace", "trace another process (ptrace)", Open, "sssssrs"),
    ("read_with_a_call", "read another process's memory (process_vm_readv)", Open, "sssssrs"),
    ("signal_supervisor", "signal Hoistway", Open, "sssrsrs"),
    ("signal_other_agent", "signal another agent", Open, "sssrsrs"),
    ("signal_stranger", "signal any other process of the user", Open, "sssrsrs"),
    ("slow_stranger", "take processor time from another process (nice)", Open, "sssssrs"),
    ("starve_stranger", "the same at the disk (ioprio_set)", Open, "sssssrs"),
    ("pin_stranger", "choose the processors of another process (sched_setaffinity)", Open, "sssssrs"),
    ("limit_stranger", "limit another process, until the kernel ends it (prlimit)", Open, "sssssrs"),
    ("limit_supervisor", "the same with Hoistway", Open, "sssssrs"),
    ("inherited_descriptors", "find descriptors that it inherited by mistake", Open, "sssssss"),
    ("dump_core", "have its memory written to disk (core dump)", Open, "sssssss"),
    ("type_into_terminal", "type into Hoistway's terminal (TIOCSTI)", Open, "sssssss"),
    // Privileges and the kernel.
    ("gain_privileges", "gain privileges by a set-user-ID program", Open, "sssssss"),
    ("new_user_namespace", "make a user namespace, for more of the kernel", Open, "ssss??s"),
    ("key_rings", "reach the kernel's key rings", Open, "ssssrrs"),
    ("io_uring", "use io_uring, which filters do not see", Open, "ssss??s"),
    ("second_numbering", "call the kernel by other numbers (x32)", Open, "ssss??s"),
    // Other ways to speak.
    ("unix_socket", "connect to another program's Unix socket", Open, "sssssrs"),
    ("abstract_socket", "connect to an abstract Unix socket", Open, "ssssrrs"),
    ("raw_socket", "open a raw socket", Open, "sssssss"),
    ("packet_socket", "listen to the network's packets", Open, "sssssss"),
    ("kernel_crypto_socket", "open a socket into the kernel's cryptography (AF_ALG)", Open, "ssss??s"),
    ("system_v_memory", "read others' shared memory of System V", Open, "sssssrs"),
    ("listen_unbound", "listen on a port of its own, and be reached from outside", Open, "rrrrrrs"),
    // The closed network.
    ("other_agents_listener", "connect to another agent", Closed, "sss---s"),
    ("strangers_port", "connect to a port of this machine", Closed, "sss---s"),
    ("strangers_port_v6", "the same over IPv6", Closed, "sss---s"),
    ("udp", "send UDP", Closed, "sss---s"),
    ("fast_open", "connect with TCP Fast Open", Closed, "sss---s"),
    ("multipath", "connect with multipath TCP", Closed, "sss---s"),
    ("reuse_connection", "connect a caller's connection to a port of this machine", Closed, "sss---s"),
    ("listen_bound", "listen on a port of its own", Closed, "sss---s"),
    ("listen_unbound", "the same without `bind`", Closed, "sss---s"),
    // Using it all up.
    ("fork_bomb", "start processes without end", Open, "ssrrsrs"),
    ("memory_hog", "take private memory without end, in one process", Open, "sssssss"),
    ("shared_memory_hog", "take shared memory without end, in one process (mmap)", Open, "srrrsrs"),
    ("nameless_file_hog", "the same in a file without a name (memfd)", Open, "srrrsrs"),
    ("memory_hogs", "take memory without end, in many processes", Open, "srrrsrs"),
    ("fill_disk", "fill the disk", Open, "ssrrrrs"),
    ("huge_file", "write a huge file", Open, "sssssss"),
    ("open_many", "open files without end", Open, "sssssss"),
    // Staying behind; these are looked at after the agent was deleted.
    ("leave_system_v_memory", "leave System V shared memory behind when it is deleted", Open, "ssssrrs"),
    ("leave_message_queue", "the same with a POSIX message queue", Open, "ssssrrs"),
    ("leave_memory_file", "the same with a file in `/dev/shm`", Open, "ssrrsrs"),
    ("stay_behind", "leave a daemon behind when it is deleted", Open, "sssssss"),
    ("stay_behind_and_kill_launcher", "kill its launcher and leave a daemon behind", Open, "sssrsrs"),
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
