//! The note in a data directory that its tables are in PostgreSQL.

use crate::fs;
use hoistway_model::{Error, Result};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The file of a data directory that says which tables are its own.
#[derive(Debug, Clone)]
pub struct Marker {
    path: PathBuf,
    /// Its content; none before the tables are there.
    pub(super) known: Option<Installation>,
}

/// The tables of a data directory.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    /// The random id that is also in the tables.
    pub id: String,
    /// The schema and its server when they were used last, for messages.
    pub server: String,
}

impl Marker {
    pub(super) fn path(service: &str, dir: &Path) -> PathBuf {
        dir.join(format!("{service}.postgres"))
    }

    pub(super) async fn read(service: &str, dir: &Path) -> Result<Self> {
        let path = Self::path(service, dir);
        let known = match tokio::fs::read_to_string(&path).await {
            Ok(text) => {
                let (id, server) = text.trim_end().split_once('\n').unwrap_or((text.trim_end(), "an unknown server"));
                Some(Installation { id: id.to_owned(), server: server.to_owned() })
            }
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(fs::path_error("reading", &path)(e)),
        };
        Ok(Self { path, known })
    }

    /// Writes it durably.
    pub(super) async fn write(&self, id: &str, server: &str) -> Result<()> {
        let (path, text) = (self.path.clone(), format!("{id}\n{server}\n"));
        let written = tokio::task::spawn_blocking(move || fs::write_atomic(&path, text.as_bytes(), fs::PRIVATE_FILE));
        let written = written.await.map_err(|e| Error::internal("noting where the tables are", e))?;
        written.map_err(fs::path_error("writing", &self.path))
    }
}
