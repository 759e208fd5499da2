//! A certificate with its key, and the authority that vouches for peers, in PEM files that others renew.

use hoistway_model::{Error, Result};
use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier, verify_server_name},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// The time for which the files are taken to be unchanged.
const RECHECK: Duration = Duration::from_secs(10);

/// The time before the expiry from which there is a warning, and the interval of warnings.
const EXPIRES_SOON: Duration = Duration::from_secs(30 * 86_400);
const WARN_EVERY: Duration = Duration::from_secs(86_400);

const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// The certificates in use by this process, for its metrics.
static IN_USE: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// The files of a certificate. Cheap to clone; clones share what was read.
#[derive(Clone)]
pub struct CertificateFiles(Arc<Shared>);

struct Shared {
    /// The setting that names the files.
    table: &'static str,
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
    warned: Option<Instant>,
}

/// The version of a file: a changed one differs in at least one of device, inode, size and time of the change.
type Version = (u64, u64, u64, i64, i64);

/// The configurations of TLS with one certificate.
pub(super) struct Configs {
    /// Of a server of HTTP/1.1 that asks clients for no certificate.
    pub(super) http_server: Arc<ServerConfig>,
    pub(super) mutual: Option<MutualConfigs>,
    /// The certificate, followed by those between it and the authority.
    chain: Vec<CertificateDer<'static>>,
    /// The earliest expiry of the chain.
    not_after: Option<UnixTime>,
}

impl Configs {
    /// Whether the certificate is for a host name or an address.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let certificate = self.chain.first().and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
        let name = ServerName::try_from(host).ok();
        certificate.zip(name).is_some_and(|(certificate, name)| verify_server_name(&certificate, &name).is_ok())
    }

    /// Describes an expiry that is near or past.
    pub(super) fn expiry(&self) -> Option<String> {
        let left = self.not_after?.as_secs().saturating_sub(UnixTime::now().as_secs());
        match left {
            0 => Some("has expired".to_owned()),
            left if left < EXPIRES_SOON.as_secs() => Some(format!("expires in {} days", left / 86_400)),
            _ => None,
        }
    }
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
    pub(super) fn load(table: &'static str, paths: Paths) -> Result<Self> {
        let versions = versions(&paths);
        let configs = read(table, &paths)?;
        if fs::metadata(&paths.key).is_ok_and(|metadata| metadata.mode() & 0o007 != 0) {
            tracing::warn!("{} can be used by every user of this machine", paths.key.display());
        }
        let state = State { configs: Arc::new(configs), versions, checked: Instant::now(), warned: None };
        let files = Self(Arc::new(Shared { table, paths, state: Mutex::new(state) }));
        let mut in_use = lock(&IN_USE);
        in_use.retain(|shared| shared.strong_count() > 0);
        in_use.push(Arc::downgrade(&files.0));
        drop(in_use);
        files.warn_of_expiry(&mut files.lock());
        Ok(files)
    }

    fn warn_of_expiry(&self, state: &mut State) {
        if state.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        if let Some(expiry) = state.configs.expiry() {
            state.warned = Some(Instant::now());
            tracing::warn!("the certificate {} {expiry}: renew it", self.0.paths.cert.display());
        }
    }

    /// Returns the configurations with the files as they are now, or were up to [`RECHECK`] ago.
    pub(super) async fn current(&self) -> Arc<Configs> {
        if self.is_due() {
            let files = self.clone();
            // A failure is one of the runtime, which ends: the earlier configurations will do.
            let _ = tokio::task::spawn_blocking(move || files.reload()).await;
        }
        self.last()
    }

    /// Whether the caller is to look at the files; meanwhile others get the earlier configurations.
    fn is_due(&self) -> bool {
        let mut state = self.lock();
        let is_due = state.checked.elapsed() >= RECHECK;
        if is_due {
            state.checked = Instant::now();
        }
        is_due
    }

    /// Reads changed files again. Files that cannot be used change nothing, since they may be half written. Blocks.
    fn reload(&self) {
        let Shared { table, paths, .. } = &*self.0;
        let (before, now) = (self.lock().versions.clone(), versions(paths));
        let changed = (now != before).then(|| read(table, paths));
        let mut state = self.lock();
        if let Some(configs) = changed {
            state.versions = now;
            match configs {
                Ok(configs) => {
                    tracing::info!("the certificate of {} was read again", paths.cert.display());
                    (state.configs, state.warned) = (Arc::new(configs), None);
                }
                Err(e) => tracing::warn!("a changed certificate cannot be used, the earlier one stays: {e}"),
            }
        }
        self.warn_of_expiry(&mut state);
    }

    /// Returns the configurations that were read last.
    pub(super) fn last(&self) -> Arc<Configs> {
        self.lock().configs.clone()
    }

    /// Makes the next use look at the files.
    #[cfg(test)]
    pub(super) fn expire(&self) {
        self.lock().checked -= RECHECK;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

impl fmt::Debug for CertificateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CertificateFiles").field(&self.0.paths).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns when the certificates in use expire, in seconds since the epoch, by the setting that names them. Files that
/// have changed are read again: between services, connections are rare. Blocks.
pub(crate) fn expiry_times() -> BTreeMap<&'static str, u64> {
    let in_use: Vec<_> = lock(&IN_USE).iter().filter_map(Weak::upgrade).map(CertificateFiles).collect();
    let mut times = BTreeMap::new();
    for files in in_use {
        if files.is_due() {
            files.reload();
        }
        if let Some(not_after) = files.last().not_after {
            let earliest = times.entry(files.0.table).or_insert(u64::MAX);
            *earliest = not_after.as_secs().min(*earliest);
        }
    }
    times
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
    let certified = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|e| {
        let text = format!("{} is not the key of {}: {e}", paths.key.display(), paths.cert.display());
        Error::field(field("key_file"), text)
    })?;
    let own = Arc::new(SingleCertAndKey::from(certified));
    let failed = |e: rustls::Error| Error::internal("configuring TLS", e);
    let server = || ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let mut http_server = server().map_err(failed)?.with_no_client_auth().with_cert_resolver(own.clone());
    http_server.alpn_protocols = vec![HTTP_1.to_vec()];
    let (http_server, not_after) =
        (Arc::new(http_server), chain.iter().filter_map(not_after).min_by_key(UnixTime::as_secs));
    let Some(ca) = &paths.ca else { return Ok(Configs { http_server, mutual: None, chain, not_after }) };

    let not_an_authority = |e: &dyn fmt::Display| unusable(&field("ca_file"), ca, "an authority's certificate", e);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&field("ca_file"), ca)? {
        roots.add(certificate).map_err(|e| not_an_authority(&e))?;
    }
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let verifier = verifier.map_err(|e| not_an_authority(&e))?;
    if let Err(e) = verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now())
        && let Some(why) = unfit(&e)
    {
        let text = format!("{} cannot be used with {}: {why}", paths.cert.display(), ca.display());
        return Err(Error::field(field("cert_file"), text));
    }
    let mut server = server().map_err(failed)?.with_client_cert_verifier(verifier).with_cert_resolver(own.clone());
    server.alpn_protocols = vec![HTTP_2.to_vec()];
    let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let other_client = client.map_err(failed)?.with_root_certificates(roots).with_client_cert_resolver(own);
    let mut client = other_client.clone();
    client.alpn_protocols = vec![HTTP_2.to_vec()];
    let mutual = Some(MutualConfigs {
        server: Arc::new(server),
        client: Arc::new(client),
        other_client: Arc::new(other_client),
    });
    Ok(Configs { http_server, mutual, chain, not_after })
}

/// Why no peer would accept the certificate. One that has expired may be replaced while the program runs.
fn unfit(e: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(e) = e else { return Some(e.to_string()) };
    match e {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => None,
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            Some("it is of another authority".to_owned())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Some("it is not for clients (extendedKeyUsage clientAuth beside serverAuth)".to_owned())
        }
        e => Some(e.to_string()),
    }
}

/// Returns when a certificate expires: what the verifier says of it at the end of time.
fn not_after(certificate: &CertificateDer<'static>) -> Option<UnixTime> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).ok()?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match verifier.verify_server_cert(certificate, &[], &name, &[], end_of_time) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Some(not_after),
        _ => None,
    }
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
