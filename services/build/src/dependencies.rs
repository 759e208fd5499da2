//! Dependency layers: requirements become a kept lock, a lock becomes a layer that all agents share.

use crate::{
    layer::{Layer, LayerBuilder},
    log::BuildLog,
    python::{Interpreter, Lock, Uv, site},
    registry::BlobStore,
    store::{KeptLock, Store},
};
use hoistway_model::{Digest, Error, Name, Result, digest::Hasher, image::SITE_DIR, source::Requirements};
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::Mutex;

/// How long resolving, installing or compiling may take, each; the build as a whole has a limit of its own.
const STEP_LIMIT: Duration = Duration::from_secs(300);
/// Part of a layer's key: raised when the same lock would be laid out differently.
const LAYOUT: &[u8] = b"site-packages/1";

/// What makes dependency layers.
pub struct Dependencies {
    /// Where packages are installed before they are a layer; emptied at start.
    work: PathBuf,
    uv: Uv,
    interpreter: Interpreter,
    blobs: BlobStore,
    /// One maker for each layer at a time; the others wait and find it made.
    making: StdMutex<HashMap<Digest, Weak<Mutex<()>>>>,
}

/// A layer, and the lock to be kept if these requirements were resolved just now.
pub struct Found {
    pub layer: Layer,
    pub new_lock: Option<KeptLock>,
}

impl Dependencies {
    /// Works below `dir`, the service's directory. What an earlier process left half done is removed.
    pub fn open(dir: &std::path::Path, interpreter: Interpreter, blobs: BlobStore) -> Result<Self> {
        let failed = |e: io::Error| Error::internal("preparing the build directory", e);
        let all = dir.join("work");
        std::fs::create_dir_all(&all).map_err(failed)?;
        // An installer of a killed process may still write into its directory, so each process has one of its own;
        // what cannot be removed now is removed at the next start.
        for old in std::fs::read_dir(&all).map_err(failed)?.flatten() {
            let _ = std::fs::remove_dir_all(old.path());
        }
        let work = tempfile::Builder::new().prefix("").tempdir_in(&all).map_err(failed)?.keep();
        Ok(Self { work, uv: Uv::new(dir), interpreter, blobs, making: StdMutex::default() })
    }

    /// Whether packages can be installed at all; the error says in one line what is missing.
    pub fn available(&self) -> Result<()> {
        self.uv.available(&self.interpreter)
    }

    /// The layer of an agent's requirements. They are resolved once and keep their versions until their text changes
    /// or `refresh` asks for newer ones.
    pub async fn layer(
        &self,
        agent: &Name,
        requirements: &Requirements,
        refresh: bool,
        store: &Store,
        log: &BuildLog,
    ) -> Result<Found> {
        let kept =
            if refresh { None } else { store.lock(agent, requirements.digest(), &self.interpreter.identity).await? };
        let (lock, new_lock) = match kept {
            Some(text) => (Lock::parse(&text)?, None),
            None => {
                log.say(format!("resolving {}", requirements.text().trim_end().replace('\n', ", ")));
                let report = |line: &str| log.say(line);
                let lock = self.uv.resolve(requirements, &self.interpreter, STEP_LIMIT, &report).await?;
                let keep = KeptLock {
                    requirements: requirements.digest(),
                    interpreter: self.interpreter.identity.clone(),
                    text: lock.text().to_owned(),
                };
                (lock, Some(keep))
            }
        };
        let inputs = self.inputs(&lock);
        let one_at_a_time = self.maker(inputs);
        let _making = one_at_a_time.lock().await;
        if let Some(layer) = store.layer(inputs).await?.filter(|layer| self.blobs.contains(&layer.digest)) {
            log.dependency_layer(true);
            log.say(format!("dependency layer {} of {} packages is there", layer.digest, lock.packages().len()));
            return Ok(Found { layer, new_lock });
        }
        log.dependency_layer(false);
        let layer = self.make(&lock, log).await?;
        // Recorded at once, so that a build that waits for the same layer finds it.
        store.remember_layer(inputs, layer).await?;
        Ok(Found { layer, new_lock })
    }

    /// Installs, normalises, compiles and packs.
    async fn make(&self, lock: &Lock, log: &BuildLog) -> Result<Layer> {
        for (name, version) in lock.packages() {
            log.say(format!("  {name} {version}"));
        }
        log.say(format!("installing {} packages", lock.packages().len()));
        let failed = |e: io::Error| Error::internal("making a directory to install packages in", e);
        let work = self.work.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let scratch = tempfile::tempdir_in(work)?;
            let target = scratch.path().join("site-packages");
            std::fs::create_dir(&target)?;
            Ok((scratch, target))
        });
        let (scratch, target) =
            prepared.await.map_err(|e| Error::internal("preparing an installation", e))?.map_err(failed)?;
        let report = |line: &str| log.say(line);
        self.uv.install(lock, &target, &self.interpreter, STEP_LIMIT, &report).await?;
        site::finish(&target, &self.interpreter, STEP_LIMIT).await?;
        let blobs = self.blobs.clone();
        let packing = tokio::task::spawn_blocking(move || {
            let file = scratch.path().join("layer.tar.gz");
            let mut builder = LayerBuilder::new();
            builder.tree(SITE_DIR.trim_start_matches('/'), &target)?;
            let layer = builder.write_to(&file)?;
            blobs.adopt_file(file, &layer.digest)?;
            Ok::<_, Error>(layer)
        });
        let layer = packing.await.map_err(|e| Error::internal("packing the dependency layer", e))??;
        log.say(format!("dependency layer {}, {} bytes", layer.digest, layer.size));
        Ok(layer)
    }

    /// What decides the bytes of a dependency layer.
    fn inputs(&self, lock: &Lock) -> Digest {
        let mut inputs = Hasher::new();
        inputs.member(LAYOUT);
        inputs.member(lock.digest().to_string().as_bytes());
        inputs.member(self.interpreter.identity.as_bytes());
        inputs.member(self.interpreter.platform().as_bytes());
        inputs.finish()
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
