//! Logins of container registries, as `docker login` writes them: a `config.json` with `auths`, and the credential
//! helpers that it names.

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use hoistway_model::{Code, Error, Result, Secret};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, ErrorKind},
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
        let (is_required, key) = (self.is_required, host.to_owned());
        let reading = tokio::task::spawn_blocking(move || read(&file, is_required, &key));
        let read = tokio::time::timeout(HELPER_LIMIT, reading).await;
        let login = match read {
            Ok(Ok(read)) => read,
            Ok(Err(e)) => return Err(Error::internal("reading the configuration of Docker", e)),
            Err(_) => Err(format!("the credential helper did not answer within {} s", HELPER_LIMIT.as_secs())),
        };
        let login = login.map_err(|why| {
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
fn read(file: &Path, is_required: bool, host: &str) -> Result<Option<Login>, String> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::NotFound && !is_required => return Ok(None),
        Err(e) if !is_required => {
            tracing::info!("the logins of {} are not used, it cannot be read: {e}", file.display());
            return Ok(None);
        }
        Err(e) => return Err(format!("{} (setting docker_config) cannot be read: {e}", file.display())),
    };
    let key = if DOCKER_HUB.contains(&host) { DOCKER_HUB_KEY } else { host };
    match get_credential_from_reader(BufReader::new(opened), key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Login::Password { user, password: Secret::new(password) }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Login::IdentityToken(Secret::new(token)))),
        Err(e) if is_no_login(&e) => Ok(None),
        Err(e) => Err(format!("{}: {}", file.display(), reason(&e))),
    }
}

/// Whether nobody has logged in to a registry. Docker's helpers are asked for every host, and say it with a failure.
fn is_no_login(e: &CredentialRetrievalError) -> bool {
    match e {
        CredentialRetrievalError::NoCredentialConfigured => true,
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => {
            [stdout, stderr].iter().any(|text| text.contains("credentials not found"))
        }
        _ => false,
    }
}

/// The output of a helper is not repeated: it may have the secret in it.
fn reason(e: &CredentialRetrievalError) -> String {
    match e {
        CredentialRetrievalError::HelperFailure { helper, .. } => format!("{helper} failed; try `{helper} get`"),
        CredentialRetrievalError::HelperCommunicationError => "its credential helper cannot be run".to_owned(),
        CredentialRetrievalError::ConfigReadError => "it is not the JSON of Docker's configuration".to_owned(),
        other => other.to_string(),
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
        assert!(read(&file, true, "registry.example:5000").unwrap_err().ends_with("Unable to decode credential"));
    }

    #[tokio::test]
    async fn a_named_file_must_be_there_and_the_default_one_need_not() {
        let missing = PathBuf::from("/nowhere/config.json");
        RegistryLogins::new(Some(missing.clone())).login("registry.example").await.unwrap_err();
        assert!(read(&missing, true, "x").unwrap_err().contains("(setting docker_config) cannot be read"));
        let default = |file: &Path| RegistryLogins { file: Some(file.to_owned()), ..RegistryLogins::named(None) };
        assert_eq!(default(&missing).login("registry.example").await.unwrap(), None);
        assert_eq!(default(Path::new("/proc/1/mem")).login("registry.example").await.ok(), Some(None));
    }

    #[test]
    fn a_helper_that_has_no_login_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        fs::write(&file, r#"{"credsStore": "absent-in-this-test"}"#).unwrap();
        assert!(read(&file, true, "r.example").unwrap_err().ends_with("its credential helper cannot be run"));
        let none = CredentialRetrievalError::HelperFailure {
            helper: "docker-credential-x".to_owned(),
            stdout: "credentials not found in native keychain".to_owned(),
            stderr: String::new(),
        };
        assert!(is_no_login(&none));
    }

    #[test]
    fn a_failed_helper_is_named_and_its_output_is_not() {
        let failure = CredentialRetrievalError::HelperFailure {
            helper: "docker-credential-x".to_owned(),
            stdout: "s3cret".to_owned(),
            stderr: "s3cret".to_owned(),
        };
        assert_eq!(reason(&failure), "docker-credential-x failed; try `docker-credential-x get`");
    }
}
