//! TLS towards agents: a server configuration for each host, made when it is first requested.

use crate::{connection::ca::Authority, connection::lru_map::LruMap};
use hoistway_model::{Error, Result};
use rustls::{ServerConfig, crypto::ring::default_provider};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Hosts whose certificates are kept.
const HOSTS: usize = 1024;
/// Sessions of one host that can be resumed.
const SESSIONS: usize = 64;

/// The certificates that agents see as those of their tools' hosts.
#[derive(Debug)]
pub(crate) struct Certificates {
    authority: Arc<Authority>,
    hosts: Mutex<LruMap<String, Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    config: Arc<ServerConfig>,
    renew: SystemTime,
}

impl Certificates {
    pub(crate) fn new(authority: Arc<Authority>) -> Self {
        Self { authority, hosts: Mutex::new(LruMap::new(HOSTS)) }
    }

    pub(crate) fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// The configuration with which egress answers as `host`. Making one is a signature or two, and no more often
    /// than once a day.
    pub(crate) fn of(&self, host: &str) -> Result<Arc<ServerConfig>> {
        let lock = || self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = host.to_owned();
        if let Some(kept) = lock().get(&host)
            && SystemTime::now() < kept.renew
        {
            return Ok(kept.config);
        }
        let leaf = self.authority.leaf(&host)?;
        let failed = |e: rustls::Error| Error::internal("making a TLS configuration", e);
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(leaf.chain, leaf.key)
            .map_err(failed)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS);
        let config = Arc::new(config);
        lock().insert(host, Kept { config: Arc::clone(&config), renew: leaf.renew }, |_| true);
        Ok(config)
    }
}
