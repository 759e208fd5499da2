//! Registries: which address, protocol and credential each has, and what its answers mean.
//!
//! Two kinds of failure matter to callers: a registry that cannot be asked at the moment, which heals by itself, and
//! one that says that the image is not there, which does not.

use super::{LayerStore, unpack::Expected};
use bytes::Bytes;
use futures_util::TryStreamExt;
use hoistway_model::{Code, Digest, Error, Result, Secret, image::ImageRef};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::OciImageManifest,
    secrets::RegistryAuth,
};
use std::{error::Error as StdError, fmt, future::Future, io, net::IpAddr, time::Duration};
use tokio::sync::{Semaphore, mpsc};

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a registry may stay silent in the middle of a layer.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// An image's configuration is a few kilobytes.
const MAX_CONFIG: usize = 4 * 1024 * 1024;
/// The limit of common registries and runtimes.
const MAX_LAYERS: usize = 127;
/// Layers that are pulled at the same time.
const PULLS: usize = 4;
/// Chunks of a layer that wait to be unpacked.
const CHUNKS: usize = 16;

/// Why an image was not pulled.
#[derive(Debug)]
pub enum Failure {
    /// Its registry cannot be asked, or does not answer as a registry: worth another try. The text is for people.
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

/// A layer of an image, as its manifest and configuration describe it.
#[derive(Debug)]
pub(super) struct Layer {
    pub digest: Digest,
    diff_id: Digest,
    gzip: bool,
}

/// The manifest of an image for this machine.
#[derive(Debug)]
pub(super) struct Manifest(OciImageManifest);

impl Manifest {
    /// The layers, lowest first; nothing if they are of a kind that our build service does not write.
    pub fn layers(&self, diff_ids: &[Digest]) -> Option<Vec<Layer>> {
        if self.0.layers.len() != diff_ids.len() || diff_ids.len() > MAX_LAYERS {
            return None;
        }
        let layer = |(layer, diff_id): (&oci_client::manifest::OciDescriptor, &Digest)| {
            let gzip = match layer.media_type.as_str() {
                "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                    true
                }
                "application/vnd.oci.image.layer.v1.tar" => false,
                _ => return None,
            };
            Some(Layer { digest: layer.digest.parse().ok()?, diff_id: *diff_id, gzip })
        };
        self.0.layers.iter().zip(diff_ids).map(layer).collect()
    }
}

/// The registries that images are pulled from.
pub struct Registries {
    /// Without TLS and without a proxy: our own registry, and those on this machine.
    plain: Client,
    /// `None` on a machine without CA certificates.
    tls: Option<Client>,
    platform_address: String,
    platform_auth: RegistryAuth,
    pulls: Semaphore,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").field("platform_address", &self.platform_address).finish_non_exhaustive()
    }
}

impl Registries {
    /// With the platform's own registry at `platform_address` (`host:port`, plain HTTP), where `token` opens.
    pub fn new(platform_address: &str, token: &Secret) -> Result<Self> {
        // The TLS library asks the process for its cryptography. The first to say so wins, and all of us say ring.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = |protocol| ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(READ_LIMIT),
            user_agent: concat!("hoistway-agent/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // A proxy of the environment has no business between us and this machine. The library knows no plainer way to
        // say so than a proxy that is used for no host.
        let plain = |accept_invalid_certificates| ClientConfig {
            accept_invalid_certificates,
            http_proxy: Some("http://127.0.0.1:9".to_owned()),
            https_proxy: Some("http://127.0.0.1:9".to_owned()),
            no_proxy: Some("*,0.0.0.0/0,::/0".to_owned()),
            ..config(ClientProtocol::Http)
        };
        let tls = Client::try_from(config(ClientProtocol::Https));
        if let Err(e) = &tls {
            tracing::warn!("images of registries with TLS cannot be pulled: {}", chain(e));
        }
        // Without CA certificates on the machine a client is only made if it needs none; it speaks plain HTTP anyway.
        let plain = Client::try_from(plain(tls.is_err())).map_err(|e| Error::internal("making an HTTP client", e))?;
        Ok(Self {
            plain,
            tls: tls.ok(),
            platform_address: platform_address.to_owned(),
            platform_auth: RegistryAuth::Bearer(token.expose().to_owned()),
            pulls: Semaphore::new(PULLS),
        })
    }

    /// The manifest digest that a reference stands for now.
    pub(super) async fn resolve(&self, image: &ImageRef, patience: Duration) -> Result<Digest, Failure> {
        let place = self.place(image, None)?;
        // The whole manifest: a web server that knows no manifests answers a question for the digest alone with 200 too.
        let asked = place.client.pull_manifest(&place.reference, place.auth);
        let (_, digest) = place.within(patience, asked).await?;
        digest.parse().map_err(|_| place.not_a_registry("its digest is not sha256"))
    }

    /// The manifest for this machine: of an index, the one for its platform.
    pub(super) async fn manifest(
        &self,
        image: &ImageRef,
        digest: &Digest,
        patience: Duration,
    ) -> Result<Manifest, Failure> {
        let place = self.place(image, Some(digest))?;
        let asked = place.client.pull_image_manifest(&place.reference, place.auth);
        Ok(Manifest(place.within(patience, asked).await?.0))
    }

    /// The configuration, as bytes.
    pub(super) async fn config(
        &self,
        image: &ImageRef,
        manifest: &Manifest,
        patience: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let place = self.place(image, None)?;
        let read = async {
            let mut bytes = Vec::new();
            let mut stream = place.client.pull_blob_stream(&place.reference, &manifest.0.config).await?;
            while let Some(chunk) = stream.try_next().await? {
                if bytes.len() + chunk.len() > MAX_CONFIG {
                    return Err(io::Error::other("its configuration is too large").into());
                }
                bytes.extend_from_slice(&chunk);
            }
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
        let place = self.place(image, None)?;
        let _permit = self.pulls.acquire().await;
        let digest = layer.digest.to_string();
        let mut stream = match place.client.pull_blob_stream(&place.reference, digest.as_str()).await {
            Ok(stream) => stream,
            Err(e) => return Err(place.failure(e)),
        };
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNKS);
        let feed = async move {
            loop {
                let chunk = match stream.try_next().await {
                    Ok(Some(chunk)) => Ok(chunk),
                    Ok(None) => break,
                    Err(e) => Err(io::Error::other(chain(&e))),
                };
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

    fn place<'a>(&'a self, image: &'a ImageRef, digest: Option<&Digest>) -> Result<Place<'a>, Failure> {
        let ours = image.is_platform();
        let host = if ours { self.platform_address.as_str() } else { image.host.as_str() };
        let client = match &self.tls {
            _ if ours || is_loopback(host) => &self.plain,
            Some(client) => client,
            None => {
                return Err(Failure::Unreachable("this machine has no CA certificates, so TLS is impossible".into()));
            }
        };
        let (host, repository) = (host.to_owned(), image.repository.clone());
        let reference = match digest.or(image.digest.as_ref()) {
            Some(digest) => Reference::with_digest(host, repository, digest.to_string()),
            None => Reference::with_tag(host, repository, image.reference()),
        };
        let auth = if ours { &self.platform_auth } else { &RegistryAuth::Anonymous };
        Ok(Place { image, client, reference, auth })
    }
}

/// Whether a registry is on this machine, where plain HTTP is the habit.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An image where it is.
struct Place<'a> {
    image: &'a ImageRef,
    client: &'a Client,
    reference: Reference,
    auth: &'a RegistryAuth,
}

impl Place<'_> {
    async fn within<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, Failure> {
        // Every call but the first of a client finds the credential stored; storing it again changes nothing.
        self.client.store_auth_if_needed(self.reference.resolve_registry(), self.auth).await;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(self.failure(e)),
            Err(_) => Err(self.unreachable(&format!("it did not answer within {} s", patience.as_secs()))),
        }
    }

    /// What an error of the library means.
    fn failure(&self, e: OciDistributionError) -> Failure {
        use OciDistributionError as E;
        match e {
            E::RegistryError { envelope, .. } => {
                let unknown = envelope.errors.iter().any(|e| {
                    use OciErrorCode::{ManifestUnknown, NameInvalid, NameUnknown, NotFound};
                    matches!(e.code, ManifestUnknown | NameUnknown | NameInvalid | NotFound)
                });
                if unknown {
                    let text = format!("{} does not exist: its registry does not have it", self.image.display_tagged());
                    return Failure::Final(Error::new(Code::ImageNotFound, text));
                }
                let said = envelope.errors.first().map_or("an error", |e| e.message.as_str());
                self.unreachable(&format!("it says \"{}\"", brief(said)))
            }
            E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => {
                self.unreachable("it wants a login, or does not have the image")
            }
            E::ServerError { code: 403, .. } => self.unreachable("it does not allow to pull the image"),
            E::ServerError { code, .. } if code >= 500 => self.unreachable(&format!("it answered with status {code}")),
            E::ServerError { code, .. } => self.not_a_registry(&format!("its answer has status {code}")),
            E::ImageManifestNotFoundError(_) => {
                let text = format!("{} has no variant for this machine's platform", self.image.display_tagged());
                Failure::Final(Error::new(Code::UnsupportedImage, text))
            }
            E::RequestError(e) if e.is_timeout() => self.unreachable("it did not answer in time"),
            E::RequestError(e) if e.is_connect() => self.unreachable(&innermost(&e)),
            E::RequestError(e) => self.unreachable(&chain(&e)),
            E::IoError(e) => self.unreachable(&chain(&e)),
            e => self.not_a_registry(&brief(&e.to_string())),
        }
    }

    fn unreadable(&self, e: super::Unreadable) -> Failure {
        use super::Unreadable as U;
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

    fn not_a_registry(&self, why: &str) -> Failure {
        Failure::Unreachable(format!("{} does not answer as a registry: {why}", self.image.host))
    }
}

/// An error and its causes in one line.
fn chain(e: &(dyn StdError + 'static)) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    brief(&text)
}

/// The cause that says most: the last one.
fn innermost(e: &(dyn StdError + 'static)) -> String {
    let mut cause = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    brief(&cause.to_string())
}

/// What a stranger said, in one line of bearable length.
fn brief(text: &str) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(200) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
