//! `hoistway export`.

use super::{API_KEY, EXPORT, Installation, MASTER_KEY};
use crate::{
    archive::{self, BLOBS, failed},
    backup::{Snapshot, check_is_there},
    services::{self, Service},
};
use hoistway_kit::{
    db::{self, DatabaseConfig, Db, Location, Migrations},
    fs::{DirLock, read_if_there},
    secrets::MasterKey,
};
use hoistway_model::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// The arguments of `hoistway export`.
#[derive(clap::Args, Debug, Clone)]
pub struct ExportArgs {
    /// The file to write, which must not be there yet; `-` is standard output
    file: PathBuf,
    /// The file of the key that encrypts the export's secrets, which `hoistway import` needs; made if it does not exist
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    #[command(flatten)]
    installation: Installation,
}

/// Writes an export. Without the key in `key_file` nobody can use its secrets, or change it.
pub async fn export(args: ExportArgs) -> Result<()> {
    let (dir, database) = args.installation.load()?;
    check_is_there(&dir)?;
    let key = MasterKey::load_or_create(&args.key_file).map_err(|e| e.prefixed("--key-file: "))?;
    let copied = match services::in_postgres(&dir) {
        Some(_) => copy_from_postgres(&dir, &database).await?,
        None => Snapshot::take(&dir).await?,
    };
    let master_key = key.seal(MASTER_KEY, &copied.keys)?;
    let api_key = read_if_there(&dir.join("api-key")).map_err(failed("reading the API key"))?;
    let api_key = api_key.map(|text| key.seal(API_KEY, &text)).transpose()?;
    let written = tokio::task::spawn_blocking(move || {
        archive::create(&EXPORT, Some(&key), &args.file, |archive| {
            archive.append_bytes(MASTER_KEY, &master_key)?;
            if let Some(api_key) = &api_key {
                archive.append_bytes(API_KEY, api_key)?;
            }
            for (name, copy) in &copied.databases {
                archive.append(copy, name)?;
            }
            archive.append_tree(&copied.blobs(), BLOBS)
        })
    });
    written.await.map_err(|e| Error::internal("writing the export", e))?.map_err(failed("writing the export"))
}

/// Copies the tables of a stopped installation from PostgreSQL. They have to belong together, and no moment is the same
/// in several schemas.
async fn copy_from_postgres(dir: &Path, database: &DatabaseConfig) -> Result<Snapshot> {
    let _lock = DirLock::acquire(dir).map_err(|e| match e.code {
        Code::Conflict => Error::new(e.code, format!("{e}: stop it first, since its tables are in PostgreSQL")),
        _ => e,
    })?;
    let copy = async |service: &Service, to: &Path| {
        let location = database.location(service.name, &dir.join(service.name)).await?.exclusive();
        copy_tables(location, to, service.migrations).await.map(|()| true)
    };
    Snapshot::take_with(dir, copy).await
}

async fn copy_tables(from: Location, to: &Path, migrations: &Migrations) -> Result<()> {
    let from = Db::open(&from, migrations).await?;
    let to = Db::open(&Location::Sqlite(to.to_owned()), migrations).await?;
    let copied = db::copy_rows(&from, &to).await;
    from.close().await;
    to.close().await;
    copied
}
