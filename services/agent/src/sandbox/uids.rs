//! A user for each agent, where this program may choose users: kept in the data directory, so that an agent has the
//! same one after a restart, and never given to two agents at a time.

use crate::launcher::RunAs;
use hoistway_kit::fs::{read_if_there, write_atomic};
use hoistway_model::{Code, Error, Name, Result};
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A range that neither distributions nor container engines give to anybody; within the sixteen-bit half of a user
/// namespace there is another.
const RANGES: [(u32, u32); 2] = [(1_900_000_000, 65_536), (40_000, 10_000)];

/// The users of one installation's agents.
#[derive(Debug)]
pub(super) struct Uids {
    file: PathBuf,
    first: u32,
    count: u32,
    given: Mutex<Given>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Given {
    /// Counted up, so that a user is not soon somebody else's.
    next: u32,
    users: BTreeMap<String, u32>,
}

impl Uids {
    /// The users in `dir/uids.json`; `None` if this program may not choose users. Blocks.
    pub fn open(dir: &Path) -> std::io::Result<Option<Self>> {
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN;
        let may = rustix::process::geteuid().is_root()
            && capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let range = RANGES.into_iter().find(|&(first, count)| mapped(&map, first, count));
        match range.filter(|_| may) {
            Some((first, count)) => Self::in_range(dir, first, count).map(Some),
            None => Ok(None),
        }
    }

    fn in_range(dir: &Path, first: u32, count: u32) -> std::io::Result<Self> {
        let file = dir.join("uids.json");
        let given = match read_if_there(&file)? {
            Some(bytes) => serde_json::from_slice(&bytes)?,
            None => Given { next: first, ..Given::default() },
        };
        Ok(Self { file, first, count, given: Mutex::new(given) })
    }

    /// A user that is no agent's: the last of the range.
    pub fn probe(&self) -> RunAs {
        let last = self.first + self.count - 1;
        RunAs { uid: last, gid: last }
    }

    /// The agent's user.
    pub fn of(&self, agent: &Name) -> Result<RunAs> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&uid) = given.users.get(agent.as_str()) {
            return Ok(RunAs { uid, gid: uid });
        }
        let usable = self.count - 1;
        let start = given.next.saturating_sub(self.first);
        let candidates = (0..usable).map(|n| self.first + (start + n) % usable);
        let free = candidates.into_iter().find(|uid| !given.users.values().any(|taken| taken == uid));
        let uid = free.ok_or_else(|| Error::new(Code::ResourceExhausted, "every user for agents is taken"))?;
        let mut changed = given.clone();
        changed.users.insert(agent.to_string(), uid);
        changed.next = uid + 1;
        self.save(&changed)?;
        *given = changed;
        Ok(RunAs { uid, gid: uid })
    }

    /// The agent is gone for good.
    pub fn release(&self, agent: &Name) -> Result<()> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = given.clone();
        if changed.users.remove(agent.as_str()).is_some() {
            self.save(&changed)?;
            *given = changed;
        }
        Ok(())
    }

    fn save(&self, given: &Given) -> Result<()> {
        let failed = |e: std::io::Error| Error::internal("keeping the agents' users", e);
        let text = serde_json::to_vec(given).map_err(|e| failed(e.into()))?;
        write_atomic(&self.file, &text, 0o600).map_err(failed)
    }
}

/// Whether a user namespace with this map has these users.
fn mapped(map: &str, first: u32, count: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
        let (inside, length) = (numbers.next().unwrap_or(0), numbers.nth(1).unwrap_or(0));
        inside <= u64::from(first) && u64::from(first) + u64::from(count) <= inside + length
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    #[test]
    fn a_user_is_kept_and_not_soon_given_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let uids = Uids::in_range(dir.path(), 5000, 4).unwrap();
        let uid = |uids: &Uids, agent: &str| uids.of(&name(agent)).map(|user| user.uid);
        assert_eq!((uid(&uids, "a").unwrap(), uid(&uids, "b").unwrap(), uid(&uids, "a").unwrap()), (5000, 5001, 5000));
        uids.release(&name("a")).unwrap();
        let uids = Uids::in_range(dir.path(), 5000, 4).unwrap();
        assert_eq!((uid(&uids, "c").unwrap(), uid(&uids, "b").unwrap()), (5002, 5001));
        assert_eq!(uid(&uids, "d").unwrap(), 5000);
        assert_eq!(uid(&uids, "e").unwrap_err().code, Code::ResourceExhausted);
        assert_eq!(uids.probe().uid, 5003);
    }

    #[test]
    fn maps_of_user_namespaces_are_understood() {
        assert!(mapped("         0          0 4294967295\n", 1_900_000_000, 65_536));
        assert!(!mapped("0 100000 65536\n", 1_900_000_000, 65_536));
        assert!(mapped("0 1000 1\n1 100000 65536\n", 40_000, 10_000));
        assert!(!mapped("", 0, 1));
    }
}
