//! Logins of container registries, as `docker login` writes them: a `config.json` with `auths`, and the credential
//! helpers that it names.

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use hoistway_model::{Code, Error, Result, Secret};
use std::{
    fs::File,
    io::{BufReader, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

/// The time that a credential helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(30);
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

/// The logins of a configuration file of Docker. It is read anew for each login, because tokens in it expire and are replaced.
#[derive(Debug, Clone)]
pub struct RegistryLogins {
    file: Option<PathBuf>,
    /// Whether somebody has named the file, so that it must be there.
    is_required: bool,
}

impl RegistryLogins {
    /// The file that an operator has named, else `$DOCKER_CONFIG/config.json` or `~/.docker/config.json` if it is there.
    pub fn new(file: Option<PathBuf>) -> Self {
        let is_required = file.is_some();
        Self { file: file.or_else(default_file), is_required }
    }

    /// The login of the registry at `host` (`HOST` or `HOST:PORT`); none if the file has none.
    pub async fn login(&self, host: &str) -> Result<Option<Login>> {
        let Some(file) = self.file.clone() else { return Ok(None) };
        let (is_required, host) = (self.is_required, host.to_owned());
        let reading = tokio::task::spawn_blocking(move || read(&file, is_required, &host));
        let read = tokio::time::timeout(HELPER_LIMIT, reading).await.map_err(|_| {
            let text = format!("the credential helper of Docker did not answer within {} s", HELPER_LIMIT.as_secs());
            Error::new(Code::Unavailable, text)
        })?;
        read.map_err(|e| Error::internal("reading the configuration of Docker", e))?
    }
}

fn default_file() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}

fn read(file: &Path, is_required: bool, host: &str) -> Result<Option<Login>> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::NotFound && !is_required => return Ok(None),
        Err(e) => {
            let text = format!("{} (setting docker_config) cannot be read: {e}", file.display());
            return Err(Error::new(Code::Unavailable, text).with_source(e));
        }
    };
    let key = if DOCKER_HUB.contains(&host) { DOCKER_HUB_KEY } else { host };
    match get_credential_from_reader(BufReader::new(opened), key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Login::Password { user, password: Secret::new(password) }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Login::IdentityToken(Secret::new(token)))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(e) => {
            let text = format!("{} has no usable login for {host}: {}", file.display(), reason(&e));
            Err(Error::new(Code::Unavailable, text))
        }
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
        assert!(refused.ends_with("has no usable login for registry.example:5000: Unable to decode credential"));
    }

    #[tokio::test]
    async fn a_named_file_must_be_there_and_the_default_one_need_not() {
        let missing = PathBuf::from("/nowhere/config.json");
        let refused = RegistryLogins::new(Some(missing.clone())).login("registry.example").await.unwrap_err();
        assert!(refused.message.contains("(setting docker_config) cannot be read"), "{refused}");
        let default = RegistryLogins { file: Some(missing), is_required: false };
        assert_eq!(default.login("registry.example").await.unwrap(), None);
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
