//! The installation that an export is imported into.

use super::Installation;
use crate::{
    rotate::{self, KeyFiles},
    services::{SERVICES, Service},
};
use hoistway_agent as agent;
use hoistway_build as build;
use hoistway_gateway as gateway;
use hoistway_kit::{
    config,
    db::{self, DatabaseConfig, Db, UnfinishedImport},
    fs::{self, DirLock, private_dir},
};
use hoistway_model::{Code, Error, Result};
use hoistway_tool_registry as tools;
use std::path::{Path, PathBuf};

/// One service of it.
pub struct TargetService {
    pub service: &'static Service,
    /// Its own directory.
    pub dir: PathBuf,
    database: DatabaseConfig,
}

/// The services, in the order of [`SERVICES`], and the files that they share or have of their own.
pub struct Target {
    pub services: Vec<TargetService>,
    pub keys: KeyFiles,
    pub api_key_file: PathBuf,
    /// The data directory of one program with all services, which locks it.
    data_dir: Option<PathBuf>,
}

impl Target {
    /// The services of `hoistway up`.
    pub fn of_up(installation: Installation) -> Result<Self> {
        let (dir, database) = installation.load()?;
        let service = |service: &'static Service| TargetService {
            service,
            dir: dir.join(service.name),
            database: database.clone(),
        };
        Ok(Self {
            services: SERVICES.iter().map(service).collect(),
            keys: KeyFiles::shared(&rotate::key_file(&dir)),
            api_key_file: dir.join("api-key"),
            data_dir: Some(dir),
        })
    }

    /// The separate programs, with the settings that they read themselves: their variables, and `file`.
    pub fn of_programs(file: Option<&Path>) -> Result<Self> {
        let gateway: gateway::Config = config::load(gateway::config::SERVICE, file)?;
        let agent: agent::Config = config::load(agent::config::SERVICE, file)?;
        let tools: tools::Config = config::load(tools::config::SERVICE, file)?;
        let keys = KeyFiles {
            tools: tools.master_key_file(),
            agent: agent.master_key_file(),
            gateway: gateway.file(&gateway.master_key_file, "master.key"),
        };
        let api_key_file = gateway.file(&gateway.api_key_file, "api-key");
        let service = |service: &'static Service| {
            let (dir, database) = (service.program)(file)?;
            Ok(TargetService { service, dir, database })
        };
        let services = SERVICES.iter().map(service).collect::<Result<_>>()?;
        Ok(Self { services, keys, api_key_file, data_dir: None })
    }

    /// Keeps the services from starting, if none of them runs.
    pub fn lock(&self) -> Result<Vec<DirLock>> {
        let dirs = self.data_dir.iter().chain(self.services.iter().map(|service| &service.dir));
        let locked = dirs.map(|dir| DirLock::acquire(dir)).collect::<Result<_>>();
        locked.map_err(|e| match e.code {
            Code::Conflict => Error::new(e.code, format!("{e}: stop it first")),
            _ => e,
        })
    }

    /// Returns the directory of the registry.
    pub fn registry_dir(&self) -> Result<PathBuf> {
        let build = self.services.iter().find(|service| service.service.name == build::config::SERVICE);
        let build = build.ok_or_else(|| Error::internal("finding the registry", "there is no build service"))?;
        let dir = build.dir.join("registry");
        private_dir(&dir).map_err(fs::path_error("making", &dir))?;
        Ok(dir)
    }

    /// Opens the databases, which are made and migrated. Those that have something are refused, unless an interrupted
    /// import is repeated.
    pub async fn open(&self) -> Result<Vec<Db>> {
        let (mut open, mut found) = (Vec::new(), Vec::new());
        for TargetService { service, dir, database } in &self.services {
            let location = database.location_for_import(service.name, dir).await?.exclusive();
            let db = Db::open(&location, service.migrations).await?;
            let rows = db::row_counts(&db).await?;
            found.extend(rows.into_iter().map(|(table, count)| format!("{count} {table} ({})", service.name)));
            open.push(db);
        }
        if found.is_empty() || self.services.iter().any(|service| service.note().exists()) {
            return Ok(open);
        }
        let text = format!(
            "the target is not empty: there are {}. Import into a new data directory or database, before Hoistway is \
             started there",
            found.join(", ")
        );
        Err(Error::new(Code::Conflict, text))
    }
}

impl TargetService {
    /// The note that keeps it from starting.
    pub fn note(&self) -> UnfinishedImport {
        UnfinishedImport::of(&self.dir)
    }
}
