//! Where packages are installed and compiled before they become layers.

use super::{Locked, STEP_LIMIT, disk_quota::DiskQuota};
use crate::{
    log::BuildLog,
    python::{
        Lock, Target, Uv,
        installed::{self, Installed},
        sandbox::Role,
    },
    store::KnownPackage,
};
use futures_util::{StreamExt, stream};
use hoistway_kit::telemetry::within;
use hoistway_model::{Error, Result};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::info_span;

/// The number of packages that are installed at a time: most of it is waiting for the package index.
const AT_ONCE: usize = 8;
/// The number of packages' files that are checked at a time.
const CHECKS_AT_ONCE: usize = 2;
const DOING: &str = "making a directory to install packages in";

/// A scratch directory with installed packages, each in a directory of its own.
pub struct Staging<'a> {
    uv: &'a Uv,
    target: &'a Target,
    log: &'a BuildLog,
    quota: &'a DiskQuota,
    scratch: TempDir,
    packages: BTreeMap<String, Installed>,
    bytecode: HashMap<String, PathBuf>,
    /// For those whose files are checked now: each holds its package's list of files.
    checks: Semaphore,
}

impl<'a> Staging<'a> {
    /// An empty stage below `work`.
    pub async fn new(
        work: &Path,
        uv: &'a Uv,
        target: &'a Target,
        log: &'a BuildLog,
        quota: &'a DiskQuota,
    ) -> Result<Self> {
        let work = work.to_owned();
        let scratch =
            spawn_blocking(move || tempfile::tempdir_in(work)).await.map_err(|e| Error::internal(DOING, e))?;
        let scratch = scratch.map_err(|e| Error::internal(DOING, e))?;
        let (packages, bytecode, checks) = (BTreeMap::new(), HashMap::new(), Semaphore::new(CHECKS_AT_ONCE));
        Ok(Self { uv, target, log, quota, scratch, packages, bytecode, checks })
    }

    /// Installs those of the packages that are not here yet, each into a directory of its own: no package can touch
    /// another's files.
    pub async fn install(&mut self, locked: &[&Locked]) -> Result<()> {
        let missing: Vec<&Locked> = locked.iter().copied().filter(|p| !self.packages.contains_key(&p.name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.log.write_line(format!("installing {} packages", missing.len()));
        let installing = info_span!("build.install", hoistway.build.packages = missing.len());
        let installed = within(installing, self.install_all(missing)).await?;
        self.packages.extend(installed.into_iter().map(|package| (package.name.clone(), package)));
        Ok(())
    }

    /// Installs packages while there is room for them.
    async fn install_all(&self, missing: Vec<&Locked>) -> Result<Vec<Installed>> {
        let deadline = Instant::now() + STEP_LIMIT;
        let mut full = pin!(self.quota.runs_out());
        let installs: Vec<_> = missing.into_iter().map(|package| self.install_alone(package, deadline)).collect();
        let mut installing = pin!(stream::iter(installs).buffer_unordered(AT_ONCE));
        let mut installed = Vec::new();
        let mut size: u64 = self.packages.values().map(|package| package.size).sum();
        loop {
            let next = tokio::select! {
                next = installing.next() => next,
                // The installation is dropped, and its process ends with it.
                full = &mut full => return Err(full),
            };
            let Some(package) = next.transpose()? else { break };
            size += package.as_ref().map_or(0, |package| package.size);
            self.quota.allows(size)?;
            installed.extend(package);
        }
        Ok(installed)
    }

    async fn install_alone(
        &self,
        Locked { name, version, entry, .. }: &Locked,
        deadline: Instant,
    ) -> Result<Option<Installed>> {
        let directory = self.directory("site", name, Role::Installer).await?;
        let report = |line: &str| self.log.write_line(line);
        let left = deadline.saturating_duration_since(Instant::now());
        let lock = Lock::parse(entry)?;
        let installing = self.uv.install(&lock, &directory, self.target, left, &report);
        installing.await.inspect_err(|_| self.log.write_line(format!("  {name} {version} was not installed")))?;
        let package = name.clone();
        let _slot = self.checks.acquire().await.map_err(|e| Error::internal("checking an installed package", e))?;
        let taken = spawn_blocking(move || installed::take_stock(&directory, &package)).await;
        let installed = taken.map_err(|e| Error::internal("taking stock of an installed package", e))??;
        if installed.is_some() {
            self.log.write_line(format!("  {name} {version}"));
        }
        Ok(installed)
    }

    /// Compiles packages that are here, if this machine can.
    pub async fn compile(&mut self, locked: &[&Locked], limit: Duration) -> Result<()> {
        let Some(compiler) = self.target.compiler() else { return Ok(()) };
        let mut outs = Vec::new();
        for package in locked {
            if self.packages.contains_key(&package.name) {
                outs.push((package.name.clone(), self.directory("bytecode", &package.name, Role::Reader).await?));
            }
        }
        let todo: Vec<(&Installed, PathBuf)> =
            outs.iter().filter_map(|(name, out)| Some((self.packages.get(name)?, out.clone()))).collect();
        installed::compile(&todo, compiler, self.uv.sandbox(), limit).await?;
        drop(todo);
        self.bytecode.extend(outs);
        Ok(())
    }

    /// A new directory for something of a package, which a program of this kind writes.
    async fn directory(&self, what: &str, package: &str, role: Role) -> Result<PathBuf> {
        let path = self.scratch.path().join(what).join(package);
        let (made, sandbox) = (path.clone(), self.uv.sandbox().clone());
        let making = spawn_blocking(move || sandbox.make_dir(&made, role)).await;
        making.map_err(|e| Error::internal(DOING, e))?.map_err(|e: io::Error| Error::internal(DOING, e))?;
        Ok(path)
    }

    /// The facts about a package that are stored; nothing if it is not here.
    pub fn known(&self, name: &str) -> KnownPackage {
        let known = |p: &Installed| KnownPackage { size: p.size.max(1), files: p.file_list() };
        self.packages.get(name).map(known).unwrap_or_default()
    }

    /// The files of a package and the directory with its bytecode.
    pub fn package(&self, name: &str) -> Option<(&Installed, Option<&Path>)> {
        Some((self.packages.get(name)?, self.bytecode.get(name).map(PathBuf::as_path)))
    }

    /// A directory for finished layers.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Removes everything; deleting thousands of files takes its time.
    pub async fn end(self) {
        let _ = spawn_blocking(move || self.scratch.close()).await;
    }
}
