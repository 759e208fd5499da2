//! `hoistway restore`: makes a data directory from a backup, whole or not at all.

use super::BACKUP;
use crate::{
    archive::{failed, unpack},
    services::{SERVICES, Service},
};
use hoistway_kit::{
    config, db,
    fs::{fsync_dir, private_dir},
    ports::Ports,
};
use hoistway_model::{Code, Error, Result};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The arguments of `hoistway restore`.
#[derive(clap::Args, Debug, Clone)]
pub struct RestoreArgs {
    /// The backup; `-` is standard input
    file: PathBuf,
    /// The data directory to make; it must not exist, or be empty [default: $XDG_DATA_HOME/hoistway]
    #[arg(long, value_name = "DIR", env = "HOISTWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Unpacks a backup beside the data directory, checks it, and moves it there when it is whole.
pub async fn restore(args: RestoreArgs) -> Result<()> {
    let dir = config::data_dir(args.data_dir)?;
    let blocking = |e| Error::internal("restoring", e);
    let fresh = {
        let (file, dir) = (args.file, dir.clone());
        tokio::task::spawn_blocking(move || unpack_beside(&file, &dir)).await.map_err(blocking)??
    };
    for name in SERVICES.iter().map(Service::database) {
        let database = fresh.path().join(&name);
        if database.is_file() {
            db::check(&database).await.map_err(|e| e.prefixed(&format!("{name} in the backup: ")))?;
        }
    }
    tokio::task::spawn_blocking(move || move_to(fresh, &dir)).await.map_err(blocking)?
}

fn taken(dir: &Path) -> Error {
    Error::new(Code::Conflict, format!("{} is not empty: name a new directory", dir.display()))
}

/// Unpacks the backup into a directory beside `dir`, which is removed unless it is kept.
fn unpack_beside(file: &Path, dir: &Path) -> Result<TempDir> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(taken(dir));
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    private_dir_if_missing(parent)?;
    let fresh = tempfile::Builder::new().prefix(".hoistway-restore-").tempdir_in(parent);
    let fresh = fresh.map_err(failed("making a directory"))?;
    unpack(&BACKUP, None, file, fresh.path())?;
    // The original installation may run on this machine.
    Ports::forget_if_taken(fresh.path())?;
    private_dir(fresh.path()).map_err(failed("restoring"))?;
    Ok(fresh)
}

fn move_to(fresh: TempDir, dir: &Path) -> Result<()> {
    // The rename replaces an empty directory, but not one that was filled meanwhile.
    match fs::rename(fresh.path(), dir) {
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => return Err(taken(dir)),
        moved => moved.map_err(failed("moving the restored directory"))?,
    }
    // The directory now has its final place, so it must not be removed as a temporary one.
    let _ = fresh.keep();
    fsync_dir(dir.parent().unwrap_or(Path::new("/"))).map_err(failed("restoring"))
}

fn private_dir_if_missing(dir: &Path) -> Result<()> {
    if dir.is_dir() { Ok(()) } else { private_dir(dir).map_err(failed("making the data directory")) }
}
