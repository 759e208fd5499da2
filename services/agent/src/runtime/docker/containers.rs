//! The two containers of a run: one that holds the agent's network, and the agent's own in that network.

use crate::runtime::endpoint::Endpoint;
use crate::sandbox::own_network;
use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use hoistway_confine::Limits;
use hoistway_model::image::{APP_DIR, RUNNER_PATH};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;

/// The time, in microseconds, in which a container has its quota of the processors, as Linux has it by default.
const CPU_PERIOD: i64 = 100_000;
/// The microseconds of each period that are a thousandth of a processor.
const QUOTA_PER_MILLICORE: u64 = 100;

/// The programs of the containers, which need Python's standard library only.
const NETWORK: &str = include_str!("network.py");
const BOOTSTRAP: &str = include_str!("bootstrap.py");
/// The user and group of images of ours, by number.
const USER: &str = "65532:65532";
const UID: &str = "uid=65532,gid=65532";

/// The agent's `HOME` and `TMPDIR`.
pub(super) const HOME: &str = "/home/agent";
pub(super) const TMP: &str = "/tmp";
/// A directory of the platform's.
const PLATFORM_DIR: &str = "/run/hoistway";
/// The certificate authorities that the agent trusts.
pub(super) const CA_BUNDLE: &str = "/run/hoistway/ca-bundle.pem";

/// Where the runner finds the agent service, and the source of the image.
const CONTROL: &str = "127.0.0.1:3129";
const SOURCE: &str = "127.0.0.1:3130";
/// The host name of every agent.
const HOSTNAME: &str = "agent";

/// The memory and the processes of a container that only holds a network.
const NETWORK_MEMORY: i64 = 64 << 20;
const NETWORK_PROCESSES: i64 = 16;
/// The size of [`PLATFORM_DIR`].
const PLATFORM_BYTES: u64 = 4 << 20;

/// The addresses in an agent's network that others than the agent serve: those of the agent service's control
/// connection, of egress as a proxy, and of egress at the names of the agent's tools and models.
pub(super) struct Addresses {
    pub listen: Vec<String>,
    hosts: Vec<String>,
}

impl Addresses {
    /// Those of an agent that connects to `endpoints`.
    pub fn of(endpoints: &[Endpoint]) -> Self {
        let own = own_network(endpoints, None, HOSTNAME);
        let listen = own.listen.iter().map(ToString::to_string);
        // Docker writes this one itself.
        let hosts = own.hosts.iter().filter(|(_, name)| name != "localhost");
        Self {
            listen: std::iter::once(CONTROL.to_owned()).chain(listen).collect(),
            hosts: hosts.map(|(address, name)| format!("{name}:{address}")).collect(),
        }
    }
}

/// The container that holds an agent's network. It shares `directory` with the agent service, where that waits for it.
pub(super) fn network(image: &str, addresses: &Addresses, directory: &Path) -> ContainerCreateBody {
    let mut entrypoint = python(NETWORK);
    entrypoint.push(SOURCE.to_owned());
    entrypoint.extend(addresses.listen.iter().cloned());
    // What it says is of interest only when it fails.
    let log = [("max-size", "64k"), ("max-file", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let host_config = HostConfig {
        network_mode: Some("none".to_owned()),
        extra_hosts: Some(addresses.hosts.clone()),
        // Tools are at ports such as 443.
        sysctls: Some([("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into()),
        binds: Some(vec![format!("{}:{PLATFORM_DIR}:ro", directory.display())]),
        memory: Some(NETWORK_MEMORY),
        memory_swap: Some(NETWORK_MEMORY),
        pids_limit: Some(NETWORK_PROCESSES),
        log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log.into()) }),
        ..confined()
    };
    ContainerCreateBody { hostname: Some(HOSTNAME.to_owned()), ..container(image, entrypoint, host_config) }
}

/// The agent's container, in the network of the container `network`.
pub(super) struct AgentContainer<'a> {
    pub image: &'a str,
    pub network: &'a str,
    pub limits: &'a Limits,
    /// The port on which the agent answers its callers, in its own network.
    pub port: u16,
    /// Whether the agent works in a copy of its source.
    pub copies_app: bool,
    /// Directories for which the image wants volumes.
    pub volumes: Vec<String>,
}

impl AgentContainer<'_> {
    pub fn body(self) -> ContainerCreateBody {
        let limits = self.limits.normalised();
        let mut entrypoint = python(BOOTSTRAP);
        let callers = format!("{}:{}", Ipv4Addr::LOCALHOST, self.port);
        entrypoint.extend([&callers, CONTROL, SOURCE, APP_DIR, CA_BUNDLE, RUNNER_PATH].map(ToOwned::to_owned));
        let bytes = |limit: Option<u64>| limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let host_config = HostConfig {
            network_mode: Some(format!("container:{}", self.network)),
            // Reaps processes whose parents have ended, and passes signals on.
            init: Some(true),
            tmpfs: Some(self.tmpfs(limits.disk)),
            shm_size: bytes(limits.disk),
            memory: bytes(limits.memory),
            memory_swap: bytes(limits.memory),
            // A quota may be more than the machine has, as for processes; the daemon refuses that of its own `NanoCpus`.
            cpu_period: limits.cpu_millicores.map(|_| CPU_PERIOD),
            cpu_quota: bytes(limits.cpu_millicores.map(|millicores| millicores.saturating_mul(QUOTA_PER_MILLICORE))),
            pids_limit: bytes(limits.processes),
            ulimits: Some(ulimits(&limits)),
            // Its output goes to the agent service, which keeps, limits and masks it.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..confined()
        };
        container(self.image, entrypoint, host_config)
    }

    /// The writable directories, in memory.
    fn tmpfs(&self, disk: Option<u64>) -> HashMap<String, String> {
        let size = disk.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        let private = format!("rw,exec,nosuid,nodev,mode=0700,{UID}{size}");
        let app = self.copies_app.then_some(APP_DIR);
        let own = [HOME, TMP].into_iter().chain(app).chain(self.volumes.iter().map(String::as_str));
        let platform = format!("rw,noexec,nosuid,nodev,mode=0700,{UID},size={PLATFORM_BYTES}");
        own.map(|path| (path.to_owned(), private.clone())).chain([(PLATFORM_DIR.to_owned(), platform)]).collect()
    }
}

/// The limits of each of an agent's processes.
fn ulimits(limits: &Limits) -> Vec<ResourcesUlimits> {
    let each = [("core", Some(0)), ("nofile", limits.open_files), ("fsize", limits.file_size), ("data", limits.data)];
    let limit = |(name, limit): (&str, Option<u64>)| {
        let limit = Some(i64::try_from(limit?).unwrap_or(i64::MAX));
        Some(ResourcesUlimits { name: Some(name.to_owned()), soft: limit, hard: limit })
    };
    each.into_iter().filter_map(limit).collect()
}

/// What holds for every container: no capabilities and no way to get any, and nothing that can be written to but what
/// is mounted.
fn confined() -> HostConfig {
    HostConfig {
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(true),
        privileged: Some(false),
        ipc_mode: Some("private".to_owned()),
        ..HostConfig::default()
    }
}

fn container(image: &str, entrypoint: Vec<String>, host_config: HostConfig) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some(USER.to_owned()),
        entrypoint: Some(entrypoint),
        working_dir: Some("/".to_owned()),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

/// The command that runs a program of ours with the image's Python and nothing of the agent's.
fn python(program: &str) -> Vec<String> {
    ["python3", "-I", "-S", "-c", program].map(str::to_owned).into()
}
