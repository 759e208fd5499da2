//! Unpacked layers on disk: `DIR/<hex>/`, each there once for all revisions that use it. Packages that come in several
//! layers are put together in `DIR/site-<hex>/`.

use super::{
    site_packages,
    unpack::{Bounds, Expected, Unreadable, seal, unpack},
};
use crate::launcher::procfs;
use bytes::Bytes;
use hoistway_kit::fs::{free_bytes, private_dir};
use hoistway_model::{
    Digest, Error, Result,
    digest::Hasher,
    image::{APP_DIR, RUNNER_PATH, SITE_DIR},
};
use std::{
    collections::{HashMap, HashSet},
    fs::Permissions,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// The beginning of names of directories that are not layers: not finished yet, or on their way out.
const TEMPORARY: &str = ".tmp-";
/// What follows it in the name of one that is being removed.
const GONE: &str = "gone-";
/// The beginning of names of directories with the packages of several layers.
const SITE: &str = "site-";
/// The file that says which start of the machine the layers were unpacked in.
const BOOT: &str = ".boot";
/// The time for which a layer that was made on this machine stays without a revision that uses it: as long as the deploy
/// that it is for may take.
const ADOPTED_FOR: Duration = Duration::from_secs(15 * 60);

/// The layers of this machine.
#[derive(Debug, Clone)]
pub struct LayerStore {
    dir: Arc<PathBuf>,
    bounds: Bounds,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of revisions that use a layer. What is not here may be deleted.
    pins: HashMap<Digest, usize>,
    /// The layers whose packages are together in a directory. It stays as long as revisions use these, so that an agent
    /// that was stopped does not wait for thousands of links.
    sites: HashMap<Digest, Vec<Digest>>,
    /// When layers were made on this machine, ahead of the revisions that use them.
    adopted: HashMap<Digest, Instant>,
    /// Who unpacks a layer: one at a time.
    turns: HashMap<Digest, Weak<tokio::sync::Mutex<()>>>,
}

/// Where the parts of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The user's source.
    pub app_dir: PathBuf,
    /// Dependencies, in the order of search: one directory, or none.
    pub site_dirs: Vec<PathBuf>,
    /// The directories of the layers whose packages these are, topmost first.
    pub site_layers: Vec<PathBuf>,
    /// The runner.
    pub runner: PathBuf,
}

/// Keeps layers on disk while it lives.
#[derive(Debug)]
pub struct Pins {
    layers: Vec<Digest>,
    state: Arc<Mutex<State>>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        for layer in &self.layers {
            if let Some(count) = state.pins.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(layer);
                }
            }
        }
    }
}

impl LayerStore {
    /// The layers in `dir`, rid of what a process that was killed left half done. Blocks.
    pub fn open(dir: &Path, bounds: Bounds) -> Result<Self> {
        private_dir(dir).map_err(hoistway_kit::fs::path_error("making", dir))?;
        let store = Self { dir: Arc::new(dir.to_owned()), bounds, state: Arc::default() };
        store.clean();
        store.distrust_after_boot()?;
        Ok(store)
    }

    /// Keeps layers from being deleted, whether they are there yet or not.
    pub fn pin(&self, layers: &[Digest]) -> Pins {
        let mut state = lock(&self.state);
        for layer in layers {
            *state.pins.entry(*layer).or_default() += 1;
        }
        Pins { layers: layers.to_vec(), state: Arc::clone(&self.state) }
    }

    /// The lock that whoever unpacks a layer holds.
    pub fn turn(&self, layer: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = lock(&self.state);
        if let Some(turn) = state.turns.get(layer).and_then(Weak::upgrade) {
            return turn;
        }
        state.turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        state.turns.insert(*layer, Arc::downgrade(&turn));
        turn
    }

    /// Whether a layer is there.
    pub async fn has(&self, layer: &Digest) -> bool {
        tokio::fs::try_exists(self.path(layer)).await.unwrap_or(false)
    }

    /// Unpacks the layer whose bytes come through `blob`. The caller holds its [`Self::turn`].
    pub async fn unpack(&self, expected: Expected, blob: mpsc::Receiver<io::Result<Bytes>>) -> Result<(), Unreadable> {
        let (dir, bounds, target) = (Arc::clone(&self.dir), self.bounds, self.path(&expected.blob));
        let unpacked = spawn_blocking(move || {
            let temp = temporary(&dir)?;
            let unpacked = unpack(Chunks { blob, chunk: Bytes::new() }, &temp, expected, bounds);
            let named = unpacked.and_then(|()| Ok(name_whole(&temp, &target)?));
            named.inspect_err(|_| delete(&temp))
        });
        match unpacked.await {
            Ok(result) => result,
            Err(e) => Err(Unreadable::Disk(io::Error::other(e))),
        }
    }

    /// The size limits of a layer.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The free bytes of the disk. Blocks.
    pub(super) fn free(&self) -> io::Result<u64> {
        free_bytes(&self.dir)
    }

    /// A new, empty directory for a layer that is not complete. Blocks.
    pub(super) fn temporary(&self) -> io::Result<PathBuf> {
        temporary(&self.dir)
    }

    /// Removes such a directory. Blocks.
    pub(super) fn discard(&self, temporary: &Path) {
        delete(temporary);
    }

    /// Makes such a directory the layer, which stays for a while even if no revision uses it yet. Blocks.
    pub(super) fn adopt(&self, temporary: &Path, layer: &Digest) -> io::Result<()> {
        let turn = self.turn(layer);
        let _turn = turn.blocking_lock();
        lock(&self.state).adopted.insert(*layer, Instant::now());
        let target = self.path(layer);
        if target.is_dir() {
            delete(temporary);
            return Ok(());
        }
        name_whole(temporary, &target)
    }

    /// Finds the parts of an image in its layers, lowest first; nothing if one is missing. What is kept on disk for
    /// them beside the layers is kept as long as the pins live.
    pub async fn tree(&self, layers: &[Digest]) -> Result<Option<(Tree, Pins)>> {
        const DOING: &str = "looking at an image's layers";
        // Files of a higher layer hide those of a lower one, so they are searched from the top.
        let stack: Vec<(Digest, PathBuf)> = layers.iter().rev().map(|l| (*l, self.path(l))).collect();
        let found = spawn_blocking(move || {
            let find = |path: &'static str, is: fn(&Path) -> bool| {
                let path = path.trim_start_matches('/');
                stack.iter().map(move |(digest, layer)| (*digest, layer.join(path))).filter(move |(_, p)| is(p))
            };
            let (_, app_dir) = find(APP_DIR, Path::is_dir).next()?;
            let (_, runner) = find(RUNNER_PATH, Path::is_file).next()?;
            let sites: Vec<(Digest, PathBuf)> = find(SITE_DIR, Path::is_dir).collect();
            Some((app_dir, runner, sites))
        });
        let Some((app_dir, runner, sites)) = found.await.map_err(|e| Error::internal(DOING, e))? else {
            return Ok(None);
        };
        let site_layers: Vec<PathBuf> = sites.iter().map(|(_, path)| path.clone()).collect();
        let (site_dirs, pins) = match &sites[..] {
            [] | [_] => (site_layers.clone(), self.pin(&[])),
            _ => {
                let (site, pins) = self.site(sites).await?;
                (vec![site], pins)
            }
        };
        Ok(Some((Tree { app_dir, site_dirs, site_layers, runner }, pins)))
    }

    /// The packages of several layers, topmost first, in one directory.
    async fn site(&self, layers: Vec<(Digest, PathBuf)>) -> Result<(PathBuf, Pins)> {
        const DOING: &str = "putting an image's packages together";
        let mut key = Hasher::new();
        layers.iter().for_each(|(digest, _)| key.member(digest.to_string().as_bytes()));
        let key = key.finish();
        let pins = self.pin(&[key]);
        lock(&self.state).sites.insert(key, layers.iter().map(|(digest, _)| *digest).collect());
        let turn = self.turn(&key);
        let _turn = turn.lock().await;
        let (dir, target) = (Arc::clone(&self.dir), self.dir.join(format!("{SITE}{}", key.hex())));
        let made = spawn_blocking(move || {
            if target.is_dir() {
                return Ok(target);
            }
            let temp = temporary(&dir)?;
            let paths: Vec<PathBuf> = layers.into_iter().map(|(_, path)| path).collect();
            let merged = site_packages::merge(&paths, &temp).and_then(|()| seal(&temp, true));
            let named = merged.and_then(|()| name_whole(&temp, &target));
            named.inspect_err(|_| delete(&temp)).map(|()| target)
        });
        let made = made.await.map_err(|e| Error::internal(DOING, e))?.map_err(|e| Error::internal(DOING, e))?;
        Ok((made, pins))
    }

    /// The layers that are there. Blocks.
    pub fn list(&self) -> HashSet<Digest> {
        self.named("").into_iter().map(|(digest, _)| digest).collect()
    }

    /// The directories whose name is `prefix` and a digest.
    fn named(&self, prefix: &str) -> Vec<(Digest, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(&*self.dir) else { return Vec::new() };
        let digest = |name: &str| format!("sha256:{}", name.strip_prefix(prefix)?).parse().ok();
        entries.flatten().filter_map(|e| Some((digest(e.file_name().to_str()?)?, e.path()))).collect()
    }

    /// Deletes what no revision uses. Not to be awaited by anybody who is waited for: it can take its time.
    pub async fn sweep(&self) {
        let store = self.clone();
        if let Err(e) = spawn_blocking(move || store.sweep_now()).await {
            tracing::warn!("deleting unused layers: {e}");
        }
    }

    fn sweep_now(&self) {
        lock(&self.state).adopted.retain(|_, when| when.elapsed() < ADOPTED_FOR);
        for (digest, path) in self.named(SITE).into_iter().chain(self.named("")) {
            let trash = self.dir.join(format!("{TEMPORARY}gone-{}", digest.hex()));
            {
                // Whoever wants it from now on pins it first, and then finds it gone.
                let mut state = lock(&self.state);
                let is_pinned = |digest| state.pins.contains_key(digest);
                let has_layers = state.sites.get(&digest).is_some_and(|layers| layers.iter().all(is_pinned));
                let is_used = is_pinned(&digest) || has_layers || state.adopted.contains_key(&digest);
                if is_used || std::fs::rename(&path, &trash).is_err() {
                    continue;
                }
                state.sites.remove(&digest);
            }
            delete(&trash);
        }
    }

    fn clean(&self) {
        let Ok(entries) = std::fs::read_dir(&*self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(rest) = name.strip_prefix(TEMPORARY) {
                // A thread of an installation that is just ending may still give it its name: then it is whole, and stays.
                let gone = self.dir.join(format!("{TEMPORARY}{GONE}{}", rest.trim_start_matches(GONE)));
                if std::fs::rename(entry.path(), &gone).is_ok() {
                    delete(&gone);
                }
            }
        }
    }

    /// Forgets all layers if the machine was started again since they were unpacked: they are not flushed to disk, so
    /// after a power cut they may have holes. They are pulled again.
    fn distrust_after_boot(&self) -> Result<()> {
        let failed = |e: io::Error| Error::internal("looking after the unpacked layers", e);
        let (note, boot) = (self.dir.join(BOOT), procfs::boot_id().map_err(failed)?);
        if std::fs::read_to_string(&note).is_ok_and(|noted| noted == boot) {
            return Ok(());
        }
        for entry in std::fs::read_dir(&*self.dir).map_err(failed)?.flatten() {
            delete(&entry.path());
        }
        std::fs::write(note, boot).map_err(failed)
    }

    fn path(&self, layer: &Digest) -> PathBuf {
        self.dir.join(layer.hex())
    }
}

/// Gives a whole layer its name. Nothing can be changed in it from then on.
fn name_whole(temporary: &Path, target: &Path) -> io::Result<()> {
    std::fs::set_permissions(temporary, Permissions::from_mode(0o555))?;
    std::fs::rename(temporary, target)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn temporary(dir: &Path) -> io::Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(dir)?.keep())
}

/// Deletes a tree whose directories are read-only.
fn delete(dir: &Path) {
    fn open_up(dir: &Path) -> io::Result<()> {
        std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open_up(&entry.path())?;
            }
        }
        Ok(())
    }
    if let Err(e) = open_up(dir).and_then(|()| std::fs::remove_dir_all(dir)) {
        tracing::warn!("deleting {}: {e}", dir.display());
    }
}

/// Chunks from the asynchronous side, read on a blocking thread.
struct Chunks {
    blob: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.blob.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
