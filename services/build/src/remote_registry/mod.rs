//! Registries outside of the installation: where base images come from, and where built images are pushed to.

mod blob_reader;
mod copy;
mod push;

pub use push::{ImageRegistry, Push};

use bytes::Bytes;
use hoistway_kit::{
    registry_logins::{Login, RegistryLogins},
    web::USER_AGENT,
};
use hoistway_model::{Code, Digest, Error, Result};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The time that a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The time that a registry may stay silent in the middle of an answer.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// The clients of the registries that an operator has named. Their addresses come from settings, never from a deploy.
pub struct RemoteRegistries {
    /// Registries that are asked without TLS, besides those on this machine.
    insecure: Vec<String>,
    logins: RegistryLogins,
    /// By host, with the login that each was made for: a client keeps the tokens that it was given.
    clients: Mutex<HashMap<String, (Option<Login>, Client)>>,
}

impl fmt::Debug for RemoteRegistries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteRegistries").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

impl RemoteRegistries {
    /// Registries with the logins of `logins`; those of `insecure` (`HOST` or `HOST:PORT`) are asked without TLS.
    pub fn new(logins: RegistryLogins, insecure: Vec<String>) -> Self {
        // The TLS library asks the process for its cryptography. The first to say so wins, and all say ring.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { insecure, logins, clients: Mutex::default() }
    }

    /// The manifest or index that a reference names now, with its digest.
    pub async fn manifest(&self, image: &Reference, accept: &[&str]) -> Result<(Digest, Bytes)> {
        let client = self.client(image).await?;
        // The login is stored in the client already.
        let asked = client.pull_manifest_raw(image, &RegistryAuth::Anonymous, accept).await;
        let (bytes, _) = asked.map_err(|e| failed(image, &format!("asking for {image}"), e))?;
        Ok((Digest::of(&bytes), bytes))
    }

    /// A client with the present login of an image's registry.
    async fn client(&self, image: &Reference) -> Result<Client> {
        let host = image.registry();
        let login = self
            .logins
            .login(host)
            .await
            .map_err(|e| Error::new(Code::BuildFailed, e.message.clone()).with_source(e))?;
        if let Some((with, client)) = self.clients().get(host)
            && *with == login
        {
            return Ok(client.clone());
        }
        let client = self.connect(image, &login).await?;
        self.clients().insert(host.to_owned(), (login, client.clone()));
        Ok(client)
    }

    async fn connect(&self, image: &Reference, login: &Option<Login>) -> Result<Client> {
        let host = image.registry();
        let auth = match login {
            None => RegistryAuth::Anonymous,
            Some(Login::Password { user, password }) => RegistryAuth::Basic(user.clone(), password.expose().to_owned()),
            Some(Login::IdentityToken(_)) => {
                let text = format!(
                    "the login of {host} is an identity token, which is not supported: log in with a user and an access token"
                );
                return Err(Error::new(Code::BuildFailed, text));
            }
        };
        let protocol = if is_this_machine(host) || self.insecure.iter().any(|insecure| insecure == host) {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let client = Client::try_from(ClientConfig {
            protocol,
            // One request for each blob, which every registry takes.
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(READ_LIMIT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        });
        let client = client.map_err(|e| failed(image, "making an HTTP client", e))?;
        client.store_auth_if_needed(image.resolve_registry(), &auth).await;
        Ok(client)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<String, (Option<Login>, Client)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a registry is on this machine, where nobody listens in between.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// The meaning of a registry's failure to the one who deploys, and what to do about it.
fn failed(image: &Reference, doing: &str, e: OciDistributionError) -> Error {
    use OciDistributionError as E;
    let host = image.registry();
    let text = match &e {
        E::AuthenticationFailure(_) | E::UnauthorizedError { .. } => format!(
            "the registry {host} refuses {doing}: check the login in Docker's config.json (`docker login {host}`, setting \
             docker_config) and what it may do"
        ),
        E::ServerError { code: 401 | 403, .. } => {
            format!("the registry {host} refuses {doing}: its login may not do that")
        }
        e if is_missing(e) => format!("the registry {host} does not have what {doing} needs"),
        E::ServerError { code, .. } => format!("the registry {host} failed {doing}: status {code}"),
        E::RegistryError { envelope, .. } => {
            let said: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
            format!("the registry {host} failed {doing}: {}", said.join("; "))
        }
        E::RequestError(cause) => match cause.status() {
            Some(status) => format!("the registry {host} failed {doing}: status {status}"),
            None => format!("the registry {host} cannot be reached ({}), so {doing} failed", innermost(cause)),
        },
        other => format!("the registry {host} failed {doing}: {other}"),
    };
    Error::new(Code::BuildFailed, text).with_source(e)
}

/// Whether a registry says that it does not have what it is asked for.
fn is_missing(e: &OciDistributionError) -> bool {
    match e {
        OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => {
            true
        }
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            use OciErrorCode::{BlobUnknown, ManifestUnknown, NameUnknown, NotFound};
            matches!(error.code, BlobUnknown | ManifestUnknown | NameUnknown | NotFound)
        }),
        _ => false,
    }
}

/// Whether another try may succeed.
fn is_transient(e: &OciDistributionError) -> bool {
    match e {
        OciDistributionError::RequestError(e) => e.status().is_none_or(|status| status.is_server_error()),
        OciDistributionError::ServerError { code, .. } => *code == 429 || *code >= 500,
        OciDistributionError::IoError(_) => true,
        _ => false,
    }
}

fn innermost(e: &dyn StdError) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn registries_of_this_machine_are_asked_without_tls() {
        for here in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.8.8", "[::1]:5000"] {
            assert!(is_this_machine(here), "{here}");
        }
        for other in ["registry.example", "127.0.0.1.example:5000", "10.0.0.1:5000", "localhost.example"] {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
