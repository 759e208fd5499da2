//! The note in a service's directory that rows are being imported into its tables.

use crate::fs;
use hoistway_model::{Code, Error, Result};
use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// The note of one service, which does not start while it is there. Everything here blocks.
#[derive(Debug, Clone)]
pub struct UnfinishedImport(PathBuf);

impl UnfinishedImport {
    /// The note in `dir`, the service's own directory.
    pub fn of(dir: &Path) -> Self {
        Self(dir.join("import-unfinished"))
    }

    /// Whether an import has begun and not ended.
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Writes it durably.
    pub fn write(&self) -> io::Result<()> {
        fs::create_once(&self.0, b"", fs::PRIVATE_FILE).map(drop)
    }

    /// Removes it durably.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => self.0.parent().map_or(Ok(()), fs::fsync_dir),
        }
    }

    /// Fails while it is there.
    pub fn refuse(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let text = format!(
            "an import into {} was interrupted: run the same `hoistway import` again, which completes it",
            self.0.parent().unwrap_or(&self.0).display()
        );
        Err(Error::new(Code::Conflict, text))
    }
}
