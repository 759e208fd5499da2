//! The way of packages from a lock into layers: a group of them is fetched while the one before is compiled and packed.

use super::{
    Dependencies, Locked,
    layer_grouping::{self, MAX_LAYERS, Package},
    layers::{PackedLayer, Packer},
    staging::{Staged, Staging},
};
use crate::{
    image::ImageLayer,
    log::BuildLog,
    python::{
        Target, Uv,
        installed::{self, Installed},
    },
    store::{KnownPackage, PackageSet, Store},
};
use futures_util::future::{try_join, try_join_all};
use hoistway_model::{Digest, Error, Result, image::LAYER_HISTORY};
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::task::spawn_blocking;

/// The number of files of several packages that are named in the log.
const MAX_CLASHES: usize = 20;
/// The longest list of packages in the history of an image's layer.
const MAX_HISTORY: usize = 300;
const PACKING: &str = "packing packages";
/// The most packages that are fetched together. Whether they are larger than is allowed is known afterwards.
const MAX_FETCHED: usize = 12;

impl Dependencies {
    /// Makes the layers that are not there yet; tells for each package whether something of it is in them.
    pub(super) async fn make(
        &self,
        uv: &Uv,
        locked: &[Locked],
        target: &Target,
        store: &Store,
        log: &BuildLog,
    ) -> Result<(PackageSet, HashMap<Digest, bool>)> {
        let mut known = store.packages(locked.iter().map(|package| package.key)).await?;
        let staging = Staging::new(&self.work, &self.stages, uv, target, log, &self.quota).await?;
        let packer = Packer::new(self.blobs.clone(), Arc::clone(staging.stage()), self.unpacked.get().cloned());
        // Grouping depends on the sizes of packages, so those that nobody has seen yet come first.
        let unseen: Vec<&Locked> = locked.iter().filter(|package| !known.contains_key(&package.key)).collect();
        announce(log, unseen.len());
        let are_alone = locked.len() <= MAX_LAYERS;
        // The next ones are fetched while these are compiled.
        let arriving = async {
            let (mut arrived, mut fetched) = (Vec::new(), Vec::new());
            for next in unseen.chunks(fetched_at_once(unseen.len())) {
                let compiling = arrive(fetched, &staging, &packer, are_alone);
                let (next, done) = try_join(fetch(next, &staging), compiling).await?;
                fetched = next;
                arrived.extend(done);
            }
            arrived.extend(arrive(fetched, &staging, &packer, are_alone).await?);
            Ok(arrived)
        };
        let arrived = staging.while_there_is_room(arriving).await?;
        let mut seen: Vec<(Digest, KnownPackage)> = Vec::new();
        let (mut staged, mut packed) = (HashMap::new(), Vec::new());
        for Arrived { key, package, layer } in arrived {
            seen.push((key, package.as_deref().map(Staged::known).unwrap_or_default()));
            staged.extend(package.map(|package| (key, package)));
            packed.extend(layer);
        }
        known.extend(seen.iter().cloned());
        let installed = known.iter().map(|(key, known)| (*key, known.size > 0)).collect();

        let packages = locked.iter().filter_map(|package| {
            // One whose marker does not hold here is in the lock and not installed.
            let size = known.get(&package.key).map(|known| known.size).filter(|size| *size > 0)?;
            let (name, version) = (package.name.clone(), package.version.clone());
            Some(Package { name, version, key: package.key, size })
        });
        let groups = layer_grouping::grouped(packages.collect());
        let keys: Vec<Digest> = groups.iter().map(|group| layer_grouping::key(group)).collect();
        let mut made = store.layers(keys.iter().copied()).await?;
        made.retain(|_, layer| self.blobs.contains(&layer.digest));
        keys.iter().for_each(|key| log.dependency_layer(made.contains_key(key)));

        // Those that are packed as they arrived are missing no more; the others' packages may be known, and not here.
        let ready: HashSet<Digest> = packed.iter().map(PackedLayer::key).collect();
        let missing = keys.iter().zip(&groups).filter(|(key, _)| !made.contains_key(key) && !ready.contains(key));
        let missing: Vec<(Digest, &[Package])> = missing.map(|(key, group)| (*key, &group[..])).collect();
        let entries: HashMap<Digest, &Locked> = locked.iter().map(|package| (package.key, package)).collect();
        let members = missing.iter().flat_map(|(_, group)| group.iter());
        let unstaged = members.filter(|package| !staged.contains_key(&package.key));
        let unstaged: Vec<&Locked> = unstaged.filter_map(|package| entries.get(&package.key).copied()).collect();
        announce(log, unstaged.len());
        let (entries, staged, stage, pack) = (&entries, &staged, &staging, &packer);
        let packing = async {
            stage.fetch(&unstaged).await?;
            let packing = missing.into_iter().map(|(key, group)| async move {
                let members = group.iter().map(|package| async move {
                    if let Some(staged) = staged.get(&package.key) {
                        return Ok(Arc::clone(staged));
                    }
                    let lacks = || Error::internal(PACKING, format!("{} is missing", package.name));
                    let entry = entries.get(&package.key).ok_or_else(lacks)?;
                    stage.package(entry).await?.ok_or_else(lacks)
                });
                pack.pack(key, try_join_all(members).await?).await
            });
            try_join_all(packing).await
        };
        packed.extend(staging.while_there_is_room(packing).await?);
        let new = packer.store(packed).await?;
        log.write_line(format!(
            "{} packages in {} layers, {} of them new with {} bytes",
            locked.len(),
            groups.len(),
            new.len(),
            new.iter().map(|(_, layer)| layer.size).sum::<u64>()
        ));
        drop((packer, staging));
        store.remember_packages(&seen, &new).await?;
        made.extend(new);
        let layers = keys.iter().zip(&groups).map(|(key, group)| {
            let layer = made.get(key).copied();
            let layer = layer.ok_or_else(|| Error::internal("making dependency layers", "one is missing"))?;
            Ok(ImageLayer { layer, created_by: history(group) })
        });
        let layers = layers.collect::<Result<_>>()?;
        // Higher layers last, as in the image.
        let names: HashMap<Digest, String> = locked.iter().map(|package| (package.key, package.name.clone())).collect();
        let order: Vec<Digest> = groups.iter().flatten().map(|package| package.key).collect();
        let clashes = spawn_blocking(move || {
            let files = order.iter().filter_map(|key| Some((names.get(key)?.as_str(), &known.get(key)?.files)));
            let clashes = installed::clashes(files).into_iter().take(MAX_CLASHES);
            clashes
                .map(|(lower, higher, file)| format!("{lower} and {higher} both have {file}: {higher}'s is used"))
                .collect()
        });
        let clashes = clashes.await.map_err(|e| Error::internal("comparing packages", e))?;
        Ok((PackageSet { layers, clashes }, installed))
    }
}

/// A package that nobody had seen before.
struct Arrived {
    key: Digest,
    /// Nothing where its marker does not hold.
    package: Option<Arc<Staged>>,
    /// Its layer, if it is sure to have one alone.
    layer: Option<PackedLayer>,
}

/// The number of packages that are fetched together, so that all but the last groups are of one size.
fn fetched_at_once(packages: usize) -> usize {
    packages.div_ceil(packages.div_ceil(MAX_FETCHED).max(1)).max(1)
}

/// Fetches packages, and takes stock of them; of one whose marker does not hold there is nothing.
async fn fetch<'a>(packages: &[&'a Locked], staging: &Staging<'_>) -> Result<Vec<(&'a Locked, Option<Installed>)>> {
    staging.fetch(packages).await?;
    let installed = try_join_all(packages.iter().map(|package| staging.installed(package))).await?;
    Ok(packages.iter().copied().zip(installed).collect())
}

/// Compiles packages, and packs each at once where it is sure to have a layer alone.
async fn arrive(
    mut packages: Vec<(&Locked, Option<Installed>)>,
    staging: &Staging<'_>,
    packer: &Packer,
    are_alone: bool,
) -> Result<Vec<Arrived>> {
    // The largest take longest, and should not be alone at the end.
    packages.sort_by_key(|(_, installed)| Reverse(installed.as_ref().map(|installed| installed.files.len())));
    let arriving = packages.into_iter().map(|(&Locked { key, .. }, installed)| async move {
        let Some(installed) = installed else { return Ok(Arrived { key, package: None, layer: None }) };
        let staged = staging.compiled(installed).await?;
        let layer = match are_alone {
            true => Some(packer.pack(layer_grouping::key_of([key]), vec![Arc::clone(&staged)]).await?),
            false => None,
        };
        Ok(Arrived { key, package: Some(staged), layer })
    });
    try_join_all(arriving).await
}

fn announce(log: &BuildLog, packages: usize) {
    if packages > 0 {
        log.write_line(format!("installing {packages} packages"));
    }
}

/// The line about a group in an image's history.
fn history(group: &[Package]) -> String {
    let mut text = format!("{LAYER_HISTORY}packages");
    for (i, Package { name, version, .. }) in group.iter().enumerate() {
        if text.len() > MAX_HISTORY {
            return format!("{text} and {} more", group.len() - i);
        }
        text.push_str(&format!("{} {name} {version}", if i > 0 { "," } else { "" }));
    }
    text
}
