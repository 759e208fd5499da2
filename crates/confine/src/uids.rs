//! A user for each agent, where this program may choose users. The assignment is stored in the data directory, so that
//! an agent has the same one after a restart, and no two agents share one.

use crate::spec::RunAs;
use hoistway_kit::fs::{read_if_there, write_atomic};
use hoistway_model::{Code, Digest, Error, Name, Result};
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A range that neither distributions nor container engines assign; the second one lies within the sixteen-bit half of
/// a user namespace.
const RANGES: [Block; 2] = [(1_900_000_000, 65_536), (40_000, 10_000)];
/// The number of blocks of the size of the first range, itself included. The first is for installations without a
/// stored block, the others are chosen by the directory's name, so that two installations on one machine do not share
/// users.
const BLOCKS: u32 = 1_024;

/// The number of users at the end of a block that are not for agents.
const RESERVED: u32 = 4;

/// The first user, and the number of users.
type Block = (u32, u32);

/// The users of one installation's agents.
#[derive(Debug)]
pub struct Uids {
    file: PathBuf,
    block: Block,
    given: Mutex<Given>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Given {
    /// The next user; it only counts up, so that a user is not soon reused.
    next: u32,
    users: BTreeMap<String, u32>,
    /// The block of the users; stored, so that a moved directory keeps its agents' users. Earlier versions, which had
    /// no choice, did not store it.
    #[serde(default)]
    block: Option<Block>,
}

impl Uids {
    /// Opens the users in `dir/uids.json`, where `dir` may not exist yet; `None` if this program may not choose users.
    /// Blocks.
    pub fn open(dir: &Path) -> std::io::Result<Option<Self>> {
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN;
        let may = rustix::process::geteuid().is_root()
            && capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
        if !may {
            return Ok(None);
        }
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let real = match (dir.canonicalize(), dir.parent(), dir.file_name()) {
            (Err(error), Some(above), Some(name)) if error.kind() == ErrorKind::NotFound => {
                above.canonicalize()?.join(name)
            }
            (real, ..) => real?,
        };
        let own = block_of(&real);
        Self::choose(dir, own, |block| mapped(&map, block))
    }

    /// Takes the users from the block that is stored in `dir`, else from `own`, as far as these users exist.
    fn choose(dir: &Path, own: Block, exists: impl Fn(Block) -> bool) -> std::io::Result<Option<Self>> {
        let file = dir.join("uids.json");
        let kept: Option<Given> = read_if_there(&file)?.map(|bytes| serde_json::from_slice(&bytes)).transpose()?;
        let first = match &kept {
            Some(given) => given.block.unwrap_or(RANGES[0]),
            None => own,
        };
        let Some(block) = [first, own, RANGES[1]].into_iter().find(|&block| exists(block)) else { return Ok(None) };
        let mut given = kept.unwrap_or_else(|| Given { next: block.0, ..Given::default() });
        // Users of another block do not exist here.
        given.users.retain(|_, uid| (block.0..block.0 + block.1).contains(uid));
        Ok(Some(Self { file, block, given: Mutex::new(Given { block: Some(block), ..given }) }))
    }

    /// Returns a user that is not an agent's: the last of the range.
    pub fn probe(&self) -> RunAs {
        let (first, count) = self.block;
        let last = first + count - 1;
        RunAs { uid: last, gid: last }
    }

    /// Returns two users that are neither an agent's nor the one for probing: one installs packages, the other reads
    /// them.
    pub fn build_users(&self) -> [RunAs; 2] {
        let (first, count) = self.block;
        [count - 3, count - 2].map(|n| RunAs { uid: first + n, gid: first + n })
    }

    /// Returns the user of the processes that agents are forked from.
    pub fn warm_parents_user(&self) -> RunAs {
        let (first, count) = self.block;
        RunAs { uid: first + count - 4, gid: first + count - 4 }
    }

    /// Returns the users of agents and [`Self::warm_parents_user`], as ranges with their first number and their length.
    pub fn forked_users(&self) -> [Block; 2] {
        let (first, count) = self.block;
        [(first, count - RESERVED), (self.warm_parents_user().uid, 1)]
    }

    /// Returns the agent's user, and assigns one if necessary.
    pub fn of(&self, agent: &Name) -> Result<RunAs> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&uid) = given.users.get(agent.as_str()) {
            return Ok(RunAs { uid, gid: uid });
        }
        let (first, count) = self.block;
        let usable = count - RESERVED;
        let start = given.next.saturating_sub(first);
        let candidates = (0..usable).map(|n| first + (start + n) % usable);
        let free = candidates.into_iter().find(|uid| !given.users.values().any(|taken| taken == uid));
        let uid = free.ok_or_else(|| Error::new(Code::ResourceExhausted, "every user for agents is taken"))?;
        let mut changed = given.clone();
        changed.users.insert(agent.to_string(), uid);
        changed.next = uid + 1;
        self.save(&changed)?;
        *given = changed;
        Ok(RunAs { uid, gid: uid })
    }

    /// Returns the agent's user, if it has one.
    pub fn user_of(&self, agent: &Name) -> Option<RunAs> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.users.get(agent.as_str()).map(|&uid| RunAs { uid, gid: uid })
    }

    /// Releases the user of a deleted agent.
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

/// Returns the block of a new installation.
fn block_of(dir: &Path) -> Block {
    let (first, count) = RANGES[0];
    let digest = Digest::of(dir.as_os_str().as_encoded_bytes()).hex();
    let number = u32::from_str_radix(&digest[..8], 16).unwrap_or_default();
    (first + (1 + number % (BLOCKS - 1)) * count, count)
}

/// Whether a user namespace with this map has these users.
fn mapped(map: &str, (first, count): Block) -> bool {
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

    fn choose(dir: &Path, own: Block) -> Uids {
        Uids::choose(dir, own, |_| true).unwrap().unwrap()
    }

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    #[test]
    fn a_user_is_kept_and_not_soon_given_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let uids = choose(dir.path(), (5000, 7));
        let uid = |uids: &Uids, agent: &str| uids.of(&name(agent)).map(|user| user.uid);
        assert_eq!((uid(&uids, "a").unwrap(), uid(&uids, "b").unwrap(), uid(&uids, "a").unwrap()), (5000, 5001, 5000));
        uids.release(&name("a")).unwrap();
        let uids = choose(dir.path(), (5000, 7));
        assert_eq!((uid(&uids, "c").unwrap(), uid(&uids, "b").unwrap()), (5002, 5001));
        assert_eq!(uid(&uids, "d").unwrap(), 5000);
        assert_eq!(uid(&uids, "e").unwrap_err().code, Code::ResourceExhausted);
        assert_eq!(uids.probe().uid, 5006);
        assert_eq!(uids.build_users().map(|user| user.uid), [5004, 5005]);
        assert_eq!(uids.warm_parents_user().uid, 5003);
    }

    #[test]
    fn installations_have_blocks_of_their_own_and_keep_them() {
        let (one, other) = (block_of(Path::new("/a/agent")), block_of(Path::new("/b/agent")));
        assert_ne!(one, other);
        for (first, count) in [one, other] {
            assert!(first >= RANGES[0].0 + RANGES[0].1 && first + count <= i32::MAX as u32 && count == RANGES[0].1);
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(choose(dir.path(), one).of(&name("a")).unwrap().uid, one.0);
        // A moved directory keeps its users.
        let moved = choose(dir.path(), other);
        assert_eq!((moved.of(&name("a")).unwrap().uid, moved.of(&name("b")).unwrap().uid), (one.0, one.0 + 1));
        // A block of an earlier version stays the same.
        let earlier = format!(r#"{{"next":{},"users":{{"a":{}}}}}"#, RANGES[0].0 + 1, RANGES[0].0);
        std::fs::write(dir.path().join("uids.json"), earlier).unwrap();
        let uids = choose(dir.path(), one);
        assert_eq!(
            (uids.of(&name("a")).unwrap().uid, uids.of(&name("b")).unwrap().uid),
            (RANGES[0].0, RANGES[0].0 + 1)
        );
        // Where the stored users do not exist, agents get others.
        let uids = Uids::choose(dir.path(), other, |block| block == other).unwrap().unwrap();
        assert_eq!(uids.of(&name("a")).unwrap().uid, other.0);
        // Where these users do not exist, the small range is used.
        let dir = tempfile::tempdir().unwrap();
        let uids = Uids::choose(dir.path(), one, |block| block == RANGES[1]).unwrap().unwrap();
        assert_eq!(uids.of(&name("a")).unwrap().uid, RANGES[1].0);
        assert!(Uids::choose(dir.path(), one, |_| false).unwrap().is_none());
    }

    #[test]
    fn maps_of_user_namespaces_are_understood() {
        assert!(mapped("         0          0 4294967295\n", RANGES[0]));
        assert!(!mapped("0 100000 65536\n", RANGES[0]));
        assert!(mapped("0 1000 1\n1 100000 65536\n", RANGES[1]));
        assert!(!mapped("", (0, 1)));
    }
}
