//! Where packages are installed and compiled before they become layers.

use super::{Locked, STEP_LIMIT};
use crate::{
    log::BuildLog,
    python::{
        Interpreter, Lock, Uv,
        site::{self, Installed, Inventory},
    },
};
use hoistway_model::{Error, Result};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

const DOING: &str = "making a directory to install packages in";

/// A scratch directory with installed packages.
pub struct Stage<'a> {
    uv: &'a Uv,
    interpreter: &'a Interpreter,
    log: &'a BuildLog,
    scratch: TempDir,
    packages: HashMap<String, Installed>,
    bytecode: HashMap<String, PathBuf>,
    /// How many directories there are.
    directories: usize,
}

impl<'a> Stage<'a> {
    /// An empty stage below `work`.
    pub async fn new(work: &Path, uv: &'a Uv, interpreter: &'a Interpreter, log: &'a BuildLog) -> Result<Self> {
        let work = work.to_owned();
        let scratch =
            spawn_blocking(move || tempfile::tempdir_in(work)).await.map_err(|e| Error::internal(DOING, e))?;
        let scratch = scratch.map_err(|e| Error::internal(DOING, e))?;
        Ok(Self { uv, interpreter, log, scratch, packages: HashMap::new(), bytecode: HashMap::new(), directories: 0 })
    }

    /// Installs those of the packages that are not here yet.
    pub async fn install(&mut self, locked: &[&Locked]) -> Result<()> {
        let missing: Vec<&Locked> = locked.iter().copied().filter(|p| !self.packages.contains_key(&p.name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for Locked { name, version, .. } in &missing {
            self.log.say(format!("  {name} {version}"));
        }
        self.log.say(format!("installing {} packages", missing.len()));
        let mut stock = self.installed(&missing).await?;
        for (one, other, file) in stock.clashes.iter().take(20) {
            self.log.say(format!("{one} and {other} both have {file}; the one whose layer is higher wins"));
        }
        // What lies there is the file of whoever was installed last.
        for name in site::clashing(&stock) {
            if let Some(alone) = missing.iter().find(|package| package.name == name) {
                stock.packages.extend(self.installed(&[alone]).await?.packages);
            }
        }
        self.packages.extend(stock.packages);
        Ok(())
    }

    async fn installed(&mut self, locked: &[&Locked]) -> Result<Inventory> {
        let target = self.directory("site").await?;
        let lock = Lock::parse(&locked.iter().map(|p| p.entry.as_str()).collect::<String>())?;
        let report = |line: &str| self.log.say(line);
        self.uv.install(&lock, &target, self.interpreter, STEP_LIMIT, &report).await?;
        spawn_blocking(move || site::take_stock(&target))
            .await
            .map_err(|e| Error::internal("taking stock of installed packages", e))?
    }

    /// Compiles packages that are here.
    pub async fn compile(&mut self, locked: &[&Locked], limit: Duration) -> Result<()> {
        let mut outs = Vec::new();
        for package in locked {
            if self.packages.contains_key(&package.name) {
                outs.push((package.name.clone(), self.directory("bytecode").await?));
            }
        }
        let todo: Vec<(&Installed, PathBuf)> =
            outs.iter().filter_map(|(name, out)| Some((self.packages.get(name)?, out.clone()))).collect();
        site::compile(&todo, self.interpreter, limit).await?;
        drop(todo);
        self.bytecode.extend(outs);
        Ok(())
    }

    async fn directory(&mut self, kind: &str) -> Result<PathBuf> {
        self.directories += 1;
        let path = self.scratch.path().join(format!("{kind}-{}", self.directories));
        tokio::fs::create_dir(&path).await.map_err(|e: io::Error| Error::internal(DOING, e))?;
        Ok(path)
    }

    /// Unpacked bytes of a package; none if it is not here.
    pub fn size(&self, name: &str) -> u64 {
        self.packages.get(name).map_or(0, |package| package.size.max(1))
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
