//! API keys and their scopes.
//!
//! The key in the installation's file permits everything and is checked in memory. Every other key is a row in the
//! database and is read for each request, so that a revocation holds from the next request on in every process that
//! shares the database; that is one look-up by index, and there is no cache that could be stale.

pub mod key;

pub use key::{Key, NewKey, Scope, Scopes};

use crate::{
    rate_limits::{Bucket, Clock, Rates, TakeResult},
    store::KeyStore,
};
use hoistway_kit::{
    api_key::{self, KeyHash},
    time::now_ms,
    token::ApiKey,
};
use hoistway_model::{Code, Error, KeyId, Result, Secret, error::excerpt};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

/// The id, and the name, of the key in the installation's file.
pub const INSTALLATION: &str = "installation";
/// The resolution of a key's last use, in milliseconds.
const MINUTE_MS: i64 = 60_000;

/// The sender of a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key's id.
    pub id: Arc<str>,
    /// The key's name.
    pub name: Arc<str>,
    /// The scopes of the key.
    pub scopes: Scopes,
    meter: Arc<Meter>,
}

impl Caller {
    /// Refuses a caller whose key lacks this scope, which `what` ("storing credentials", "this") needs.
    pub fn must_have(&self, scope: Scope, what: &str) -> Result<()> {
        if self.scopes.allow(scope) {
            return Ok(());
        }
        let (name, needed) = (&self.name, scope.as_str());
        let text = format!("the API key \"{name}\" does not have the scope \"{needed}\", which {what} needs");
        Err(Error::new(Code::PermissionDenied, text))
    }
}

/// The bucket of a key that a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitKind {
    /// The bucket of invokes.
    Invokes,
    /// The bucket of all other requests.
    Requests,
    /// A separate bucket for scrapes, with the rate of requests: monitoring takes nothing from other requests.
    Scrapes,
}

impl RateLimitKind {
    /// Returns the name of the counted requests, and the setting that limits them.
    pub const fn named(self) -> (&'static str, &'static str) {
        match self {
            Self::Invokes => ("invokes", "invokes_per_second"),
            Self::Requests => ("requests", "requests_per_second"),
            Self::Scrapes => ("scrapes", "requests_per_second"),
        }
    }
}

/// The use of one key; kept in memory only.
#[derive(Debug, Default)]
struct Meter {
    requests: Bucket,
    invokes: Bucket,
    scrapes: Bucket,
    used_at: AtomicI64,
    written: AtomicI64,
}

/// The API keys.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    installation: ApiKey,
    store: KeyStore,
    meters: Mutex<HashMap<String, Arc<Meter>>>,
    rates: Rates,
    clock: Clock,
    max_keys: u32,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Returns the installation's key, and those in the database, of which `max_keys` may be valid at a time.
    pub fn new(installation: ApiKey, store: KeyStore, rates: Rates, max_keys: u32) -> Self {
        let (meters, clock) = (Mutex::default(), Clock::default());
        Self(Arc::new(Inner { installation, store, meters, rates, clock, max_keys }))
    }

    /// Returns the owner of the key `presented`. [`Code::Unauthenticated`] for every invalid key; any other code means
    /// that the keys could not be read.
    pub async fn authenticate(&self, presented: &str) -> Result<Caller> {
        let refused = |why: &str| Error::new(Code::Unauthenticated, why);
        if self.0.installation.verify(presented) {
            return Ok(self.caller(INSTALLATION, INSTALLATION, Scopes::admin()));
        }
        if !api_key::is_well_formed(presented) {
            return Err(refused("the API key is not valid"));
        }
        // The row is found by the prefix; the key is verified by its hash, in constant time.
        let candidates = self.0.store.with_prefix(api_key::shown(presented)).await?;
        let found = candidates.into_iter().find(|(_, hash)| hash.matches(presented));
        let Some((key, _)) = found else { return Err(refused("the API key is not valid")) };
        if key.revoked_at.is_some() {
            return Err(refused("the API key has been revoked"));
        }
        if key.expires_at.is_some_and(|at| at <= now_ms()) {
            return Err(refused("the API key has expired"));
        }
        Ok(self.caller(&key.id, &key.name, key.scopes))
    }

    fn caller(&self, id: &str, name: &str, scopes: Scopes) -> Caller {
        let meter = self.meter(id);
        meter.used_at.store(now_ms(), Ordering::Relaxed);
        Caller { id: id.into(), name: name.into(), scopes, meter }
    }

    /// Counts a request of `caller`. `None` when there is no limit.
    pub fn count(&self, caller: &Caller, meters: RateLimitKind) -> Option<(TakeResult, crate::rate_limits::Rate)> {
        let (rate, bucket) = match meters {
            RateLimitKind::Invokes => (self.0.rates.invokes?, &caller.meter.invokes),
            RateLimitKind::Requests => (self.0.rates.requests?, &caller.meter.requests),
            RateLimitKind::Scrapes => (self.0.rates.requests?, &caller.meter.scrapes),
        };
        Some((bucket.take(rate, self.0.clock.now()), rate))
    }

    /// Creates a key, and returns its secret, which is not stored.
    pub async fn create(&self, new: NewKey, by: &Caller) -> Result<(Key, Secret)> {
        let secret = api_key::mint()?;
        let key = Key {
            id: KeyId::mint().to_string(),
            name: new.name,
            prefix: api_key::shown(secret.expose()).to_owned(),
            scopes: new.scopes,
            created_at: Some(now_ms()),
            created_by: Some(by.id.to_string()),
            expires_at: new.expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        self.0.store.insert(&key, &KeyHash::of(secret.expose()), self.0.max_keys).await?;
        Ok((key, secret))
    }

    /// Revokes a key, from the next request on. Repeating it changes nothing.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        if id == INSTALLATION {
            let text = "this is the key in the installation's file: to replace it, stop Hoistway, remove the file \
                        \"api-key\" from the data directory (or write another key into it) and start Hoistway again";
            return Err(Error::new(Code::Conflict, text));
        }
        let id: KeyId = id.parse().map_err(|_| no_such_key(id))?;
        if !self.0.store.revoke(id, now_ms()).await? {
            return Err(no_such_key(&id.to_string()));
        }
        self.lock().remove(&id.to_string());
        Ok(())
    }

    /// Returns one key.
    pub async fn get(&self, id: &str) -> Result<Key> {
        if id == INSTALLATION {
            return Ok(self.installation());
        }
        let parsed: KeyId = id.parse().map_err(|_| no_such_key(id))?;
        let found = self.0.store.get(parsed).await?;
        found.map(|key| self.with_last_use(key)).ok_or_else(|| no_such_key(id))
    }

    /// Returns the newest keys before `before`, newest first; the installation's key, which is older than all others,
    /// comes last.
    pub async fn list(&self, before: Option<&str>, limit: u32) -> Result<Vec<Key>> {
        if before == Some(INSTALLATION) {
            return Ok(Vec::new());
        }
        let keys = self.0.store.list(before, limit).await?;
        let mut keys: Vec<_> = keys.into_iter().map(|key| self.with_last_use(key)).collect();
        if keys.len() < limit as usize {
            keys.push(self.installation());
        }
        Ok(keys)
    }

    fn installation(&self) -> Key {
        self.with_last_use(Key {
            id: INSTALLATION.to_owned(),
            name: INSTALLATION.to_owned(),
            prefix: self.0.installation.shown().to_owned(),
            scopes: Scopes::admin(),
            created_at: None,
            created_by: None,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        })
    }

    fn with_last_use(&self, mut key: Key) -> Key {
        let seen = self.lock().get(&key.id).map(|meter| meter.used_at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        let last = seen.max(key.last_used_at);
        key.last_used_at = last.map(|at| at - at.rem_euclid(MINUTE_MS));
        key
    }

    /// Writes the last uses that are not written yet: periodically, and at the end.
    pub async fn write_last_uses(&self) -> Result<()> {
        let meters: Vec<_> = self.lock().iter().map(|(id, meter)| (id.clone(), meter.clone())).collect();
        let (mut uses, mut written) = (Vec::new(), Vec::new());
        for (id, meter) in meters.into_iter().filter(|(id, _)| id != INSTALLATION) {
            let used = meter.used_at.load(Ordering::Relaxed);
            if used - meter.written.load(Ordering::Relaxed) >= MINUTE_MS {
                uses.push((id, used));
                written.push((meter, used));
            }
        }
        self.0.store.used(&uses).await?;
        for (meter, used) in written {
            meter.written.store(used, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes keys that were revoked or expired before `before` (milliseconds since the epoch), and, oldest first,
    /// those of them that exceed the limit of valid keys.
    pub async fn purge(&self, before: i64) -> Result<()> {
        for id in self.0.store.purge(before, now_ms(), self.0.max_keys).await? {
            self.lock().remove(&id);
        }
        Ok(())
    }

    fn meter(&self, id: &str) -> Arc<Meter> {
        let mut meters = self.lock();
        if let Some(meter) = meters.get(id) {
            return meter.clone();
        }
        meters.entry(id.to_owned()).or_default().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Meter>>> {
        self.0.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores `secret`, with the scope `admin`, among the keys of a gateway that does not run. Returns whether it has the
/// form of stored keys; any other one is not stored.
pub async fn store(store: &KeyStore, name: &str, secret: &Secret) -> Result<bool> {
    if !api_key::is_well_formed(secret.expose()) {
        return Ok(false);
    }
    let key = Key {
        id: KeyId::mint().to_string(),
        name: name.to_owned(),
        prefix: api_key::shown(secret.expose()).to_owned(),
        scopes: Scopes::admin(),
        created_at: Some(now_ms()),
        created_by: Some(INSTALLATION.to_owned()),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    };
    store.insert(&key, &KeyHash::of(secret.expose()), u32::MAX).await?;
    Ok(true)
}

fn no_such_key(id: &str) -> Error {
    Error::not_found("key", excerpt(id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_each_scope_allows() {
        let table = [
            (Scope::Read, [true, false, false, false]),
            (Scope::Deploy, [true, true, false, false]),
            (Scope::Invoke, [false, false, true, false]),
            (Scope::Admin, [true; 4]),
        ];
        for (scope, allowed) in table {
            let scopes = Scopes::from_iter([scope]);
            assert_eq!(Scope::ALL.map(|needed| scopes.allow(needed)), allowed, "{scope:?}");
        }
        let both = Scopes::from_iter([Scope::Invoke, Scope::Read, Scope::Read]);
        assert_eq!(both.iter().collect::<Vec<_>>(), [Scope::Read, Scope::Invoke]);
        assert!(!both.allow(Scope::Deploy) && !Scopes::default().allow(Scope::Read) && Scopes::default().is_empty());
        assert_eq!(" ADMIN ".parse(), Ok(Scope::Admin));
        assert!("root".parse::<Scope>().is_err());
    }
}
