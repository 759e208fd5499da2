//! The five services of an installation, for what goes through all of them: backups, exports, imports, rotations.

use hoistway_agent as agent;
use hoistway_build as build;
use hoistway_egress as egress;
use hoistway_gateway as gateway;
use hoistway_kit::{
    config,
    db::{self, DatabaseConfig, Migrations, UnfinishedImport},
};
use hoistway_model::Result;
use hoistway_tool_registry as tools;
use std::path::{Path, PathBuf};

/// One of the services.
#[derive(Debug)]
pub struct Service {
    /// Its name, also of its directory in a data directory.
    pub name: &'static str,
    /// The migrations of its tables.
    pub migrations: &'static Migrations,
    /// Returns its directory and its database as its own program has them, from its variables and a file.
    pub program: fn(Option<&Path>) -> Result<(PathBuf, DatabaseConfig)>,
}

/// Describes a service by the crate that has it.
macro_rules! service {
    ($service:ident) => {
        Service {
            name: $service::config::SERVICE,
            migrations: $service::MIGRATIONS,
            program: |file| {
                let config: $service::Config = config::load($service::config::SERVICE, file)?;
                Ok((config.service_dir(), config.database))
            },
        }
    };
}

/// All services, in the order in which their databases are copied: those that a deploy's last steps write come first.
/// The API answers once the gateway runs, so it is the first to be kept from starting by an import too, and the last to
/// be allowed to.
pub static SERVICES: [Service; 5] =
    [service!(gateway), service!(agent), service!(build), service!(tools), service!(egress)];

impl Service {
    /// Returns the name of its SQLite database in a data directory.
    pub fn database(&self) -> String {
        format!("{0}/{0}.db", self.name)
    }
}

/// Whether a path is that of a service's SQLite database in a data directory.
pub fn is_database(path: &Path) -> bool {
    SERVICES.iter().any(|service| path == Path::new(&service.database()))
}

/// Returns the first service whose tables are in PostgreSQL.
pub fn in_postgres(data_dir: &Path) -> Option<&'static Service> {
    SERVICES.iter().find(|service| db::is_in_postgres(service.name, &data_dir.join(service.name)))
}

/// Fails while an import into a data directory has not ended.
pub fn refuse_unfinished_import(data_dir: &Path) -> Result<()> {
    SERVICES.iter().try_for_each(|service| UnfinishedImport::of(&data_dir.join(service.name)).refuse())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_configuration_file_has_a_table_for_each_service() {
        let names: BTreeSet<_> = SERVICES.iter().map(|service| service.name).collect();
        assert_eq!(names, BTreeSet::from(config::TABLES));
    }
}
