//! Where a service's tables are.

use super::{
    marker::{Installation, Marker},
    postgres::Server,
    unfinished_import::UnfinishedImport,
};
use hoistway_model::{Error, Result, Secret};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// The setting `database` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://USER@HOST:PORT/DATABASE`; without it, the tables are in an SQLite file of the data directory. A
    /// password in it is accepted, but belongs into `password_file`.
    pub url: Option<Secret>,
    /// A file with the password, whose trailing line break is left out.
    pub password_file: Option<PathBuf>,
    /// The schema of the service's tables; absent: the service's name.
    pub schema: Option<String>,
    /// The most connections of this service to PostgreSQL, at least 2.
    pub connections: u32,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, password_file: None, schema: None, connections: 10 }
    }
}

impl From<Option<String>> for DatabaseConfig {
    /// Takes the URL of a server, or none for SQLite.
    fn from(url: Option<String>) -> Self {
        Self { url: url.map(Secret::new), ..Self::default() }
    }
}

impl DatabaseConfig {
    /// Returns the settings with those of the command line, which come first.
    pub fn with_flags(self, url: Option<Secret>, password_file: Option<PathBuf>) -> Self {
        Self { url: url.or(self.url), password_file: password_file.or(self.password_file), ..self }
    }

    /// Returns the place of the tables of `service`: the PostgreSQL server if one is set, else a file in the service's
    /// directory. An installation whose tables are in the other place is refused: it would look empty. So is one in
    /// which an import was interrupted.
    pub async fn location(&self, service: &str, dir: &Path) -> Result<Location> {
        UnfinishedImport::of(dir).refuse()?;
        self.location_for_import(service, dir).await
    }

    /// Like [`DatabaseConfig::location`], also while an import is unfinished.
    pub async fn location_for_import(&self, service: &str, dir: &Path) -> Result<Location> {
        let sqlite = dir.join(format!("{service}.db"));
        let marker = Marker::read(service, dir).await?;
        let Some(url) = &self.url else {
            if self.password_file.is_some() || self.schema.is_some() {
                return Err(Error::field("database.url", "is missing, and the other settings of the database need it"));
            }
            let Some(Installation { server, .. }) = &marker.known else { return Ok(Location::Sqlite(sqlite)) };
            let text = format!("is missing: the tables of {} are in PostgreSQL ({server})", dir.display());
            return Err(Error::field("database.url", text));
        };
        if tokio::fs::try_exists(&sqlite).await.unwrap_or_default() {
            let text = format!("must not be set: {} has the tables. Use a new data directory", sqlite.display());
            return Err(Error::field("database.url", text));
        }
        let password = match &self.password_file {
            None => None,
            Some(file) => {
                let failed = |e| Error::field("database.password_file", format!("{}: {e}", file.display()));
                let text = tokio::fs::read_to_string(file).await.map_err(failed)?;
                Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
            }
        };
        let schema = self.schema.clone().unwrap_or_else(|| service.replace('-', "_"));
        let server = Server::new(service, url, password.as_ref(), schema, self.connections)?;
        Ok(Location::Postgres { server: Arc::new(server), marker, is_exclusive: false })
    }
}

/// Whether the tables of `service`, whose directory is `dir`, are in PostgreSQL.
pub fn is_in_postgres(service: &str, dir: &Path) -> bool {
    Marker::path(service, dir).exists()
}

/// The place of a service's tables.
#[derive(Debug, Clone)]
pub enum Location {
    /// A file of its own.
    Sqlite(PathBuf),
    /// A schema of its own.
    Postgres {
        /// The schema, and the way to it.
        server: Arc<Server>,
        /// The data directory's note about it.
        marker: Marker,
        /// Whether no other process may have it open.
        is_exclusive: bool,
    },
}

impl Location {
    /// Lets one process open the tables at a time, as the lock of the data directory does for files in it.
    pub fn exclusive(self) -> Self {
        match self {
            Self::Postgres { server, marker, .. } => Self::Postgres { server, marker, is_exclusive: true },
            Self::Sqlite(_) => self,
        }
    }
}
