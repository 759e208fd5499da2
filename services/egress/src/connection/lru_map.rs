//! A map that never grows beyond its bound: the entry that was used least recently makes room.

use std::{collections::HashMap, hash::Hash};

#[derive(Debug)]
pub(crate) struct LruMap<K, V> {
    bound: usize,
    /// Counts uses.
    now: u64,
    entries: HashMap<K, (V, u64)>,
}

impl<K: Eq + Hash + Clone, V: Clone> LruMap<K, V> {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound: bound.max(1), now: 0, entries: HashMap::new() }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        self.now += 1;
        let (value, used) = self.entries.get_mut(key)?;
        *used = self.now;
        Some(value.clone())
    }

    /// Puts a value in. When there is no room, the entry that was used least recently goes of those that `may_go`
    /// lets go; if it lets none go, the oldest of all.
    pub(crate) fn insert(&mut self, key: K, value: V, may_go: impl Fn(&V) -> bool) {
        self.now += 1;
        if !self.entries.contains_key(&key) && self.entries.len() >= self.bound {
            let oldest = self.entries.iter().min_by_key(|(_, (value, used))| (!may_go(value), *used));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(key, (value, self.now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let mut map = LruMap::new(2);
        map.insert("a", 1, |_| true);
        map.insert("b", 2, |_| true);
        assert_eq!(map.get(&"a"), Some(1));
        map.insert("c", 3, |_| true);
        assert_eq!((map.get(&"a"), map.get(&"b"), map.get(&"c")), (Some(1), None, Some(3)));
        map.insert("d", 4, |&value| value == 3);
        assert_eq!((map.get(&"a"), map.get(&"c"), map.get(&"d")), (Some(1), None, Some(4)));
        map.insert("a", 5, |_| true);
        assert_eq!((map.get(&"a"), map.entries.len()), (Some(5), 2));
    }
}
