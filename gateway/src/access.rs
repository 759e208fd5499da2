//! What decides whether a request is let in, and what remembers that it was: keys, rates, the audit log.

use crate::{
    audit::AuditLog,
    keys::Keys,
    rate_limits::{FailedAuthThrottle, Rates},
    store::Journal,
};
use hoistway_kit::{installation_identity::InstallationKey, quota::SharedQuota, token::ApiKey};
use hoistway_model::Result;
use std::{net::IpAddr, path::Path, sync::Arc};
use tokio::sync::Semaphore;

/// Requests beyond the limit that are for administrators alone.
const RESERVED: usize = 32;
/// The bytes of large answers that wait to be sent, of all and of one key or user.
const MAX_ANSWERS: usize = 64 << 20;
const MAX_OWN_ANSWERS: usize = 32 << 20;

/// The bounds of [`Access`].
#[derive(Debug, Clone)]
pub struct AccessLimits {
    /// Requests of each key, wrong keys of each address.
    pub rates: Rates,
    /// Requests that are answered at a time, streams included.
    pub max_requests: usize,
    /// Keys that may be valid at a time, besides the installation's.
    pub max_keys: u32,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
}

impl Default for AccessLimits {
    fn default() -> Self {
        Self { rates: Rates::default(), max_requests: 1_024, max_keys: 1_000, trusted_proxies: Vec::new() }
    }
}

impl AccessLimits {
    /// Requests of one key or user that are answered at a time.
    pub fn max_own_requests(&self) -> usize {
        (self.max_requests / 4 * 3).max(1)
    }
}

/// Who is let in.
#[derive(Debug)]
pub struct Access {
    /// The keys that open the API.
    pub keys: Keys,
    /// Proves to clients that this server has the installation's key.
    pub installation: InstallationKey,
    /// Who changed what.
    pub audit: AuditLog,
    /// Addresses that show wrong keys.
    pub throttle: FailedAuthThrottle,
    /// A permit for each request that is being answered.
    pub requests: Arc<Semaphore>,
    /// The same for each key and user: one has three quarters of them at most.
    pub own_requests: Arc<SharedQuota>,
    /// A few more for keys with the scope `admin` alone, when there is no permit left.
    pub reserved_requests: Arc<Semaphore>,
    /// The memory that large answers take until they are sent, in bytes.
    pub answers: Arc<SharedQuota>,
    /// See [`AccessLimits`].
    pub limits: AccessLimits,
}

impl Access {
    /// Over a database of its own.
    pub async fn open(path: &Path, installation: ApiKey, limits: AccessLimits) -> Result<Self> {
        Ok(Self::new(&Journal::open(path).await?, installation, limits))
    }

    /// Over the journal's database.
    pub(crate) fn new(journal: &Journal, installation: ApiKey, limits: AccessLimits) -> Self {
        Self {
            installation: InstallationKey::of(installation.secret().expose()),
            keys: Keys::new(installation, journal.keys(), limits.rates, limits.max_keys),
            audit: AuditLog::new(journal.audit()),
            throttle: FailedAuthThrottle::new(limits.rates.failures),
            answers: SharedQuota::new(MAX_ANSWERS, MAX_OWN_ANSWERS),
            own_requests: SharedQuota::new(limits.max_requests, limits.max_own_requests()),
            requests: Arc::new(Semaphore::new(limits.max_requests.clamp(1, Semaphore::MAX_PERMITS))),
            reserved_requests: Arc::new(Semaphore::new(RESERVED)),
            limits,
        }
    }
}
