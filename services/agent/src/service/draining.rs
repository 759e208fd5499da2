//! Replaced instances that finish the requests they have: for as long as an invoke may take, but not very many at a
//! time.

use hoistway_model::{Name, RevisionId};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The number of instances of one agent that may be finishing: each takes as much memory as one that serves.
const MOST: usize = 3;
/// The time that those that are too many may take from then on.
pub(super) const HURRY: Duration = Duration::from_secs(5);

/// The instances that are finishing, the oldest of each agent first.
#[derive(Debug, Default)]
pub(super) struct Draining(Mutex<HashMap<Name, VecDeque<RevisionId>>>);

impl Draining {
    /// Adds one; those that must make room for it.
    pub fn begin(&self, agent: &Name, id: RevisionId) -> Vec<RevisionId> {
        let mut all = self.all();
        let of_agent = all.entry(agent.clone()).or_default();
        of_agent.push_back(id);
        let surplus = of_agent.len().saturating_sub(MOST);
        of_agent.drain(..surplus).collect()
    }

    /// Those of an agent.
    pub fn of(&self, agent: &Name) -> Vec<RevisionId> {
        self.all().get(agent).into_iter().flatten().copied().collect()
    }

    /// Takes out one that has ended.
    pub fn end(&self, agent: &Name, id: &RevisionId) {
        let mut all = self.all();
        if let Some(of_agent) = all.get_mut(agent) {
            of_agent.retain(|other| other != id);
            if of_agent.is_empty() {
                all.remove(agent);
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Name, VecDeque<RevisionId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_oldest_make_room_and_nothing_is_kept_of_those_that_ended() {
        let (draining, agent) = (Draining::default(), Name::parse("agent", "a").unwrap());
        let ids: Vec<RevisionId> = (0..5).map(|_| RevisionId::mint()).collect();
        for id in &ids[..3] {
            assert!(draining.begin(&agent, *id).is_empty());
        }
        assert_eq!(draining.begin(&agent, ids[3]), [ids[0]]);
        assert_eq!(draining.of(&agent), ids[1..4]);
        draining.end(&agent, &ids[2]);
        assert!(draining.begin(&agent, ids[4]).is_empty());
        ids.iter().for_each(|id| draining.end(&agent, id));
        assert!(draining.all().is_empty());
    }
}
