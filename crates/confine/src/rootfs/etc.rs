//! Files in the `/etc` of an agent's own root directory: users and name resolution.

use super::{HOME, directory};
use crate::spec::{OwnNetwork, RunAs};
use rustix::process::{getegid, geteuid};
use std::fs;
use std::io::Result;
use std::path::Path;

/// Only `/etc/hosts` is consulted, so that a name that is not in there fails at once.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n";
/// For resolvers that do not read `nsswitch.conf`. Nothing listens there, and the options keep the timeout short.
const RESOLV: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";

/// Whether `path` is one of the files that are written for an agent with its own network, replacing those of this
/// machine.
pub(crate) fn is_of_resolver(path: &Path) -> bool {
    ["/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf"].iter().any(|file| path == Path::new(file))
}

/// Writes the files below `root`, which is still empty.
pub(crate) fn write(root: &Path, network: Option<&OwnNetwork>, user: Option<RunAs>) -> Result<()> {
    let etc = root.join("etc");
    directory(&etc)?;
    let (uid, gid) = user.map_or((geteuid().as_raw(), getegid().as_raw()), |user| (user.uid, user.gid));
    let (users, groups) = accounts(uid, gid);
    fs::write(etc.join("passwd"), users)?;
    fs::write(etc.join("group"), groups)?;
    if let Some(network) = network {
        fs::write(etc.join("hosts"), hosts(network))?;
        fs::write(etc.join("nsswitch.conf"), NSSWITCH)?;
        fs::write(etc.join("resolv.conf"), RESOLV)?;
    }
    Ok(())
}

fn hosts(network: &OwnNetwork) -> String {
    network.hosts.iter().map(|(address, name)| format!("{address} {name}\n")).collect()
}

/// Returns the contents of `passwd` and `group`.
fn accounts(uid: u32, gid: u32) -> (String, String) {
    let (mut users, mut groups) = (format!("agent:x:{uid}:{gid}:agent:{HOME}:/bin/sh\n"), format!("agent:x:{gid}:\n"));
    for (name, id) in [("root", 0), ("nobody", 65_534)] {
        if uid != id {
            users.push_str(&format!("{name}:x:{id}:{id}:{name}:/nonexistent:/usr/sbin/nologin\n"));
        }
        if gid != id {
            groups.push_str(&format!("{name}:x:{id}:\n"));
        }
    }
    (users, groups)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn an_agent_with_a_network_of_its_own_resolves_the_names_in_its_hosts_file_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let hosts =
            vec![(Ipv4Addr::LOCALHOST, "localhost".into()), (Ipv4Addr::new(127, 0, 0, 2), "api.example".into())];
        write(dir.path(), Some(&OwnNetwork { hosts, ..OwnNetwork::default() }), None).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("etc").join(name)).unwrap();
        assert_eq!(read("hosts"), "127.0.0.1 localhost\n127.0.0.2 api.example\n");
        assert!(read("nsswitch.conf").lines().any(|line| line == "hosts: files"));
    }

    #[test]
    fn an_agent_in_the_machines_network_resolves_names_as_the_machine_does() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), None, Some(RunAs { uid: 7, gid: 8 })).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path().join("etc")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["group", "passwd"]);
        let users = fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
        assert!(users.starts_with("agent:x:7:8:agent:/home/agent:/bin/sh\nroot:x:0:"), "{users}");
    }
}
