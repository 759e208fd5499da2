//! Logins of container registries, as `docker login` writes them: a `config.json` with `auths`, and the credential
//! helpers that it names.

mod credential_helper;

use credential_helper::Helpers;
use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use hoistway_model::{Code, Error, Result, Secret};
use serde_json::Value;
use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The time that a credential helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// The time for which a login is used again.
const KEPT: Duration = Duration::from_secs(30);
/// Docker Hub has two names, and its logins have a third.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// Why a configuration is of no use.
const NOT_DOCKERS: &str = "it is not the JSON of Docker's configuration";
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What opens a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// For Basic authentication, there or at the registry's token server.
    Password {
        /// The user's name.
        user: String,
        /// The password, or an access token in its place.
        password: Secret,
    },
    /// A token that a token server changes for others.
    IdentityToken(Secret),
}

/// The logins of a configuration file of Docker. It is read anew when it changes, and after [`KEPT`], because tokens
/// expire and credential helpers give others then.
#[derive(Debug, Clone)]
pub struct RegistryLogins {
    file: Option<PathBuf>,
    /// Whether somebody has named the file, so that it must be there.
    is_required: bool,
    /// By host, so that a helper does not run for each layer.
    kept: Arc<Mutex<HashMap<String, Kept>>>,
}

#[derive(Debug, Clone)]
struct Kept {
    login: Option<Login>,
    changed: Option<SystemTime>,
    read: Instant,
}

impl RegistryLogins {
    /// The file that an operator has named, else `$DOCKER_CONFIG/config.json` or `~/.docker/config.json` if it is there.
    pub fn new(file: Option<PathBuf>) -> Self {
        let is_required = file.is_some();
        Self { file: file.or_else(default_file), is_required, kept: Arc::default() }
    }

    /// Those of a named file, and none if no file is named.
    pub fn named(file: Option<PathBuf>) -> Self {
        let is_required = file.is_some();
        Self { file, is_required, kept: Arc::default() }
    }

    /// The login of the registry at `host` (`HOST` or `HOST:PORT`); none if the file has none. The reason why one cannot
    /// be read is in the log, since it names files of the machine.
    pub async fn login(&self, host: &str) -> Result<Option<Login>> {
        let Some(file) = self.file.clone() else { return Ok(None) };
        let changed = tokio::fs::metadata(&file).await.and_then(|metadata| metadata.modified()).ok();
        if let Some(kept) = self.kept().get(host)
            && kept.changed == changed
            && kept.read.elapsed() < KEPT
        {
            return Ok(kept.login.clone());
        }
        let login = read(&file, self.is_required, host).await.map_err(|why| {
            tracing::warn!("the login of the registry {host} cannot be read: {why}");
            let text = format!("the login of the registry {host} cannot be read; the log of the service says why");
            Error::new(Code::Unavailable, text)
        })?;
        self.kept().insert(host.to_owned(), Kept { login: login.clone(), changed, read: Instant::now() });
        Ok(login)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn default_file() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}

/// The login, or the reason why there is none, for the log.
async fn read(file: &Path, is_required: bool, host: &str) -> Result<Option<Login>, String> {
    let text = match tokio::fs::read(file).await {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound && !is_required => return Ok(None),
        Err(e) if !is_required => {
            tracing::info!("the logins of {} are not used, it cannot be read: {e}", file.display());
            return Ok(None);
        }
        Err(e) => return Err(format!("{} (setting docker_config) cannot be read: {e}", file.display())),
    };
    let key = if DOCKER_HUB.contains(&host) { DOCKER_HUB_KEY } else { host };
    login_in(&text, key).await.map_err(|why| format!("{}: {why}", file.display()))
}

/// The login of a registry in the text of a configuration, or of the helper that it names.
async fn login_in(text: &[u8], key: &str) -> Result<Option<Login>, String> {
    let unreadable = |_| NOT_DOCKERS.to_owned();
    let helpers: Helpers = serde_json::from_slice(text).map_err(unreadable)?;
    if let Some(program) = helpers.of_registry(key) {
        return credential_helper::login(&program, key, HELPER_LIMIT).await;
    }
    // Without the helpers, which are asked here.
    let mut config: Value = serde_json::from_slice(text).map_err(unreadable)?;
    if let Some(config) = config.as_object_mut() {
        config.retain(|member, _| member == "auths");
    }
    match get_credential_from_reader(config.to_string().as_bytes(), key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Login::Password { user, password: Secret::new(password) }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Login::IdentityToken(Secret::new(token)))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => match helpers.of_others() {
            Some(program) => credential_helper::login(&program, key, HELPER_LIMIT).await,
            None => Ok(None),
        },
        Err(CredentialRetrievalError::ConfigReadError) => Err(NOT_DOCKERS.to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use base64::{Engine, engine::general_purpose::STANDARD};
    use std::fs;

    fn password(user: &str, password: &str) -> Login {
        Login::Password { user: user.to_owned(), password: Secret::new(password) }
    }

    #[tokio::test]
    async fn logins_are_found_by_host_in_every_form_that_docker_writes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let auth = STANDARD.encode("ann:pa:ss");
        let text = format!(
            r#"{{"auths": {{"registry.example:5000": {{"auth": "{auth}"}}, "https://url.example/v2/": {{"auth": "{auth}"}},
                "https://index.docker.io/v1/": {{"auth": "{auth}"}}, "token.example": {{"identitytoken": "t-1"}}}}}}"#
        );
        fs::write(&file, text).unwrap();
        let config = RegistryLogins::new(Some(file.clone()));
        for host in ["registry.example:5000", "url.example", "docker.io", "registry-1.docker.io"] {
            assert_eq!(config.login(host).await.unwrap(), Some(password("ann", "pa:ss")), "{host}");
        }
        assert_eq!(config.login("token.example").await.unwrap(), Some(Login::IdentityToken(Secret::new("t-1"))));
        assert_eq!(config.login("registry.example").await.unwrap(), None, "another port is another registry");

        fs::write(&file, r#"{"auths": {"registry.example:5000": {"auth": "%%%"}}}"#).unwrap();
        let refused = config.login("registry.example:5000").await.unwrap_err().message;
        assert_eq!(
            refused,
            "the login of the registry registry.example:5000 cannot be read; the log of the service says why"
        );
        let why = read(&file, true, "registry.example:5000").await.unwrap_err();
        assert!(why.ends_with("Unable to decode credential"), "{why}");
    }

    #[tokio::test]
    async fn a_named_file_must_be_there_and_the_default_one_need_not() {
        let missing = PathBuf::from("/nowhere/config.json");
        RegistryLogins::new(Some(missing.clone())).login("registry.example").await.unwrap_err();
        assert!(read(&missing, true, "x").await.unwrap_err().contains("(setting docker_config) cannot be read"));
        let default = |file: &Path| RegistryLogins { file: Some(file.to_owned()), ..RegistryLogins::named(None) };
        assert_eq!(default(&missing).login("registry.example").await.unwrap(), None);
        assert_eq!(default(Path::new("/proc/1/mem")).login("registry.example").await.ok(), Some(None));
    }

    #[tokio::test]
    async fn helpers_of_a_registry_win_over_the_file_and_the_store_comes_last() {
        let auth = STANDARD.encode("ann:secret");
        let text = format!(
            r#"{{"auths": {{"own.example": {{"auth": "{auth}"}}, "file.example": {{"auth": "{auth}"}}, "empty.example": {{}}}},
                "credHelpers": {{"own.example": "absent-one"}}, "credsStore": "absent-two"}}"#
        );
        let found = async |host| login_in(text.as_bytes(), host).await;
        assert!(found("own.example").await.unwrap_err().contains("docker-credential-absent-one cannot be run"));
        assert_eq!(found("file.example").await, Ok(Some(password("ann", "secret"))));
        for host in ["empty.example", "other.example"] {
            assert!(found(host).await.unwrap_err().contains("docker-credential-absent-two cannot be run"), "{host}");
        }
        assert_eq!(login_in(b"[]", "x").await, Err(NOT_DOCKERS.to_owned()));
    }
}
