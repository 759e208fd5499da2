//! The specification of a process's confinement.

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

/// Resource limits of one agent; absent or 0 means none but the inherited one. A limit above the supervisor's own is
/// lowered to it. Core dumps are always off: they would contain the agent's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of the whole agent in bytes, where there are control groups.
    pub memory: Option<u64>,
    /// Processes and threads of the whole agent, where it has a control group, a user or a user namespace of its own.
    pub processes: Option<u64>,
    /// Processor time of the whole agent in thousandths of a processor, where there are control groups.
    pub cpu_millicores: Option<u64>,
    /// The disk usage of `/app`, `HOME`, `TMPDIR` and `/dev/shm` together, in bytes, where these are its own.
    pub disk: Option<u64>,
    /// Open descriptors of one process.
    pub open_files: Option<u64>,
    /// Size of one file, in bytes.
    pub file_size: Option<u64>,
    /// Private writable memory of one process, in bytes; shared mappings and `memfd` are not counted.
    pub data: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Some(1 << 30),
            processes: Some(512),
            cpu_millicores: None,
            disk: Some(512 << 20),
            open_files: Some(4096),
            file_size: Some(4 << 30),
            data: None,
        }
    }
}

impl Limits {
    /// Returns the limits with 0 as `None`.
    pub fn normalised(self) -> Self {
        let set = |limit: Option<u64>| limit.filter(|&limit| limit > 0);
        Self {
            memory: set(self.memory),
            processes: set(self.processes),
            cpu_millicores: set(self.cpu_millicores),
            disk: set(self.disk),
            open_files: set(self.open_files),
            file_size: set(self.file_size),
            data: set(self.data),
        }
    }
}

/// A user and group of the agent's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// The user id.
    pub uid: u32,
    /// The group id; there are no supplementary groups.
    pub gid: u32,
}

/// The measures that isolate the agent from the rest of the machine. All of them apply, or the start fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Namespaces and a root directory of the agent's own.
    pub namespaces: Option<Namespaces>,
    /// The Landlock ABI whose rights are restricted.
    pub landlock: Option<i32>,
    /// Whether system calls that no agent needs are refused.
    pub seccomp: bool,
    /// The only TCP port that is reachable when the network is closed.
    pub only_port: Option<u16>,
    /// Whether no socket can be created, except socket pairs.
    pub no_sockets: bool,
    /// Whether agents are forked from it: the forked process joins namespaces that it has descriptors of, makes a PID
    /// namespace, and mounts its `/proc`.
    #[serde(default)]
    pub joins_namespaces: bool,
    /// Whether it stays in its process group and session, so that killing the group ends all its descendants.
    pub keeps_group: bool,
    /// The visible parts of the file system: with namespaces nothing else exists, with Landlock nothing else opens.
    pub exposed: Vec<Exposed>,
}

/// Namespaces of the agent's own: mount and IPC always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Whether there is a user namespace, which gives an ordinary user the right to create the others.
    pub user: bool,
    /// A PID namespace.
    pub processes: bool,
    /// A network namespace, if the network is closed.
    pub network: Option<OwnNetwork>,
    /// An empty directory where the new root is built.
    pub root: PathBuf,
    /// The size of the agent's writable file system, in bytes.
    pub disk: Option<u64>,
}

/// A network of the agent's own, in which only egress is reachable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnNetwork {
    /// The addresses where egress listens. The listeners are sent over the last descriptor that comes with the request;
    /// after them a new socket of this network for each byte that is received.
    pub listen: Vec<SocketAddrV4>,
    /// The address where the agent serves its callers: its first descriptor is a listener there.
    pub callers: Option<SocketAddrV4>,
    /// The names that resolve there, and their addresses. There is no name server.
    pub hosts: Vec<(Ipv4Addr, String)>,
}

/// A part of the file system that the agent may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposed {
    /// The path on the host.
    pub host: PathBuf,
    /// The path for the agent; the same without namespaces.
    pub inside: PathBuf,
    /// The allowed access.
    pub access: Access,
}

/// The access to a part of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Reading and executing.
    Read,
    /// The same, if it exists.
    ReadIfThere,
    /// A symbolic link with this target (`host`), in a root of the agent's own.
    Link,
    /// Everything.
    Write,
    /// Everything, on a copy that is made for this process, in a root of the agent's own.
    Copy,
    /// A device, read and written.
    Device,
}
