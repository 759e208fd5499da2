//! Where packages are installed and compiled before they become layers.

use super::{Locked, STEP_LIMIT, disk_quota::DiskQuota, stage::Stage};
use crate::{
    log::BuildLog,
    python::{
        Lock, Target, Uv,
        installed::{self, Bytecode, Installed},
        sandbox::Role,
    },
    store::KnownPackage,
};
use hoistway_kit::{fs::io_error, parallelism::workers, telemetry::within};
use hoistway_model::{Error, Result};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
};
use tracing::info_span;

/// The number of packages that are installed at a time: most of it is waiting for the package index.
const INSTALLS_AT_ONCE: usize = 8;
/// The number of packages' files that are checked at a time: each holds its package's list of files.
const CHECKS_AT_ONCE: usize = 2;
const DOING: &str = "making a directory to install packages in";

/// A package on the stage.
#[derive(Debug)]
pub struct Staged {
    pub installed: Installed,
    /// Its bytecode, if this machine can compile for the target.
    pub bytecode: Option<Bytecode>,
}

impl Staged {
    /// The facts about it that are stored.
    pub fn known(&self) -> KnownPackage {
        KnownPackage { size: self.installed.size.max(1), files: self.installed.file_list() }
    }
}

/// A stage with packages: their wheels in the installer's cache, or directories into which they are installed alone.
/// Work on it that goes on when this is dropped is not wanted any more.
pub struct Staging<'a> {
    uv: &'a Uv,
    target: &'a Target,
    log: &'a BuildLog,
    quota: &'a DiskQuota,
    /// Whoever reads or writes in it on a thread of its own shares it, so that it is not removed before that ends.
    stage: Arc<Stage>,
    /// Where the installer's cache has wheels of this build, by the names of their packages.
    wheels: Mutex<HashMap<String, PathBuf>>,
    /// Unpacked bytes of the packages.
    size: AtomicU64,
    installs: Semaphore,
    checks: Semaphore,
    compilations: Semaphore,
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        self.stage.abandon();
    }
}

impl<'a> Staging<'a> {
    /// An empty stage below `work`, once there is a place for it.
    pub async fn new(
        work: &Path,
        places: &Arc<Semaphore>,
        uv: &'a Uv,
        target: &'a Target,
        log: &'a BuildLog,
        quota: &'a DiskQuota,
    ) -> Result<Self> {
        let place = Arc::clone(places).acquire_owned().await.map_err(|e| Error::internal(DOING, e))?;
        let (work, cache) = (work.to_owned(), uv.use_cache().await);
        let stage =
            spawn_blocking(move || Stage::new(&work, place, cache)).await.map_err(|e| Error::internal(DOING, e))?;
        let stage = Arc::new(stage.map_err(io_error(DOING))?);
        Ok(Self {
            uv,
            target,
            log,
            quota,
            stage,
            wheels: Mutex::default(),
            size: AtomicU64::new(0),
            installs: Semaphore::new(INSTALLS_AT_ONCE),
            checks: Semaphore::new(CHECKS_AT_ONCE),
            compilations: Semaphore::new(workers()),
        })
    }

    /// The work on this stage, which ends with an error when the disk is nearly full: installations are dropped, and
    /// their processes end with them.
    pub async fn while_there_is_room<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            full = self.quota.runs_out() => Err(full),
        }
    }

    /// Has the wheels of packages fetched together.
    pub async fn fetch(&self, packages: &[&Locked]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(packages.len()).unwrap_or(u32::MAX);
        let lock = Lock::parse(&packages.iter().map(|package| package.entry.as_str()).collect::<String>())?;
        let directory = self.directory("links", &lock.digest().hex(), Role::Installer).await?;
        // They share the line to the index.
        let fetching = self.uv.fetch(&lock, &directory, self.target, STEP_LIMIT.saturating_mul(count));
        let found = within(info_span!("build.fetch", hoistway.build.packages = count), fetching).await;
        self.wheels().extend(found.inspect_err(|_| self.log.write_line("  they cannot be fetched"))?);
        Ok(())
    }

    fn wheels(&self) -> MutexGuard<'_, HashMap<String, PathBuf>> {
        self.wheels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A package, compiled; nothing when its marker does not hold here.
    pub async fn package(&self, package: &Locked) -> Result<Option<Arc<Staged>>> {
        match self.installed(package).await? {
            Some(installed) => self.compiled(installed).await.map(Some),
            None => Ok(None),
        }
    }

    /// Takes stock of a package's wheel, or else installs it into a directory of its own, so that no package can touch
    /// another's files; nothing when its marker does not hold here.
    pub async fn installed(&self, package: &Locked) -> Result<Option<Installed>> {
        let Some(installed) = self.install(package).await? else { return Ok(None) };
        let size = installed.size;
        self.quota.allows(size + self.size.fetch_add(size, Ordering::Relaxed))?;
        Ok(Some(installed))
    }

    /// Compiles a package.
    pub async fn compiled(&self, installed: Installed) -> Result<Arc<Staged>> {
        let compiling = info_span!("build.compile", hoistway.build.package = installed.name);
        let bytecode = within(compiling, self.compile(&installed)).await?;
        Ok(Arc::new(Staged { installed, bytecode }))
    }

    async fn install(&self, package: &Locked) -> Result<Option<Installed>> {
        let Locked { name, version, .. } = package;
        let wheel = self.wheels().get(name).cloned();
        let fetched = match wheel {
            Some(wheel) => self.take_stock(wheel, name).await.unwrap_or_else(|e| {
                // That is said with the reason when it is installed.
                tracing::debug!(cause = e.chain(), "the wheel of {name} is not taken as it is: {e}");
                None
            }),
            None => None,
        };
        let installed = match fetched {
            Some(fetched) => Some(fetched),
            None => self.take_stock(self.install_alone(package).await?, name).await?,
        };
        if installed.is_some() {
            self.log.write_line(format!("  {name} {version}"));
        }
        Ok(installed)
    }

    /// Installs a package; its directory.
    async fn install_alone(&self, Locked { name, version, entry, .. }: &Locked) -> Result<PathBuf> {
        let _slot = slot(&self.installs).await?;
        let directory = self.directory("site", name, Role::Installer).await?;
        let report = |line: &str| self.log.write_line(line);
        let lock = Lock::parse(entry)?;
        let installing = self.uv.install(&lock, &directory, self.target, STEP_LIMIT, &report);
        let installed = within(info_span!("build.install", hoistway.build.package = name), installing).await;
        installed.inspect_err(|_| self.log.write_line(format!("  {name} {version} was not installed")))?;
        Ok(directory)
    }

    async fn take_stock(&self, directory: PathBuf, name: &str) -> Result<Option<Installed>> {
        let (package, stage) = (name.to_owned(), Arc::clone(&self.stage));
        let _slot = slot(&self.checks).await?;
        let taking = spawn_blocking(move || {
            let _stage = stage;
            installed::take_stock(&directory, &package)
        });
        let failed = |e| Error::internal("taking stock of an installed package", e);
        within(info_span!("build.check", hoistway.build.package = name), async { taking.await.map_err(failed)? }).await
    }

    /// Compiles a package, if this machine can.
    async fn compile(&self, package: &Installed) -> Result<Option<Bytecode>> {
        let Some(compiler) = self.target.compiler() else { return Ok(None) };
        let _slot = slot(&self.compilations).await?;
        let out = self.directory("bytecode", &package.name, Role::Reader).await?;
        let compiling = installed::compile(package, &out, compiler, self.uv.sandbox(), workers(), STEP_LIMIT);
        compiling.await.map(Some)
    }

    /// A new directory for something of a package, which a program of this kind writes.
    async fn directory(&self, what: &str, package: &str, role: Role) -> Result<PathBuf> {
        let path = self.stage.path().join(what).join(package);
        let (made, sandbox) = (path.clone(), self.uv.sandbox().clone());
        let making = spawn_blocking(move || sandbox.make_dir(&made, role)).await;
        making.map_err(|e| Error::internal(DOING, e))?.map_err(io_error(DOING))?;
        Ok(path)
    }

    /// The stage, which stays as long as this is shared.
    pub fn stage(&self) -> &Arc<Stage> {
        &self.stage
    }
}

async fn slot(of: &Semaphore) -> Result<SemaphorePermit<'_>> {
    of.acquire().await.map_err(|e| Error::internal("waiting for other packages", e))
}
