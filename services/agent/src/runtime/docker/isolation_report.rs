//! The enforced isolation of agents in containers, in words: never more than what is.

use crate::runtime::Isolation;
use crate::sandbox::size;
use bollard::models::SystemInfo;
use hoistway_confine::Limits;

/// What a daemon that describes itself so enforces.
pub(super) fn isolation(info: &SystemInfo, limits: &Limits) -> Isolation {
    let limits = limits.normalised();
    let version = info.server_version.as_deref().unwrap_or("of an unknown version");
    let mut parts = vec![
        format!("containers of Docker {version}"),
        "namespaces: pid, mount, ipc, uts, net".to_owned(),
        "no capabilities".to_owned(),
        "read-only root".to_owned(),
        "seccomp".to_owned(),
    ];
    let options = info.security_options.iter().flatten();
    let names = options.filter_map(|option| option.strip_prefix("name=")?.split(',').next());
    // The agents' own filters are in every container; these are what the daemon adds.
    parts.extend(
        names.filter(|name| matches!(*name, "apparmor" | "selinux" | "userns" | "rootless")).map(str::to_owned),
    );
    let has = |supported: Option<bool>| supported == Some(true);
    let memory = limits.memory.filter(|_| has(info.memory_limit));
    let words = [
        memory.map(|bytes| format!("{} memory", size(bytes))),
        limits.processes.filter(|_| has(info.pids_limit)).map(|n| format!("{n} processes")),
        limits.cpu_millicores.filter(|_| has(info.cpu_cfs_quota)).map(|n| format!("{n}m CPU")),
        limits.disk.map(|bytes| format!("{} disk in each writable directory", size(bytes))),
        limits.file_size.map(|bytes| format!("{} in one file", size(bytes))),
        limits.open_files.map(|n| format!("{n} open files")),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    let notes = match (limits.memory, memory) {
        (Some(_), None) => vec!["Docker cannot limit memory here: an agent can take all of the machine's".to_owned()],
        (Some(_), Some(_)) if !has(info.swap_limit) => {
            vec!["Docker cannot limit swap here: an agent can take it in addition to its memory".to_owned()]
        }
        _ => Vec::new(),
    };
    Isolation {
        enforced: parts.join("; "),
        network: Isolation::CLOSED.to_owned(),
        limits: if words.is_empty() { "none".to_owned() } else { words.join(", ") },
        notes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_daemon_can_do_is_reported() {
        let limits = Limits { cpu_millicores: Some(500), ..Limits::default() };
        let all = SystemInfo {
            server_version: Some("28.0.1".to_owned()),
            security_options: Some(vec!["name=apparmor".to_owned(), "name=seccomp,profile=builtin".to_owned()]),
            memory_limit: Some(true),
            swap_limit: Some(true),
            pids_limit: Some(true),
            cpu_cfs_quota: Some(true),
            ..SystemInfo::default()
        };
        let report = isolation(&all, &limits);
        assert!(
            report.enforced.starts_with("containers of Docker 28.0.1; ") && report.enforced.ends_with("; apparmor")
        );
        assert!(report.limits.starts_with("1 GiB memory, 512 processes, 500m CPU, "), "{}", report.limits);
        assert!(report.is_sandboxed() && !report.has_open_network() && report.notes.is_empty());

        let none = isolation(&SystemInfo::default(), &limits);
        let rest = "512 MiB disk in each writable directory, 4 GiB in one file, 4096 open files";
        assert_eq!((none.limits.as_str(), none.notes.len()), (rest, 1));
    }
}
