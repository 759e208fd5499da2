//! Which packages share a layer. Each has one of its own while there are few. Of many, the small ones are grouped so
//! that the image stays well below the 127 layers that container engines take, and so that one package more or less
//! changes a layer or three and leaves the others as they are, byte for byte.

use hoistway_model::{Digest, digest::Hasher};
use std::cmp::Reverse;

/// The most layers of packages in an image. A base, the runtime and the source come on top.
pub const MAX_LAYERS: usize = 60;
/// From this many unpacked bytes on a package is not put together with others while that can be avoided.
const LARGE: u64 = 4 << 20;

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its normalised name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// A digest of everything that decides its files: its entry in the lock, the interpreter, the layout.
    pub key: Digest,
    /// Unpacked bytes.
    pub size: u64,
}

/// The groups in the order of their layers, lowest first, and their members in the order in which a later one wins
/// where two have the same file. That order depends on nothing but the two.
///
/// The packages are in a fixed order, and a group begins at each of those that come first by a rank that is theirs
/// alone. So a new package either joins one group, or splits one and lets two others become one.
pub fn grouped(mut packages: Vec<Package>) -> Vec<Vec<Package>> {
    packages.sort_by(|a, b| (a.size >= LARGE, &a.name).cmp(&(b.size >= LARGE, &b.name)));
    if packages.len() <= MAX_LAYERS {
        return packages.into_iter().map(|package| vec![package]).collect();
    }
    let mut ranks: Vec<_> = packages.iter().map(rank).collect();
    ranks.sort_unstable();
    // One less, because the first package begins a group whatever its rank is.
    let last = ranks[MAX_LAYERS - 2];
    let mut groups: Vec<Vec<Package>> = Vec::new();
    for package in packages {
        match groups.last_mut() {
            Some(group) if rank(&package) > last => group.push(package),
            _ => groups.push(vec![package]),
        }
    }
    groups
}

/// Large ones first, the largest before the others; small ones in an order that has nothing to do with their names.
fn rank(package: &Package) -> (Reverse<u64>, Digest) {
    let size = if package.size >= LARGE { package.size } else { 0 };
    (Reverse(size), Digest::of(package.name.as_bytes()))
}

/// A digest of everything that decides the bytes of a group's layer.
pub fn key(group: &[Package]) -> Digest {
    key_of(group.iter().map(|package| package.key))
}

/// The same of the keys of its packages.
pub fn key_of(packages: impl IntoIterator<Item = Digest>) -> Digest {
    let mut key = Hasher::new();
    for package in packages {
        key.member(package.to_string().as_bytes());
    }
    key.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn package(name: &str, size: u64) -> Package {
        Package { name: name.to_owned(), version: "1".into(), key: Digest::of(name.as_bytes()), size }
    }

    fn many(count: usize) -> Vec<Package> {
        (0..count)
            .map(|i| package(&format!("p{}", i * 7919 % 1000), if i % 40 == 0 { LARGE + i as u64 } else { 9 }))
            .collect()
    }

    fn names(groups: &[Vec<Package>]) -> BTreeSet<Vec<&str>> {
        groups.iter().map(|group| group.iter().map(|p| p.name.as_str()).collect()).collect()
    }

    #[test]
    fn few_packages_have_a_layer_each() {
        let groups = grouped(many(MAX_LAYERS));
        assert_eq!(groups.len(), MAX_LAYERS);
        assert!(groups.iter().all(|group| group.len() == 1));
        assert!(grouped(Vec::new()).is_empty());
    }

    #[test]
    fn many_are_grouped_whatever_their_order_and_large_ones_stay_alone() {
        let (packages, mut turned) = (many(400), many(400));
        turned.reverse();
        let groups = grouped(packages);
        assert_eq!(groups, grouped(turned));
        assert!((MAX_LAYERS - 1..=MAX_LAYERS).contains(&groups.len()), "{}", groups.len());
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 400);
        assert!(groups.iter().all(|group| group.len() == 1 || group.iter().all(|p| p.size < LARGE)));
    }

    #[test]
    fn one_more_or_less_leaves_nearly_all_layers_as_they_are() {
        for count in [3, MAX_LAYERS - 1, MAX_LAYERS, MAX_LAYERS + 1, 150, 400] {
            let before = grouped(many(count));
            for (i, size) in [(1, 9), (2, 9), (3, 9), (4, LARGE * 2), (5, 9)] {
                let mut packages = many(count);
                packages.push(package(&format!("new-{i}"), size));
                let after = grouped(packages);
                let kept = names(&before).intersection(&names(&after)).count();
                assert!(kept + 5 >= before.len().min(after.len()), "{count}: {kept} of {}", before.len());
                if count < MAX_LAYERS {
                    assert_eq!(kept, count, "nothing else changes");
                }
            }
        }
    }

    #[test]
    fn many_large_ones_share_when_they_must() {
        let groups = grouped((0..200).map(|i| package(&format!("l{i}"), LARGE + i)).collect());
        assert!(groups.len() <= MAX_LAYERS, "{}", groups.len());
    }
}
