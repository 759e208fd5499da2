//! Access control and its records: API keys, rate limits, the audit log.

use crate::{
    audit::AuditLog,
    keys::Keys,
    rate_limits::{FailedAuthThrottle, Rates},
    store::Journal,
};
use hoistway_kit::{db::Location, installation_identity::InstallationKey, quota::SharedQuota, token::ApiKey};
use hoistway_model::Result;
use std::{net::IpAddr, sync::Arc};
use tokio::sync::Semaphore;

/// Requests beyond the limit that are reserved for administrators.
const RESERVED: usize = 32;
/// The bytes of large answers that wait to be sent, in total and of one key or user.
const MAX_ANSWERS: usize = 64 << 20;
const MAX_OWN_ANSWERS: usize = 32 << 20;

/// The bounds of [`Access`].
#[derive(Debug, Clone)]
pub struct AccessLimits {
    /// Request rates of each key, and wrong keys of each address.
    pub rates: Rates,
    /// The most concurrent requests, streams included.
    pub max_requests: usize,
    /// The most keys that are valid at a time, besides the installation's.
    pub max_keys: u32,
    /// Reverse proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpAddr>,
}

impl Default for AccessLimits {
    fn default() -> Self {
        Self { rates: Rates::default(), max_requests: 1_024, max_keys: 1_000, trusted_proxies: Vec::new() }
    }
}

impl AccessLimits {
    /// The most concurrent requests of one key or user.
    pub fn max_own_requests(&self) -> usize {
        (self.max_requests / 4 * 3).max(1)
    }
}

/// Access control.
#[derive(Debug)]
pub struct Access {
    /// The API keys.
    pub keys: Keys,
    /// Proves to clients that this server has the installation's key.
    pub installation: InstallationKey,
    /// The log of changes.
    pub audit: AuditLog,
    /// Addresses that sent wrong keys.
    pub throttle: FailedAuthThrottle,
    /// A permit for each request in progress.
    pub requests: Arc<Semaphore>,
    /// The same for each key and user, each with at most three quarters of the permits.
    pub own_requests: Arc<SharedQuota>,
    /// More permits for keys with the scope `admin`, for when no other permit is left.
    pub reserved_requests: Arc<Semaphore>,
    /// The memory of large answers until they are sent, in bytes.
    pub answers: Arc<SharedQuota>,
    /// See [`AccessLimits`].
    pub limits: AccessLimits,
}

impl Access {
    /// Returns access control over a separate database.
    pub async fn open(location: &Location, installation: ApiKey, limits: AccessLimits) -> Result<Self> {
        Ok(Self::new(&Journal::open(location).await?, installation, limits))
    }

    /// Returns access control over the journal's database.
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
