//! `hoistway import`.
//!
//! The export is unpacked and prepared beside the target's registry. Then a note in each service's directory keeps the
//! services from starting until all rows are there; the rows of each service are one transaction. An import that was
//! killed is repeated from the beginning.

use super::{
    API_KEY, EXPORT, Installation, MASTER_KEY,
    target::{Target, TargetService},
};
use crate::{
    archive::{self, About, BLOBS, failed},
    rotate,
    services::{SERVICES, Service},
};
use hoistway_build as build;
use hoistway_gateway as gateway;
use hoistway_kit::{
    db::{self, Db, Location},
    fs::{fsync_dir, private_dir, read_if_there},
    secrets::MasterKey,
};
use hoistway_model::{Code, Error, Result, Secret};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// The name of the API key that was the installation's key where the export was made.
const IMPORTED_KEY: &str = "imported";

/// The arguments of `hoistway import`.
#[derive(clap::Args, Debug, Clone)]
pub struct ImportArgs {
    /// The export; `-` is standard input
    file: PathBuf,
    /// The file of the key that `hoistway export` made or was given
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Import into the separate programs, whose settings are their own (HOISTWAY_<SERVICE>_… and --config), instead of
    /// into a data directory of `hoistway up`
    #[arg(long, conflicts_with_all = ["data_dir", "database_url", "database_password_file"])]
    separate_programs: bool,
    #[command(flatten)]
    installation: Installation,
}

/// Imports an export into an installation that has nothing yet. Returns the text for standard output.
pub async fn import(args: ImportArgs) -> Result<String> {
    let key = MasterKey::load(&args.key_file).map_err(|e| match e.code {
        Code::NotFound => {
            let text = format!(
                "--key-file: there is no key at {}: name the key file that `hoistway export` made or was given",
                args.key_file.display()
            );
            Error::new(e.code, text)
        }
        _ => e.prefixed("--key-file: "),
    })?;
    let target = match args.separate_programs {
        true => Target::of_programs(args.installation.config.as_deref())?,
        false => Target::of_up(args.installation)?,
    };
    let _locks = target.lock()?;
    let databases = target.open().await?;
    let staged = Staged::unpack(&args.file, &key, &target).await?;
    let secret = |name: &str| staged.secret(name, &key, &args.key_file);
    let master_key = secret(MASTER_KEY)?.unwrap_or_default();
    let api_key = secret(API_KEY)?;

    staged.migrate().await?;
    rotate::reseal(&staged.dir, &target.keys.adopt(&master_key)?).await?;
    let said = staged.keep_key(api_key, &target).await?;
    gateway::record_import(&staged.gateway(), &staged.described()).await?;

    for service in &target.services {
        service.note().write().map_err(failed("beginning the import"))?;
    }
    staged.move_blobs(&target).await?;
    for (service, db) in target.services.iter().zip(&databases) {
        staged.copy(service.service, db).await?;
        db.close().await;
    }
    let text = summary(&target, &staged).await?;
    drop(staged);
    for service in target.services.iter().rev() {
        service.note().remove().map_err(failed("completing the import"))?;
    }
    Ok(format!("{text}{said}"))
}

/// An export that is unpacked, as a data directory, which is removed with it.
struct Staged {
    dir: PathBuf,
    /// Who made it, and when.
    about: About,
}

impl Staged {
    /// On the file system of the registry, so that blobs are moved and not copied.
    async fn unpack(file: &Path, key: &MasterKey, target: &Target) -> Result<Self> {
        let dir = target.registry_dir()?.join(build::IMPORT_DIR);
        let (file, key, to) = (file.to_owned(), key.clone(), dir.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            remove_dir(&to).map_err(failed("removing an interrupted import"))?;
            private_dir(&to).map_err(failed("making a directory"))?;
            archive::unpack(&EXPORT, Some(&key), &file, &to).inspect_err(|_| drop(remove_dir(&to)))
        });
        let about = unpacking.await.map_err(|e| Error::internal("importing", e))??;
        Ok(Self { dir, about })
    }

    /// Describes the export in the audit log.
    fn described(&self) -> String {
        format!("export of {} by Hoistway {}", self.about.created_at, self.about.hoistway)
    }

    /// The settings of a gateway on it.
    fn gateway(&self) -> gateway::Config {
        gateway::Config { data_dir: self.dir.clone(), ..gateway::Config::default() }
    }

    /// Returns one of its secrets, if it has it.
    fn secret(&self, name: &str, key: &MasterKey, key_file: &Path) -> Result<Option<Vec<u8>>> {
        let Some(sealed) = read_if_there(&self.dir.join(name)).map_err(failed("reading the export"))? else {
            return Ok(None);
        };
        let wrong = |e| {
            let text = format!("{} is not the key that this export was made with", key_file.display());
            Error::new(Code::InvalidArgument, text).with_source(e)
        };
        key.open(name, &sealed).map(Some).map_err(wrong)
    }

    fn location(&self, service: &Service) -> Location {
        Location::Sqlite(self.dir.join(service.database()))
    }

    /// Checks the databases, and migrates those of an earlier version.
    async fn migrate(&self) -> Result<()> {
        for service in &SERVICES {
            let location = self.location(service);
            if let Location::Sqlite(path) = &location
                && path.is_file()
            {
                db::check(path).await.map_err(|e| e.prefixed(&format!("{} in the export: ", service.name)))?;
            }
            let migrated = Db::open(&location, service.migrations).await.map_err(|e| match e.code {
                Code::Conflict => {
                    let text = format!(
                        "the export was made by a newer Hoistway, {}: import it with that version",
                        self.about.hoistway
                    );
                    Error::new(e.code, text).with_source(e)
                }
                _ => e,
            })?;
            migrated.close().await;
        }
        Ok(())
    }

    /// Lets those who use the key of the installation before go on with it. Returns the text about it.
    async fn keep_key(&self, key: Option<Vec<u8>>, target: &Target) -> Result<String> {
        let Some(key) = key.and_then(|text| String::from_utf8(text).ok()).map(|text| Secret::new(text.trim())) else {
            return Ok(String::new());
        };
        let own = read_if_there(&target.api_key_file).map_err(failed("reading the API key"))?;
        if own.is_some_and(|own| own.trim_ascii() == key.expose().as_bytes()) {
            return Ok(String::new());
        }
        Ok(match gateway::store_key(&self.gateway(), IMPORTED_KEY, &key).await? {
            true => {
                format!("\nThe source's API key still works: it is the key \"{IMPORTED_KEY}\", which can be revoked.")
            }
            false => format!(
                "\nThe source's API key does not work here, since its owner chose it: to keep it, write it into {}.",
                target.api_key_file.display()
            ),
        })
    }

    async fn move_blobs(&self, target: &Target) -> Result<()> {
        let (from, to) = (self.dir.join(BLOBS), target.registry_dir()?.join("blobs"));
        let moving = tokio::task::spawn_blocking(move || move_tree(&from, &to));
        moving.await.map_err(|e| Error::internal("importing", e))?.map_err(failed("moving the registry's blobs"))
    }

    async fn copy(&self, service: &Service, to: &Db) -> Result<()> {
        let from = Db::open(&self.location(service), service.migrations).await?;
        let copied = db::copy_rows(&from, to).await;
        from.close().await;
        copied
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // The next import or start removes what is left.
        let _ = remove_dir(&self.dir);
    }
}

/// The tables whose rows a reader knows, and their names in the singular.
const COUNTED: [(&str, &str); 4] =
    [("agents", "agent"), ("tools", "tool"), ("model_providers", "model provider"), ("api_keys", "API key")];

async fn summary(target: &Target, staged: &Staged) -> Result<String> {
    let mut rows = BTreeMap::new();
    for TargetService { service, .. } in &target.services {
        let db = Db::open(&staged.location(service), service.migrations).await?;
        rows.append(&mut db::row_counts(&db).await?);
        db.close().await;
    }
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let counted = COUNTED.iter().filter_map(|(table, named)| Some((rows.get(*table)?, named)));
    let counts: Vec<_> = counted.map(|(count, named)| format!("{count} {named}{}", plural(*count))).collect();
    Ok(format!("Imported {}.", if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") }))
}

fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    private_dir(to)?;
    for entry in entries {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        if from.is_dir() { move_tree(&from, &to)? } else { fs::rename(&from, &to)? }
    }
    fsync_dir(to)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
