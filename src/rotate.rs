//! `hoistway rotate-key`: replaces the master key and re-encrypts all secrets.
//!
//! If it is killed at any moment, the data directory can still be opened: the new key is written beside the old ones,
//! then the services' databases are re-encrypted, and the old keys are removed last. The next start or rotation
//! completes what is missing.

use crate::{RotateArgs, services};
use hoistway_agent as agent;
use hoistway_gateway as gateway;
use hoistway_kit::{config, fs::DirLock, secrets::MasterKey, token::ServiceToken};
use hoistway_model::{Code, Error, Result};
use hoistway_tool_registry as tools;
use std::path::{Path, PathBuf};

/// Returns the path of the master key in a data directory.
pub fn key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("master.key")
}

/// Rotates the key of a data directory, or of one file alone. Returns the text for standard output.
pub async fn run(args: RotateArgs) -> Result<String> {
    if let Some(file) = args.key_file {
        return if args.drop_old {
            let dropped = MasterKey::drop_old(&file, None)?;
            Ok(if dropped { "The old keys are dropped." } else { "There are no old keys." }.to_owned())
        } else {
            MasterKey::rotate(&file)?;
            let next = "Start every program that reads the file again: each seals anew what it has. Then drop the old \
                        keys with --drop-old.";
            Ok(format!("There is a new master key. {next}"))
        };
    }
    let dir = config::data_dir(args.data_dir)?;
    let key = key_file(&dir);
    if !key.is_file() {
        let text = format!("there is no Hoistway data at {}: {} is missing", dir.display(), key.display());
        return Err(Error::new(Code::NotFound, text));
    }
    services::refuse_unfinished_import(&dir)?;
    refuse_separate_programs(&dir)?;
    match DirLock::acquire(&dir) {
        // The way to the server is among the settings of `up`.
        Ok(_lock) if services::in_postgres(&dir).is_some() => {
            MasterKey::rotate(&key)?;
            Ok("There is a new master key. Hoistway seals everything in PostgreSQL anew when it starts next, and then \
                drops the old key."
                .to_owned())
        }
        Ok(_lock) => {
            MasterKey::rotate(&key)?;
            let read = MasterKey::load_or_create(&key)?;
            reseal(&dir, &Keys { tools: read.clone(), agent: read.clone(), gateway: read }).await?;
            MasterKey::drop_old(&key, None)?;
            Ok("There is a new master key; everything is sealed with it, and the old key is dropped.".to_owned())
        }
        // A running installation reads the file at its start only, and drops the old key itself.
        Err(e) if e.code == Code::Conflict => {
            MasterKey::rotate(&key)?;
            Ok("There is a new master key. Hoistway is running: it seals everything anew when it starts next, and then \
                drops the old key."
                .to_owned())
        }
        Err(e) => Err(e),
    }
}

/// Fails if a separate program runs on a service's directory, with keys that are not to be dropped under it. Those of a
/// running `hoistway up` are its own.
fn refuse_separate_programs(dir: &Path) -> Result<()> {
    let Ok(_lock) = DirLock::acquire(dir) else { return Ok(()) };
    for dir in services::SERVICES.iter().map(|service| dir.join(service.name)).filter(|dir| dir.is_dir()) {
        DirLock::acquire(&dir).map_err(|e| match e.code {
            Code::Conflict => {
                let text = format!("{}: stop it, or rotate its key with --key-file; nothing is changed", e.message);
                Error::new(Code::Conflict, text)
            }
            _ => e,
        })?;
    }
    Ok(())
}

/// Drops the old keys of a rotation, once every service has opened with `read` and so has re-encrypted everything.
pub async fn finish(dir: &Path, read: MasterKey) -> Result<()> {
    if !read.has_old() {
        return Ok(());
    }
    let file = key_file(dir);
    // A key that was added while the services were starting seals nothing yet: it is for the next start.
    let dropped = tokio::task::spawn_blocking(move || MasterKey::drop_old(&file, Some(&read))).await;
    dropped.map_err(|e| Error::internal("ending a rotation of the master key", e))?.map(drop)
}

/// The files of the keys of the services that encrypt something.
pub struct KeyFiles {
    /// Of the tool registry.
    pub tools: PathBuf,
    /// Of the agent service.
    pub agent: PathBuf,
    /// Of the gateway.
    pub gateway: PathBuf,
}

impl KeyFiles {
    /// One file for all.
    pub fn shared(file: &Path) -> Self {
        Self { tools: file.to_owned(), agent: file.to_owned(), gateway: file.to_owned() }
    }

    /// Prepares the files for secrets that the keys of another one, whose content is `foreign`, have encrypted.
    pub fn adopt(&self, foreign: &[u8]) -> Result<Keys> {
        let adopt = |file: &Path| MasterKey::adopt(file, foreign);
        Ok(Keys { tools: adopt(&self.tools)?, agent: adopt(&self.agent)?, gateway: adopt(&self.gateway)? })
    }
}

/// The keys of the services that encrypt something.
pub struct Keys {
    tools: MasterKey,
    agent: MasterKey,
    gateway: MasterKey,
}

/// Re-encrypts the secrets of every service with its current key; services that were never started have none.
pub async fn reseal(dir: &Path, keys: &Keys) -> Result<()> {
    let data_dir = dir.to_owned();
    let tool_config = tools::Config { data_dir: data_dir.clone(), ..tools::Config::default() };
    if tool_config.service_dir().is_dir() {
        // Opening requires tokens, which are not used here.
        let (token, egress_token) = (ServiceToken::generate()?, ServiceToken::generate()?);
        let deps = tools::Deps { token, egress_token, master_key: keys.tools.clone() };
        tools::reseal(&tool_config, &deps).await?;
    }
    let agent_config = agent::Config { data_dir: data_dir.clone(), ..agent::Config::default() };
    if agent_config.service_dir().is_dir() {
        agent::reseal(&agent_config, &keys.agent).await?;
    }
    let gateway_config = gateway::Config { data_dir, ..gateway::Config::default() };
    if gateway_config.service_dir().is_dir() {
        gateway::reseal(&gateway_config, &keys.gateway).await?;
    }
    Ok(())
}
