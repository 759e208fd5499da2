//! Registries: which address, protocol and credential each has, and what its answers mean.
//!
//! Two kinds of failure matter to callers: a registry that cannot be reached at the moment, which heals by itself, and
//! one that says that the image is not there, which does not.

mod challenge;
mod http;
mod manifest;

pub(super) use manifest::{Layer, Manifest};

use super::{LayerStore, Unreadable, unpack::Expected};
use ::http::{HeaderMap, HeaderValue, StatusCode};
use bytes::Bytes;
use hoistway_kit::{
    registry_logins::{Login, RegistryLogins},
    tls::ServiceAddress,
};
use hoistway_model::{Code, Digest, Error, Result, Secret, image::ImageRef};
use http::{Http, Trouble, brief, chain, is_this_machine};
use manifest::Found;
use reqwest::{Response, Url};
use serde::Deserialize;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout_at},
};

/// The largest manifest, and the largest configuration: of real images they have a few kilobytes.
const MAX_DOCUMENT: usize = 4 << 20;
/// The largest answer with a token, and the largest with an error.
const MAX_ANSWER: usize = 64 << 10;
/// Repositories whose tokens are kept.
const MAX_TOKENS: usize = 256;
/// Layers that are pulled at the same time.
const PULLS: usize = 4;
/// Chunks of a layer that wait to be unpacked.
const CHUNKS: usize = 16;
/// The time that a layer may take, beside a second for each so many bytes of it: one that drips would hold its place
/// for good.
const LAYER_PATIENCE: Duration = Duration::from_secs(60);
const LAYER_PACE: u64 = 16 << 10;

/// Why an image was not pulled.
#[derive(Debug)]
pub enum Failure {
    /// Its registry cannot be reached, or does not answer as a registry: worth another try. The text is for people.
    Unreachable(String),
    /// Trying again would not help.
    Final(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(why) => f.write_str(why),
            Failure::Final(e) => e.fmt(f),
        }
    }
}

/// The registries that images are pulled from.
pub struct Registries {
    http: Http,
    platform: ServiceAddress,
    platform_auth: HeaderValue,
    /// The logins of other registries.
    logins: RegistryLogins,
    /// Registries that are asked without TLS, besides those on this machine.
    insecure: Vec<String>,
    /// What was shown with success, by host and repository: tokens and logins. One that has expired is refused, and then
    /// replaced.
    tokens: Mutex<HashMap<(String, String), HeaderValue>>,
    pulls: Semaphore,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").field("platform", &self.platform).finish_non_exhaustive()
    }
}

impl Registries {
    /// With the platform's own registry, where `token` opens. Others open by `logins`, and those of `insecure` are asked
    /// without TLS.
    pub fn new(
        platform: ServiceAddress,
        token: &Secret,
        logins: RegistryLogins,
        insecure: Vec<String>,
    ) -> Result<Self> {
        let platform_auth = challenge::bearer(token.expose());
        Ok(Self {
            http: Http::new(platform.clone())?,
            platform,
            platform_auth: platform_auth.ok_or_else(|| Error::internal("reading the service token", "not a token"))?,
            logins,
            insecure,
            tokens: Mutex::default(),
            pulls: Semaphore::new(PULLS),
        })
    }

    /// The manifest digest of a reference now.
    pub(super) async fn resolve(&self, image: &ImageRef, patience: Duration) -> Result<Digest, Failure> {
        let place = self.place(image)?;
        // The whole manifest: a web server that knows no manifests answers a question for the digest alone with 200
        // too.
        let asked = async {
            let bytes = place.manifest(&image.reference(), image.digest.as_ref()).await?;
            Found::parse(&bytes)?;
            Ok(Digest::of(&bytes))
        };
        place.within(patience, asked).await
    }

    /// The manifest for this machine: of an index, the one for its platform.
    pub(super) async fn manifest(
        &self,
        image: &ImageRef,
        digest: &Digest,
        patience: Duration,
    ) -> Result<Manifest, Failure> {
        let place = self.place(image)?;
        let asked = async {
            let found = Found::parse(&place.manifest(&digest.to_string(), Some(digest)).await?)?;
            let ours = match found {
                Found::Manifest(manifest) => return Ok(manifest),
                Found::Index(ours) => ours.ok_or(Trouble::NoVariant)?,
            };
            match Found::parse(&place.manifest(&ours.to_string(), Some(&ours)).await?)? {
                Found::Manifest(manifest) => Ok(manifest),
                Found::Index(_) => Err(Trouble::NoVariant),
            }
        };
        place.within(patience, asked).await
    }

    /// The configuration, as bytes.
    pub(super) async fn config(
        &self,
        image: &ImageRef,
        manifest: &Manifest,
        patience: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let place = self.place(image)?;
        let read = async {
            let answer = place.blob(&manifest.config).await?;
            let bytes = self.http.read(answer, "its configuration", MAX_DOCUMENT).await?;
            same("configuration", &manifest.config, &bytes)?;
            Ok(bytes)
        };
        place.within(patience, read).await
    }

    /// Streams a layer into the store.
    pub(super) async fn unpack_layer(
        &self,
        image: &ImageRef,
        layer: &Layer,
        store: &LayerStore,
    ) -> Result<(), Failure> {
        let place = self.place(image)?;
        let _permit = self.pulls.acquire().await;
        let mut answer = place.blob(&layer.digest).await.map_err(|trouble| place.failure(trouble))?;
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNKS);
        let feed = async move {
            let (mut left, due) =
                (layer.size, Instant::now() + LAYER_PATIENCE + Duration::from_secs(layer.size / LAYER_PACE));
            loop {
                let chunk = match timeout_at(due, answer.chunk()).await {
                    Ok(Ok(Some(chunk))) => Ok(chunk),
                    Ok(Ok(None)) => break,
                    Ok(Err(e)) => Err(io::Error::other(chain(&e))),
                    Err(_) => Err(io::Error::other("it comes too slowly")),
                };
                let chunk = chunk.and_then(|chunk| match left.checked_sub(chunk.len() as u64) {
                    Some(rest) => {
                        left = rest;
                        Ok(chunk)
                    }
                    None => Err(io::Error::other("it is longer than its manifest says")),
                });
                let last = chunk.is_err();
                // Unpacking that ended early says itself why.
                if sender.send(chunk).await.is_err() || last {
                    break;
                }
            }
        };
        let expected = Expected { blob: layer.digest, diff_id: layer.diff_id, gzip: layer.gzip };
        let ((), unpacked) = tokio::join!(feed, store.unpack(expected, receiver));
        unpacked.map_err(|e| place.unreadable(e))
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<(String, String), HeaderValue>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place<'a>(&'a self, image: &'a ImageRef) -> Result<Place<'a>, Failure> {
        let ours = image.is_platform();
        let platform = self.platform.to_string();
        let host = match image.host.as_str() {
            _ if ours => platform.as_str(),
            // Where Docker Hub has its registry.
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let base = |scheme: &str| Url::parse(&format!("{scheme}://{host}/v2/{}/", image.repository));
        let is_plain = |url: &Url| match ours {
            true => !self.platform.has_tls(),
            false => is_this_machine(url) || self.insecure.contains(&image.host),
        };
        let tls = base("https").and_then(|tls| if is_plain(&tls) { base("http") } else { Ok(tls) });
        let base = tls.map_err(|_| Failure::Final(Error::field("image", "names no host of a registry")))?;
        Ok(Place { image, registries: self, base, ours })
    }
}

/// An image where it is.
struct Place<'a> {
    image: &'a ImageRef,
    registries: &'a Registries,
    /// The repository's address.
    base: Url,
    ours: bool,
}

/// Errors of registries.
#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    code: String,
    #[serde(default)]
    message: String,
}

impl Place<'_> {
    /// A manifest's or an index's bytes, which are those of `digest` if that is known.
    async fn manifest(&self, reference: &str, digest: Option<&Digest>) -> Result<Vec<u8>, Trouble> {
        let answer = self.ask(&format!("manifests/{reference}"), manifest::ACCEPT).await?;
        let told = answer.headers().get("docker-content-digest").cloned();
        let bytes = self.registries.http.read(answer, "its manifest", MAX_DOCUMENT).await?;
        if let Some(digest) = digest {
            same("manifest", digest, &bytes)?;
        }
        if let Some(told) = told {
            let told = told.to_str().ok().and_then(|told| told.parse().ok());
            same("manifest", &told.ok_or_else(|| Trouble::Silent("its digest is not sha256".to_owned()))?, &bytes)?;
        }
        Ok(bytes)
    }

    async fn blob(&self, digest: &Digest) -> Result<Response, Trouble> {
        self.ask(&format!("blobs/{digest}"), "*/*").await
    }

    /// Asks for what is at `path` of the repository, with a token or a login where the registry wants one.
    async fn ask(&self, path: &str, accept: &str) -> Result<Response, Trouble> {
        let url = self.base.join(path).map_err(|e| Trouble::Silent(e.to_string()))?;
        let http = &self.registries.http;
        if self.ours {
            return self.accept(http.get(&url, accept, Some(&self.registries.platform_auth)).await?).await;
        }
        let key = || (self.image.host.clone(), self.image.repository.clone());
        let known = self.registries.tokens().get(&key()).cloned();
        let answer = http.get(&url, accept, known.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.accept(answer).await;
        }
        let Some(shown) = self.authenticate(answer.headers()).await? else { return self.accept(answer).await };
        {
            let mut tokens = self.registries.tokens();
            if tokens.len() >= MAX_TOKENS {
                tokens.clear();
            }
            tokens.insert(key(), shown.clone());
        }
        self.accept(http.get(&url, accept, Some(&shown)).await?).await
    }

    /// What answers a registry's challenge: a token of its token server, which the registry's login opens if there is
    /// one, or the login itself. None if there is nothing to show.
    async fn authenticate(&self, challenges: &HeaderMap) -> Result<Option<HeaderValue>, Trouble> {
        let login = match self.registries.logins.login(&self.image.host).await {
            Ok(Some(Login::Password { user, password })) => challenge::basic(&user, password.expose()),
            Ok(Some(Login::IdentityToken(_))) => {
                let why =
                    "its login is an identity token, which is not supported: log in with a user and an access token";
                return Err(Trouble::Wrong(why.to_owned()));
            }
            Ok(None) => None,
            Err(e) => return Err(Trouble::Wrong(e.message)),
        };
        let Some(from) = challenge::token_url(challenges, &self.base, &self.image.repository) else {
            return Ok(login.filter(|_| challenge::wants_password(challenges)));
        };
        let http = &self.registries.http;
        let given = http.get(&from, "application/json", login.as_ref()).await.map_err(|trouble| match trouble {
            Trouble::Forbidden(why) => Trouble::Wrong(format!("it has its tokens elsewhere, and there {why}")),
            trouble => trouble,
        })?;
        if given.status() != StatusCode::OK {
            return Err(Trouble::Login);
        }
        let given = http.read(given, "its answer with a token", MAX_ANSWER).await?;
        challenge::shown(&given).map(Some).ok_or(Trouble::Login)
    }

    /// The classification of an answer, or the reason why it is none.
    async fn accept(&self, answer: Response) -> Result<Response, Trouble> {
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let challenged = challenge::token_url(answer.headers(), &self.base, "").is_some();
        let body = self.registries.http.read(answer, "its error", MAX_ANSWER).await.unwrap_or_default();
        let said = serde_json::from_slice::<Envelope>(&body).map(|envelope| envelope.errors).unwrap_or_default();
        let missing = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NAME_INVALID", "NOT_FOUND"];
        match said.first() {
            _ if said.iter().any(|said| missing.contains(&said.code.as_str())) => Err(Trouble::Missing),
            Some(_) if status == StatusCode::UNAUTHORIZED => Err(Trouble::Login),
            None if status == StatusCode::UNAUTHORIZED && challenged => Err(Trouble::Login),
            Some(said) => Err(Trouble::Wrong(format!("it says \"{}\"", brief(&said.message)))),
            None => Err(Trouble::Silent(format!("its answer has status {}", status.as_u16()))),
        }
    }

    async fn within<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Failure> {
        let silence = || Trouble::Silent(format!("it did not answer within {} s", patience.as_secs()));
        let answered = tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| Err(silence()));
        answered.map_err(|trouble| self.failure(trouble))
    }

    /// The meaning of a failure for whoever wants the image.
    fn failure(&self, trouble: Trouble) -> Failure {
        let image = self.image.display_tagged();
        match trouble {
            Trouble::Silent(why) => {
                tracing::info!("the registry of {image} cannot be asked: {why}");
                self.unreachable("it cannot be reached, or is no registry; the agent service's log says which")
            }
            Trouble::Wrong(why) => self.unreachable(&why),
            Trouble::Login => self.unreachable("it wants a login, or does not have the image"),
            Trouble::Forbidden(why) => {
                Failure::Final(Error::field("image", format!("the registry of {image} is not asked: {why}")))
            }
            Trouble::Missing => {
                let text = format!("{image} does not exist: its registry does not have it");
                Failure::Final(Error::new(Code::ImageNotFound, text))
            }
            Trouble::NoVariant => {
                let text = format!("{image} has no variant for this machine's platform");
                Failure::Final(Error::new(Code::UnsupportedImage, text))
            }
        }
    }

    fn unreadable(&self, e: Unreadable) -> Failure {
        use Unreadable as U;
        let image = self.image.display_tagged();
        match e {
            U::Transfer(why) => self.unreachable(&why),
            U::Refused(why) => Failure::Final(Error::new(Code::UnsupportedImage, format!("{image} is refused: {why}"))),
            U::Disk(e) if e.kind() == io::ErrorKind::StorageFull => {
                let text = format!("the disk is full: {image} cannot be unpacked");
                Failure::Final(Error::new(Code::InsufficientStorage, text).with_source(e))
            }
            U::Disk(e) => Failure::Final(Error::internal("unpacking an image", e)),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!("the registry of {} cannot be asked: {why}", self.image.display_tagged()))
    }
}

/// Whether what came is what was requested.
fn same(what: &str, digest: &Digest, bytes: &[u8]) -> Result<(), Trouble> {
    match Digest::of(bytes) {
        actual if actual == *digest => Ok(()),
        actual => Err(Trouble::Wrong(format!("the {what} is {actual}, and should be {digest}"))),
    }
}
