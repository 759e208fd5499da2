//! `hoistway backup`: the whole state of an installation in one tar file, taken while it runs.
//!
//! Content that can be made again (unpacked layers, caches, logs) is left out.

mod keys;
mod restore;
mod snapshot;

pub use restore::{RestoreArgs, restore};
pub use snapshot::Snapshot;

use crate::{
    archive::{self, BLOBS, Kind, failed},
    rotate, services,
};
use hoistway_kit::config;
use hoistway_model::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// The keys that open all secrets in the databases' copies.
const KEYS: &str = "master.key";
/// Optional files of an installation.
const FILES: [&str; 6] = ["api-key", "service-token", "egress-token", "egress-key", "egress/ca-key.pem", "ports.json"];
/// Format 1 had no list of its contents.
const BACKUP: Kind = Kind {
    about: "backup.json",
    format: 2,
    named: "a backup",
    verb: "restore",
    doing: "restoring",
    older: "without a list of its contents, so nobody can tell whether it is whole",
    required: KEYS,
    belongs: |name| {
        name == Path::new(KEYS) || FILES.iter().any(|known| name == Path::new(known)) || services::is_database(name)
    },
};

/// The arguments of `hoistway backup`.
#[derive(clap::Args, Debug, Clone)]
pub struct BackupArgs {
    /// The file to write, which must not be there yet; `-` is standard output
    file: PathBuf,
    /// The data directory [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Writes a backup. It contains the installation's keys, so it is as secret as the data directory.
pub async fn backup(args: BackupArgs) -> Result<()> {
    let dir = config::data_dir(args.data_dir)?;
    check_is_there(&dir)?;
    if let Some(service) = services::in_postgres(&dir) {
        let text = format!(
            "the tables of {} are in PostgreSQL: stop Hoistway, copy {} and dump the database with pg_dump",
            service.name,
            dir.display()
        );
        return Err(Error::new(Code::InvalidArgument, text));
    }
    let copied = Snapshot::take(&dir).await?;
    let written = tokio::task::spawn_blocking(move || {
        archive::create(&BACKUP, None, &args.file, |archive| {
            archive.append_bytes(KEYS, &copied.keys)?;
            for name in FILES {
                archive.append(&dir.join(name), name)?;
            }
            for (name, copy) in &copied.databases {
                archive.append(copy, name)?;
            }
            archive.append_tree(&copied.blobs(), BLOBS)
        })
    });
    written.await.map_err(|e| Error::internal("writing the backup", e))?.map_err(failed("writing the backup"))
}

/// Refuses a data directory without an installation, and one whose import was interrupted.
pub fn check_is_there(dir: &Path) -> Result<()> {
    if !rotate::key_file(dir).is_file() {
        return Err(Error::new(Code::InvalidArgument, format!("{} holds no installation", dir.display())));
    }
    services::refuse_unfinished_import(dir)
}
