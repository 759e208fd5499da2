//! The installation that an export is imported into.

use super::{Installation, SERVICES};
use crate::rotate::{self, KeyFiles};
use hoistway_agent as agent;
use hoistway_build as build;
use hoistway_egress as egress;
use hoistway_gateway as gateway;
use hoistway_kit::{
    config,
    db::{self, DatabaseConfig, Db, Migrations, UnfinishedImport},
    fs::{self, DirLock, private_dir},
};
use hoistway_model::{Code, Error, Result};
use hoistway_tool_registry as tools;
use std::path::{Path, PathBuf};

/// One service of it.
pub struct Service {
    pub name: &'static str,
    pub migrations: &'static Migrations,
    /// Its own directory.
    pub dir: PathBuf,
    database: DatabaseConfig,
}

/// The services, in the order of [`SERVICES`], and the files that they share or have of their own.
pub struct Target {
    pub services: Vec<Service>,
    pub keys: KeyFiles,
    pub api_key_file: PathBuf,
    /// The data directory of one program with all services, which locks it.
    data_dir: Option<PathBuf>,
}

impl Target {
    /// The services of `hoistway up`.
    pub fn of_up(installation: Installation) -> Result<Self> {
        let (dir, database) = installation.load()?;
        let service =
            |(name, migrations)| Service { name, migrations, dir: dir.join(name), database: database.clone() };
        Ok(Self {
            services: SERVICES.map(service).into(),
            keys: KeyFiles::shared(&rotate::key_file(&dir)),
            api_key_file: dir.join("api-key"),
            data_dir: Some(dir),
        })
    }

    /// The separate programs, with the settings that they read themselves: their variables, and `file`.
    pub fn of_programs(file: Option<&Path>) -> Result<Self> {
        let gateway: gateway::Config = config::load(gateway::config::SERVICE, file)?;
        let agent: agent::Config = config::load(agent::config::SERVICE, file)?;
        let build: build::Config = config::load(build::config::SERVICE, file)?;
        let tools: tools::Config = config::load(tools::config::SERVICE, file)?;
        let egress: egress::Config = config::load(egress::config::SERVICE, file)?;
        let keys = KeyFiles {
            tools: tools.master_key_file(),
            agent: agent.master_key_file(),
            gateway: gateway.file(&gateway.master_key_file, "master.key"),
        };
        let api_key_file = gateway.file(&gateway.api_key_file, "api-key");
        let places = [
            (gateway.service_dir(), gateway.database),
            (agent.service_dir(), agent.database),
            (build.service_dir(), build.database),
            (tools.service_dir(), tools.database),
            (egress.service_dir(), egress.database),
        ];
        let service = |((name, migrations), (dir, database))| Service { name, migrations, dir, database };
        let services = SERVICES.into_iter().zip(places).map(service).collect();
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
        let build = self.services.iter().find(|service| service.name == build::config::SERVICE);
        let build = build.ok_or_else(|| Error::internal("finding the registry", "there is no build service"))?;
        let dir = build.dir.join("registry");
        private_dir(&dir).map_err(fs::path_error("making", &dir))?;
        Ok(dir)
    }

    /// Opens the databases, which are made and migrated. Those that have something are refused, unless an interrupted
    /// import is repeated.
    pub async fn open(&self) -> Result<Vec<Db>> {
        let (mut open, mut found) = (Vec::new(), Vec::new());
        for service in &self.services {
            let location = service.database.location_for_import(service.name, &service.dir).await?.exclusive();
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

impl Service {
    /// The note that keeps it from starting.
    pub fn note(&self) -> UnfinishedImport {
        UnfinishedImport::of(&self.dir)
    }
}
