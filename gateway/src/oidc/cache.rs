//! A cache of issuers' keys.
//!
//! For each provider at most one fetch runs, as a separate task, so that a caller that hangs up neither ends nor
//! repeats it. After a successful fetch the next one waits for [`Times::again`], after a failed one for a growing
//! pause: a flood of tokens with invented keys costs the issuer no more than one request every few seconds.

use super::{
    fetch::{Fetched, Fetcher},
    keyset::KeySet,
};
use hoistway_kit::backoff;
use hoistway_model::{Name, tool::IdentityProvider};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Mutex as AsyncMutex;

/// The most providers whose keys are cached.
const MAX_PROVIDERS: usize = 1_000;

/// The times for which keys are cached.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The shortest time for which keys are fresh, even if the issuer sets a shorter one.
    pub fresh_min: Duration,
    /// The longest time for which keys are fresh.
    pub fresh_max: Duration,
    /// The time for which keys are fresh if the issuer sets none.
    pub fresh: Duration,
    /// The time for which keys are used while newer ones cannot be fetched.
    pub stale: Duration,
    /// The shortest time from a successful fetch to the next.
    pub again: Duration,
    /// The first and the longest pause after a failed fetch.
    pub backoff: (Duration, Duration),
}

impl Default for Times {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            fresh_min: seconds(60),
            fresh_max: seconds(60 * 60),
            fresh: seconds(10 * 60),
            stale: seconds(6 * 60 * 60),
            again: seconds(10),
            backoff: (seconds(1), seconds(60)),
        }
    }
}

/// The condition of a provider's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySetStatus {
    /// They have not been needed yet.
    Unknown,
    /// They are there; their number.
    Ready(usize),
    /// They cannot be fetched: the cause, and whether older ones are used meanwhile.
    Failed(String, bool),
}

/// The reason that there are no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoKeys {
    /// The cause, for those who registered the provider.
    pub why: String,
    /// The time after which a retry makes sense.
    pub wait: Duration,
}

/// The keys that a caller received.
#[derive(Debug, Clone)]
pub struct CachedKeySet {
    /// The keys.
    pub keys: Arc<KeySet>,
    attempts: u64,
}

/// The keys of every provider that is in use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fetcher: Fetcher,
    times: Times,
    entries: Mutex<HashMap<Name, Arc<Entry>>>,
}

/// The keys of one provider, as it is registered now.
#[derive(Debug)]
struct Entry {
    provider: Name,
    issuer: String,
    jwks_uri: String,
    state: Mutex<State>,
    /// Locked by the one fetch.
    fetching: Arc<AsyncMutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    /// The number of fetches that have ended.
    attempts: u64,
    /// The number of failed fetches since the last successful one, and the cause of the last.
    failures: u32,
    problem: String,
    /// The time before which nothing is fetched.
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    keys: Arc<KeySet>,
    fetched: Instant,
    fresh_for: Duration,
}

impl Cache {
    /// Returns an empty cache.
    pub fn new(fetcher: Fetcher, times: Times) -> Self {
        Self(Arc::new(Inner { fetcher, times, entries: Mutex::default() }))
    }

    /// Returns the fetcher of keys.
    pub fn fetcher(&self) -> &Fetcher {
        &self.0.fetcher
    }

    /// Returns the keys of a provider. Keys that are not fresh are fetched first; if that fails, older ones are used
    /// for a while.
    pub async fn keys(&self, provider: &IdentityProvider) -> Result<CachedKeySet, NoKeys> {
        let entry = self.entry(provider);
        let attempts = match entry.fresh() {
            Ok(given) => return Ok(given),
            Err(attempts) => attempts,
        };
        self.refresh(&entry, attempts).await;
        entry.usable(&self.0.times)
    }

    /// Returns newer keys than `given`, for a token that none of those has signed. `None` when there are none, or it is
    /// too early to fetch.
    pub async fn newer(&self, provider: &IdentityProvider, given: &CachedKeySet) -> Option<CachedKeySet> {
        let entry = self.entry(provider);
        self.refresh(&entry, given.attempts).await;
        entry.usable(&self.0.times).ok().filter(|newer| !Arc::ptr_eq(&newer.keys, &given.keys))
    }

    /// Removes the keys of a provider: another one may be registered under that name now.
    pub fn forget(&self, provider: &Name) {
        self.entries().remove(provider);
    }

    /// Returns the condition of a provider's keys, as far as this gateway knows.
    pub fn condition(&self, provider: &IdentityProvider) -> KeySetStatus {
        let entry = self.entries().get(&provider.name).cloned();
        let Some(entry) = entry.filter(|entry| entry.is_of(provider)) else { return KeySetStatus::Unknown };
        let state = entry.state();
        match &state.kept {
            Some(kept) if state.failures == 0 => KeySetStatus::Ready(kept.keys.len()),
            kept if state.failures > 0 => {
                let older = kept.as_ref().is_some_and(|kept| kept.fetched.elapsed() < self.0.times.stale);
                KeySetStatus::Failed(state.problem.clone(), older)
            }
            _ => KeySetStatus::Unknown,
        }
    }

    /// Returns the entry of a provider. A provider that was registered again, with another issuer or address, has a new
    /// entry.
    fn entry(&self, provider: &IdentityProvider) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&provider.name).filter(|entry| entry.is_of(provider)) {
            return Arc::clone(entry);
        }
        if entries.len() >= MAX_PROVIDERS {
            // Any entry may be removed: it is fetched again when it is needed.
            let any = entries.keys().next().cloned();
            any.and_then(|any| entries.remove(&any));
        }
        let entry = Arc::new(Entry {
            provider: provider.name.clone(),
            issuer: provider.issuer.clone(),
            jwks_uri: provider.jwks_uri.clone(),
            state: Mutex::default(),
            fetching: Arc::default(),
        });
        entries.insert(provider.name.clone(), Arc::clone(&entry));
        entry
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Name, Arc<Entry>>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the keys, unless there was a fetch since `attempts` or it is too early.
    async fn refresh(&self, entry: &Arc<Entry>, attempts: u64) {
        let fetching = entry.fetching.clone().lock_owned().await;
        {
            let state = entry.state();
            if state.attempts != attempts || state.not_before.is_some_and(|at| Instant::now() < at) {
                return;
            }
        }
        let (cache, of) = (self.clone(), Arc::clone(entry));
        let fetch = tokio::spawn(async move {
            let fetched = cache.0.fetcher.fetch(&of.issuer, &of.jwks_uri).await;
            of.took(fetched, &cache.0.times);
            drop(fetching);
        });
        // The task fails with a panic only, and then the keys stay as they were.
        let _ = fetch.await;
    }
}

impl Entry {
    fn is_of(&self, provider: &IdentityProvider) -> bool {
        self.issuer == provider.issuer && self.jwks_uri == provider.jwks_uri
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns fresh keys, or the number of fetches.
    fn fresh(&self) -> Result<CachedKeySet, u64> {
        let state = self.state();
        let kept = state.kept.as_ref().filter(|kept| kept.fetched.elapsed() < kept.fresh_for);
        kept.map(|kept| state.give(kept)).ok_or(state.attempts)
    }

    /// Returns keys that may still be used.
    fn usable(&self, times: &Times) -> Result<CachedKeySet, NoKeys> {
        let state = self.state();
        let limit = |kept: &Kept| kept.fresh_for.max(times.stale);
        let kept = state.kept.as_ref().filter(|kept| kept.fetched.elapsed() < limit(kept));
        kept.map(|kept| state.give(kept)).ok_or_else(|| {
            let wait = state.not_before.map_or(times.backoff.0, |at| at.saturating_duration_since(Instant::now()));
            NoKeys { why: state.problem.clone(), wait }
        })
    }

    fn took(&self, fetched: Result<Fetched, String>, times: &Times) {
        let (now, mut state) = (Instant::now(), self.state());
        state.attempts += 1;
        match fetched {
            Ok(Fetched { keys, max_age }) => {
                if state.failures > 0 {
                    tracing::info!("the keys of the identity provider \"{}\" can be fetched again", self.provider);
                }
                let fresh_for = max_age.unwrap_or(times.fresh).clamp(times.fresh_min, times.fresh_max);
                state.kept = Some(Kept { keys: Arc::new(keys), fetched: now, fresh_for });
                state.failures = 0;
                state.problem.clear();
                state.not_before = now.checked_add(times.again);
            }
            Err(why) => {
                tracing::warn!("the keys of the identity provider \"{}\" cannot be fetched: {why}", self.provider);
                state.failures = state.failures.saturating_add(1);
                let pause = backoff::after(state.failures, times.backoff.0, times.backoff.1);
                state.problem = why;
                state.not_before = now.checked_add(pause);
            }
        }
    }
}

impl State {
    fn give(&self, kept: &Kept) -> CachedKeySet {
        CachedKeySet { keys: Arc::clone(&kept.keys), attempts: self.attempts }
    }
}
