//! `hoistway export` and `hoistway import`: the way of an installation to another one, whatever database and master key
//! that has, such as from `hoistway up` to the separate programs.
//!
//! An export has SQLite databases, whichever engine the installation uses: what an earlier version wrote is migrated
//! there, and its secrets are encrypted with the keys of the target there, before any row reaches the target. The
//! master key is in it only encrypted with a key of its own file.

mod export;
mod import;
mod target;

pub use export::{ExportArgs, export};
pub use import::{ImportArgs, import};

use crate::{archive::Kind, services, up::UpConfig};
use hoistway_kit::{config, db::DatabaseConfig};
use hoistway_model::{Result, Secret};
use std::path::{Path, PathBuf};

/// The master key, encrypted.
const MASTER_KEY: &str = "master.key.encrypted";
/// The installation's API key, encrypted.
const API_KEY: &str = "api-key.encrypted";

const EXPORT: Kind = Kind {
    about: "export.json",
    format: 1,
    named: "an export",
    verb: "import",
    doing: "importing",
    older: "which this version cannot read",
    required: MASTER_KEY,
    belongs: |name| [MASTER_KEY, API_KEY].iter().any(|known| name == Path::new(known)) || services::is_database(name),
};

/// An installation of `hoistway up`.
#[derive(clap::Args, Debug, Clone)]
pub struct Installation {
    /// The data directory [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The PostgreSQL database of all services, postgres://USER@HOST/DATABASE [default: SQLite files in the data
    /// directory]
    #[arg(long, value_name = "URL", env = "HOISTWAY_DATABASE_URL", hide_env_values = true, value_parser = crate::secret)]
    database_url: Option<Secret>,
    /// A file with the password of the database's user
    #[arg(long, value_name = "FILE", env = "HOISTWAY_DATABASE_PASSWORD_FILE")]
    database_password_file: Option<PathBuf>,
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "HOISTWAY_CONFIG")]
    config: Option<PathBuf>,
}

impl Installation {
    /// Returns its data directory, and the place of its tables.
    fn load(self) -> Result<(PathBuf, DatabaseConfig)> {
        let file = self.config.as_deref().map(config::File::read).transpose()?;
        let own: UpConfig = file.as_ref().map(config::File::program).transpose()?.unwrap_or_default();
        let data_dir = config::data_dir(self.data_dir.or(own.data_dir))?;
        Ok((data_dir, own.database.with_flags(self.database_url, self.database_password_file)))
    }
}
