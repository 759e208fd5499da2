//! Registries outside of the installation: where base images come from, and where built images are pushed to.

mod attach;
mod blob_reader;
mod copy;
mod push;
mod tokens;

pub use push::{ImagePusher, Push};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use hoistway_kit::{
    address_scope::is_this_machine,
    registry_logins::{Login, RegistryLogins},
    web::USER_AGENT,
};
use hoistway_model::{Code, Digest, Error, Result, error::innermost};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, LayerDescriptor},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use std::{
    collections::HashMap,
    fmt, io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokens::{Access, Tokens};

/// The time that a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The time that a registry may stay silent in the middle of an answer.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// The time that a small question may take, from its beginning to the end of its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Every name and every address, as exceptions of a proxy are written.
const EVERYTHING: &str = "*,0.0.0.0/0,::/0";
/// The characters of a registry's own words in an error.
const MAX_WORDS: usize = 200;

/// The clients of the registries that an operator has named. Their addresses come from settings, never from a deploy.
pub struct RemoteRegistries {
    /// Registries that are asked without TLS, besides those on this machine.
    insecure: Vec<String>,
    logins: RegistryLogins,
    /// By host, with the login that each was made for: a client keeps the tokens that it was given.
    clients: Mutex<HashMap<String, (Option<Login>, Clients)>>,
}

/// The clients of one registry.
#[derive(Clone)]
struct Clients {
    /// For questions, and for what comes from there.
    ask: Client,
    /// For blobs that go there: the other one counts the time of an upload as silence.
    upload: Client,
    /// The tokens that neither asks for itself.
    tokens: Tokens,
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
        let client = self.clients_of(image, Access::Pull).await?.ask;
        // The login is stored in the client already.
        let asked = within(ANSWER_LIMIT, client.pull_manifest_raw(image, &RegistryAuth::Anonymous, accept)).await;
        let (bytes, _) = asked.map_err(|e| failed(image, &format!("asking for {image}"), e))?;
        Ok((Digest::of(&bytes), bytes))
    }

    /// The bytes of a blob of `image` as they come.
    async fn read(&self, image: &Reference, digest: Digest) -> Result<BoxStream<'static, io::Result<Bytes>>> {
        let client = self.clients_of(image, Access::Pull).await?.ask;
        let text = digest.to_string();
        let layer = LayerDescriptor { digest: &text, urls: &None };
        let reading = client.pull_blob_stream(image, &layer).await;
        Ok(reading.map_err(|e| failed(image, &reading_of(image, digest), e))?.stream)
    }

    /// The clients of an image's registry, ready for what is done next with the image.
    async fn clients_of(&self, image: &Reference, access: Access<'_>) -> Result<Clients> {
        let clients = self.connected(image).await?;
        clients.tokens.authorize(&clients.ask, image, access).await?;
        Ok(clients)
    }

    /// The clients with the present login of an image's registry.
    async fn connected(&self, image: &Reference) -> Result<Clients> {
        let host = image.registry();
        let login = self.logins.login(host).await;
        let login = login.map_err(|e| Error::new(Code::BuildFailed, e.message.clone()).with_source(e))?;
        if let Some((with, clients)) = self.known().get(host)
            && *with == login
        {
            return Ok(clients.clone());
        }
        let auth = match &login {
            Some(Login::Password { user, password }) => RegistryAuth::Basic(user.clone(), password.expose().to_owned()),
            None | Some(Login::IdentityToken(_)) => RegistryAuth::Anonymous,
        };
        if login.is_some() {
            self.check_token_server(image).await?;
        }
        let ask = self.connect(image, &auth, Some(READ_LIMIT)).await?;
        let mut upload = self.connect(image, &auth, None).await?;
        upload.tokens = ask.tokens.clone();
        let tokens = Tokens::new(login.clone(), self.is_plain(host));
        let tokens = tokens.map_err(|e| failed(image, "making an HTTP client", e.into()))?;
        let clients = Clients { ask, upload, tokens };
        self.known().insert(host.to_owned(), (login, clients.clone()));
        Ok(clients)
    }

    /// Refuses a registry with TLS whose token server has none: the login would go there readable.
    async fn check_token_server(&self, image: &Reference) -> Result<()> {
        let host = image.registry();
        if self.is_plain(host) {
            return Ok(());
        }
        let asked = async {
            let client = reqwest::Client::builder().user_agent(USER_AGENT).timeout(ANSWER_LIMIT).build()?;
            client.get(format!("https://{}/v2/", image.resolve_registry())).send().await
        };
        // One that does not answer is reported by the request that follows.
        let Ok(answer) = asked.await else { return Ok(()) };
        let challenges = answer.headers().get_all(http::header::WWW_AUTHENTICATE).iter();
        let mut challenges = challenges.filter_map(|challenge| challenge.to_str().ok());
        if challenges.any(|challenge| challenge.to_ascii_lowercase().contains("realm=\"http://")) {
            let text = format!("the registry {host} has a token server without TLS, to which no login is sent");
            return Err(Error::new(Code::BuildFailed, text));
        }
        Ok(())
    }

    fn is_plain(&self, host: &str) -> bool {
        is_on_this_machine(host) || self.insecure.iter().any(|insecure| insecure == host)
    }

    async fn connect(&self, image: &Reference, auth: &RegistryAuth, silence: Option<Duration>) -> Result<Client> {
        let host = image.registry();
        let is_plain = self.is_plain(host);
        // What is not encrypted goes through no proxy; any setting keeps those of the environment out.
        let (http_proxy, no_proxy) = match is_plain {
            true => (Some("http://127.0.0.1:9".to_owned()), Some(EVERYTHING.to_owned())),
            false => (None, None),
        };
        let client = Client::try_from(ClientConfig {
            protocol: if is_plain { ClientProtocol::Http } else { ClientProtocol::Https },
            // One request for each blob, which every registry takes.
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: silence,
            user_agent: USER_AGENT,
            http_proxy,
            no_proxy,
            ..ClientConfig::default()
        });
        let client = client.map_err(|e| failed(image, "making an HTTP client", e))?;
        client.store_auth_if_needed(image.resolve_registry(), auth).await;
        Ok(client)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, (Option<Login>, Clients)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that must come within `limit`.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = std::result::Result<T, OciDistributionError>>,
) -> std::result::Result<T, OciDistributionError> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(silent(limit)))
}

fn silent(limit: Duration) -> OciDistributionError {
    let text = format!("nothing came for {} s", limit.as_secs());
    OciDistributionError::IoError(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// The activity of reading a blob, in an error.
fn reading_of(image: &Reference, digest: Digest) -> String {
    format!("reading {digest} of {image}")
}

/// Whether the registry could not be asked, so that what it said last may still be right.
pub fn is_away(e: &Error) -> bool {
    let cause = std::error::Error::source(e).and_then(|source| source.downcast_ref::<OciDistributionError>());
    cause.is_some_and(is_transient)
}

/// Whether a registry, `HOST` or `HOST:PORT`, is on this machine.
fn is_on_this_machine(host: &str) -> bool {
    let name = match host.split_once(']') {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    is_this_machine(name)
}

/// The meaning of a registry's failure to the one who deploys, and what to do about it.
fn failed(image: &Reference, doing: &str, e: OciDistributionError) -> Error {
    use OciDistributionError as E;
    let host = image.registry();
    let text = match &e {
        E::AuthenticationFailure(_) | E::UnauthorizedError { .. } => format!(
            "the registry {host} refuses {doing}: check the login in Docker's config.json (`docker login {host}`, setting \
             docker_config), what it may do, and that its token server answers"
        ),
        E::ServerError { code: 401 | 403, .. } => {
            format!("the registry {host} refuses {doing}: its login may not do that")
        }
        e if is_missing(e) => format!("the registry {host} does not have what {doing} needs"),
        E::ServerError { code, .. } => format!("the registry {host} failed {doing}: status {code}"),
        E::RegistryError { envelope, .. } => {
            let said: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
            let words: String = said.join("; ").split_whitespace().collect::<Vec<_>>().join(" ");
            format!("the registry {host} failed {doing}: {}", words.chars().take(MAX_WORDS).collect::<String>())
        }
        E::RequestError(cause) => match cause.status() {
            Some(status) => format!("the registry {host} failed {doing}: status {status}"),
            None => format!("the registry {host} cannot be reached ({}), so {doing} failed", innermost(cause)),
        },
        E::IoError(cause) => format!("the registry {host} failed {doing}: {cause}"),
        // The texts of others may have anything in them that the registry sent.
        _ => format!("the registry {host} failed {doing}: it does not answer as a registry"),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn registries_of_this_machine_are_asked_without_tls() {
        for here in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.8.8", "[::1]:5000"] {
            assert!(is_on_this_machine(here), "{here}");
        }
        for other in ["registry.example", "127.0.0.1.example:5000", "10.0.0.1:5000", "localhost.example"] {
            assert!(!is_on_this_machine(other), "{other}");
        }
    }
}
