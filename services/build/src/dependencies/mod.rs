//! Dependency layers: requirements become a kept lock, a lock becomes packages, and each package a layer that all
//! agents share. A requirement more costs the layers of what it brings along and nothing else.

mod disk_quota;
mod layer_grouping;
mod layers;
mod making;
mod resolution;
#[cfg(test)]
mod resolution_tests;
mod stage;
mod staging;

use crate::{
    image::ImageLayer,
    log::BuildLog,
    python::{Interpreter, Lock, Sandbox, Target, Uv, installed, is_gone},
    referrers,
    registry::BlobStore,
    store::{KeptLock, Store},
};
use disk_quota::DiskQuota;
use hoistway_kit::telemetry;
use hoistway_model::{
    Code, Digest, Error, Name, Result, digest::Hasher, source::Requirements, unpacked_layers::UnpackedLayers,
};
use resolution::Resolution;
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex as StdMutex, OnceLock, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::{Mutex, Semaphore};
use tracing::Span;

/// The time that resolving, and fetching or compiling one package may take, each; the build as a whole has a limit of
/// its own.
const STEP_LIMIT: Duration = Duration::from_secs(300);
/// Part of a layer's key: raised when the same package would be laid out differently.
const LAYOUT: &[u8] = b"packages/3";
/// The remedy for packages of an earlier deploy that cannot be installed.
const REFRESH: &str = "some versions are those of an earlier deploy, and the index may not have them any more: \
                       ?refresh=true (hoistway deploy --refresh) resolves all requirements again";
/// The number of directories with packages that may be there beside those of builds, because they are being removed.
const REMOVED_AT_ONCE: usize = 2;

/// Makes dependency layers.
pub struct Dependencies {
    /// Where packages are installed before they are layers; emptied at start.
    work: PathBuf,
    uv: Arc<Uv>,
    interpreter: Interpreter,
    blobs: BlobStore,
    quota: DiskQuota,
    stages: Arc<Semaphore>,
    /// Where new layers are unpacked as well, once it is known.
    unpacked: Arc<OnceLock<Arc<dyn UnpackedLayers>>>,
    /// One maker for each set of packages at a time; the others wait and find it made.
    making: StdMutex<HashMap<Digest, Weak<Mutex<()>>>>,
}

/// Layers, lowest first, the packages in them, and the lock that they are of.
pub struct Found {
    pub layers: Vec<ImageLayer>,
    pub packages: Vec<referrers::Package>,
    pub lock: KeptLock,
}

/// A package of a lock.
#[derive(Debug, Clone)]
struct Locked {
    /// Normalised, without extras.
    name: String,
    version: String,
    /// A digest of everything that decides its files.
    key: Digest,
    /// A lock of it alone.
    entry: String,
}

impl Dependencies {
    /// Works below `dir`, the service's directory, for so many builds at a time; the packages of a build have
    /// `max_unpacked` bytes at most. What an earlier process left half done is removed.
    pub fn open(
        dir: &Path,
        uv: Arc<Uv>,
        interpreter: Interpreter,
        blobs: BlobStore,
        max_unpacked: u64,
        builds: usize,
    ) -> Result<Self> {
        let failed = |e: io::Error| Error::internal("preparing the build directory", e);
        let all = dir.join("work");
        std::fs::create_dir_all(&all).map_err(failed)?;
        // An installer of a killed process may still write into its directory, so each process has one of its own;
        // what cannot be removed now is removed at the next start.
        for old in std::fs::read_dir(&all).map_err(failed)?.flatten() {
            let _ = std::fs::remove_dir_all(old.path());
        }
        let work = tempfile::Builder::new().prefix("").tempdir_in(&all).map_err(failed)?.keep();
        // Files below it are opened without links on the way.
        let work = work.canonicalize().map_err(failed)?;
        uv.remove_leftovers();
        let unpacked = Arc::default();
        let quota = DiskQuota::new(blobs.clone(), Arc::clone(&unpacked), max_unpacked);
        let stages = Arc::new(Semaphore::new(builds.max(1) + REMOVED_AT_ONCE));
        Ok(Self { work, uv, interpreter, blobs, quota, stages, unpacked, making: StdMutex::default() })
    }

    /// A directory for what is put together before it is stored; emptied at start.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Starts programs.
    pub fn sandbox(&self) -> &Sandbox {
        self.uv.sandbox()
    }

    /// Where new layers are unpacked as well, once it is set.
    pub fn unpacked(&self) -> Arc<OnceLock<Arc<dyn UnpackedLayers>>> {
        Arc::clone(&self.unpacked)
    }

    /// Whether packages can be installed at all; the error says in one line what is missing.
    pub fn available(&self) -> Result<()> {
        self.uv.available(&self.interpreter)
    }

    /// The layers of an agent's requirements. They are resolved once and keep their versions until `refresh` asks
    /// for newer ones, as far as that is possible with other requirements, another Python or another platform.
    pub async fn layers(
        &self,
        agent: &Name,
        requirements: &Requirements,
        refresh: bool,
        target: &Target,
        store: &Store,
        log: &BuildLog,
    ) -> Result<Found> {
        // All programs of the build together have one set of limits.
        let uv = self.uv.for_build().await?;
        let resolution = resolution::lock(agent, requirements, refresh, &uv, target, store, log).await?;
        let Resolution { lock, keep, is_kept, has_former_versions } = resolution;
        let locked = packages(&lock, target);
        let set = key(lock.digest(), target);
        let one_at_a_time = self.maker(set);
        let _making = one_at_a_time.lock().await;
        let kept = store.layer_set(set).await?;
        let kept = kept.filter(|made| made.layers.iter().all(|layer| self.blobs.contains(&layer.layer.digest)));
        let mut installed = store.are_installed(locked.iter().map(|package| package.key)).await?;
        let made = match kept {
            // Whether a package is in the layers may have been forgotten; it is found out by making them again.
            Some(made) if locked.iter().all(|package| installed.contains_key(&package.key)) => {
                made.layers.iter().for_each(|_| log.dependency_layer(true));
                log.write_line(format!("{} packages in {} layers are there", locked.len(), made.layers.len()));
                made
            }
            _ => {
                let mut making = self.make(&uv, &locked, target, store, log).await;
                if let Err(e) = &mut making
                    && has_former_versions
                    && is_gone(e)
                {
                    e.details.push(REFRESH.to_owned());
                }
                if making.as_ref().is_err_and(|e| e.code == Code::InsufficientStorage)
                    && let Err(e) = uv.trim_cache(0).await
                {
                    // Others need the room that half unpacked wheels take in there.
                    tracing::warn!(cause = e.chain(), "{e}");
                }
                let made;
                (made, installed) = making?;
                // Recorded at once, so that a build that waits for the same packages finds them.
                store.remember_set(set, &made).await?;
                made
            }
        };
        let (span, layers) = (Span::current(), log.dependency_layers());
        telemetry::set_attribute(&span, "hoistway.build.lock.kept", is_kept);
        let reused = layers.iter().filter(|reused| **reused).count();
        for (key, count) in [
            ("hoistway.build.packages", locked.len()),
            ("hoistway.build.layers", layers.len()),
            ("hoistway.build.layers.reused", reused),
        ] {
            telemetry::set_attribute(&span, key, i64::try_from(count).unwrap_or(i64::MAX));
        }
        made.clashes.iter().for_each(|clash| log.write_line(clash.clone()));
        let packages = locked.into_iter().filter(|package| installed.get(&package.key) == Some(&true));
        let packages = packages.map(|Locked { name, version, entry, .. }| {
            let files = Lock::hashes(&entry).map(str::to_owned).collect();
            referrers::Package { name, version, files }
        });
        Ok(Found { layers: made.layers, packages: packages.collect(), lock: keep })
    }

    fn maker(&self, inputs: Digest) -> Arc<Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, maker| maker.strong_count() > 0);
        if let Some(maker) = making.get(&inputs).and_then(Weak::upgrade) {
            return maker;
        }
        let maker = Arc::new(Mutex::new(()));
        making.insert(inputs, Arc::downgrade(&maker));
        maker
    }
}

/// The packages of a lock.
fn packages(lock: &Lock, target: &Target) -> Vec<Locked> {
    let locked = lock.pinned().map(|(entry, name, version)| Locked {
        name: installed::normalised(name),
        version: version.to_owned(),
        key: key(Digest::of(entry.as_bytes()), target),
        entry: entry.to_owned(),
    });
    locked.collect()
}

/// A digest of everything that decides the bytes of a locked package.
fn key(locked: Digest, target: &Target) -> Digest {
    let mut inputs = Hasher::new();
    inputs.member(LAYOUT);
    inputs.member(locked.to_string().as_bytes());
    inputs.member(target.layer_identity().as_bytes());
    inputs.member(target.platform().to_string().as_bytes());
    inputs.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::{Interpreter, Libc};

    #[test]
    fn the_key_of_a_package_for_the_host_never_changes() {
        let (host, locked) = (Interpreter::example((3, 11)), Digest::of(b"six==1"));
        let own = key(locked, &Target::host(&host));
        assert_eq!(own.hex(), "e1d8acb94572c356596f1a3c7eba0b4d4bec27761e27281f21798b09b5c79f66");
        let platform = Target::host(&host).platform();
        let of = |version| Target::of_base(&host, version, &platform, Some(Libc::Glibc(2, 36)));
        assert_eq!(of("3.11.9").map(|target| key(locked, &target)), Ok(own));
        assert!(of("3.12.1").is_ok_and(|target| key(locked, &target) != own));
    }
}
