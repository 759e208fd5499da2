//! Unpacked layers on disk: `DIR/<hex>/`, each there once for all revisions that use it.

use super::unpack::{Bounds, Expected, Unreadable, unpack};
use crate::launcher::procfs;
use bytes::Bytes;
use hoistway_kit::fs::private_dir;
use hoistway_model::{
    Digest, Error, Result,
    image::{APP_DIR, RUNNER_PATH, SITE_DIR},
};
use std::{
    collections::{HashMap, HashSet},
    fs::Permissions,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// The beginning of names of directories that are not layers: not finished yet, or on their way out.
const TEMPORARY: &str = ".tmp-";
/// The file that says which start of the machine the layers were unpacked in.
const BOOT: &str = ".boot";

/// The layers of this machine.
#[derive(Debug, Clone)]
pub struct LayerStore {
    dir: Arc<PathBuf>,
    bounds: Bounds,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// How many revisions use a layer. What is not here may be deleted.
    pins: HashMap<Digest, usize>,
    /// Who unpacks a layer: one at a time.
    turns: HashMap<Digest, Weak<tokio::sync::Mutex<()>>>,
}

/// Where the parts of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The user's source.
    pub app_dir: PathBuf,
    /// Dependencies, in the order of search.
    pub site_dirs: Vec<PathBuf>,
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
        private_dir(dir).map_err(|e| Error::internal(&format!("making {}", dir.display()), e))?;
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
            let temp = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&*dir)?;
            let unpacked = unpack(Chunks { blob, chunk: Bytes::new() }, temp.path(), expected, bounds);
            let temp = temp.keep();
            if let Err(e) = unpacked.and_then(|()| Ok(std::fs::rename(&temp, &target)?)) {
                delete(&temp);
                return Err(e);
            }
            Ok(std::fs::set_permissions(&target, Permissions::from_mode(0o555))?)
        });
        match unpacked.await {
            Ok(result) => result,
            Err(e) => Err(Unreadable::Disk(io::Error::other(e))),
        }
    }

    /// Finds the parts of an image in its layers, lowest first; nothing if one is missing.
    pub async fn tree(&self, layers: &[Digest]) -> Result<Option<Tree>> {
        // What a higher layer has hides what a lower one has, so they are searched from the top.
        let layers: Vec<PathBuf> = layers.iter().rev().map(|l| self.path(l)).collect();
        let found = spawn_blocking(move || {
            let find = |path: &'static str, is: fn(&Path) -> bool| {
                let path = path.trim_start_matches('/');
                layers.iter().map(move |layer| layer.join(path)).filter(move |p| is(p))
            };
            Some(Tree {
                app_dir: find(APP_DIR, Path::is_dir).next()?,
                site_dirs: find(SITE_DIR, Path::is_dir).collect(),
                runner: find(RUNNER_PATH, Path::is_file).next()?,
            })
        });
        found.await.map_err(|e| Error::internal("looking at an image's layers", e))
    }

    /// The layers that are there. Blocks.
    pub fn list(&self) -> HashSet<Digest> {
        let Ok(entries) = std::fs::read_dir(&*self.dir) else { return HashSet::new() };
        entries.flatten().filter_map(|e| format!("sha256:{}", e.file_name().to_str()?).parse().ok()).collect()
    }

    /// Deletes what no revision uses. Not to be awaited by anybody who is waited for: it can take its time.
    pub async fn sweep(&self) {
        let store = self.clone();
        if let Err(e) = spawn_blocking(move || store.sweep_now()).await {
            tracing::warn!("deleting unused layers: {e}");
        }
    }

    fn sweep_now(&self) {
        for layer in self.list() {
            let trash = self.dir.join(format!("{TEMPORARY}gone-{}", layer.hex()));
            {
                // Whoever wants it from now on pins it first, and then finds it gone.
                let state = lock(&self.state);
                if state.pins.contains_key(&layer) || std::fs::rename(self.path(&layer), &trash).is_err() {
                    continue;
                }
            }
            delete(&trash);
        }
    }

    fn clean(&self) {
        let Ok(entries) = std::fs::read_dir(&*self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                delete(&entry.path());
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

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
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
