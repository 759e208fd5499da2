//! A certificate with its key, and the authority that vouches for peers, in PEM files that others renew.

use hoistway_model::{Error, Result};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The time for which the files are taken to be unchanged.
const RECHECK: Duration = Duration::from_secs(10);

const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// The files of a certificate. Cheap to clone; clones share what was read.
#[derive(Clone)]
pub struct CertificateFiles(Arc<Shared>);

struct Shared {
    paths: Paths,
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// The certificate, followed by those between it and the authority.
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    /// The authority of peers' certificates; only mutual TLS has one.
    pub(super) ca: Option<PathBuf>,
}

struct State {
    configs: Arc<Configs>,
    versions: Vec<Version>,
    checked: Instant,
}

/// The version of a file: a changed one differs in at least one of device, inode, size and time of the change.
type Version = (u64, u64, u64, i64, i64);

/// The configurations of TLS with one certificate.
pub(super) struct Configs {
    /// Of a server of HTTP/1.1 that asks clients for no certificate.
    pub(super) http_server: Arc<ServerConfig>,
    pub(super) mutual: Option<MutualConfigs>,
}

/// The configurations of mutual TLS between services: of gRPC, but for the last one.
pub(super) struct MutualConfigs {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// Of a client that speaks something else.
    pub(super) other_client: Arc<ClientConfig>,
}

impl CertificateFiles {
    /// Reads the files. An error names the setting, which is below `table`. Blocks.
    pub(super) fn load(table: &str, paths: Paths) -> Result<Self> {
        let versions = versions(&paths);
        let configs = read(table, &paths)?;
        let state = State { configs: Arc::new(configs), versions, checked: Instant::now() };
        Ok(Self(Arc::new(Shared { paths, state: Mutex::new(state) })))
    }

    /// Returns the configurations with the files as they are now, or were up to [`RECHECK`] ago. Files that cannot be
    /// used change nothing, since they may be half written.
    pub(super) async fn current(&self) -> Arc<Configs> {
        let before = {
            let mut state = self.lock();
            if state.checked.elapsed() < RECHECK {
                return state.configs.clone();
            }
            // Meanwhile other connections get the earlier configurations.
            state.checked = Instant::now();
            state.versions.clone()
        };
        let paths = self.0.paths.clone();
        let reading = move || {
            let now = versions(&paths);
            (now != before).then(|| (now, read("tls", &paths)))
        };
        let changed = tokio::task::spawn_blocking(reading).await.ok().flatten();
        let mut state = self.lock();
        if let Some((versions, configs)) = changed {
            state.versions = versions;
            match configs {
                Ok(configs) => {
                    tracing::info!("the certificate of {} was read again", self.0.paths.cert.display());
                    state.configs = Arc::new(configs);
                }
                Err(e) => tracing::warn!("a changed certificate cannot be used, the earlier one stays: {e}"),
            }
        }
        state.configs.clone()
    }

    /// Makes the next use look at the files.
    #[cfg(test)]
    pub(super) fn expire(&self) {
        self.lock().checked -= RECHECK;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CertificateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CertificateFiles").field(&self.0.paths).finish()
    }
}

fn versions(paths: &Paths) -> Vec<Version> {
    let version = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
    // A file that is missing has a version too: it differs from any other.
    [Some(&paths.cert), Some(&paths.key), paths.ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| version(path).unwrap_or_default())
        .collect()
}

fn read(table: &str, paths: &Paths) -> Result<Configs> {
    let field = |key: &str| format!("{table}.{key}");
    let chain = certificates(&field("cert_file"), &paths.cert)?;
    let key = PrivateKeyDer::from_pem_file(&paths.key)
        .map_err(|e| unusable(&field("key_file"), &paths.key, "a private key", &e))?;
    let provider = Arc::new(ring::default_provider());
    let resolved = CertifiedKey::from_der(chain, key, &provider).map_err(|e| {
        let text = format!("{} is not the key of {}: {e}", paths.key.display(), paths.cert.display());
        Error::field(field("key_file"), text)
    })?;
    let own = Arc::new(SingleCertAndKey::from(resolved));
    let failed = |e: rustls::Error| Error::internal("configuring TLS", e);
    let server = || ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let mut http_server = server().map_err(failed)?.with_no_client_auth().with_cert_resolver(own.clone());
    http_server.alpn_protocols = vec![HTTP_1.to_vec()];

    let Some(ca) = &paths.ca else { return Ok(Configs { http_server: Arc::new(http_server), mutual: None }) };
    let not_an_authority = |e: &dyn fmt::Display| unusable(&field("ca_file"), ca, "an authority's certificate", e);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&field("ca_file"), ca)? {
        roots.add(certificate).map_err(|e| not_an_authority(&e))?;
    }
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let verifier = verifier.map_err(|e| not_an_authority(&e))?;
    let mut server = server().map_err(failed)?.with_client_cert_verifier(verifier).with_cert_resolver(own.clone());
    server.alpn_protocols = vec![HTTP_2.to_vec()];
    let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let other_client = client.map_err(failed)?.with_root_certificates(roots).with_client_cert_resolver(own);
    let mut client = other_client.clone();
    client.alpn_protocols = vec![HTTP_2.to_vec()];
    let mutual =
        MutualConfigs { server: Arc::new(server), client: Arc::new(client), other_client: Arc::new(other_client) };
    Ok(Configs { http_server: Arc::new(http_server), mutual: Some(mutual) })
}

fn certificates(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unusable(field, path, "a certificate", &"it has none")),
        Ok(certificates) => Ok(certificates),
        Err(e) => Err(unusable(field, path, "a certificate", &e)),
    }
}

fn unusable(field: &str, path: &Path, wanted: &str, why: &dyn fmt::Display) -> Error {
    Error::field(field, format!("{} cannot be read as {wanted} in the format PEM: {why}", path.display()))
}
