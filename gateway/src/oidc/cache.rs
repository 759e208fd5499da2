//! Issuers' keys, kept as long as they may be.
//!
//! Of each provider at most one fetch runs, as a task of its own, so that a caller who hangs up neither ends nor repeats
//! it. After one that succeeded the next is not before [`Times::again`], after one that failed not before a growing
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

/// Providers whose keys are kept at a time.
const MAX_PROVIDERS: usize = 1_000;

/// How long keys are kept.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// At least so long, whatever the issuer says.
    pub fresh_min: Duration,
    /// At most so long.
    pub fresh_max: Duration,
    /// So long when it says nothing.
    pub fresh: Duration,
    /// So long they are used while newer ones cannot be fetched.
    pub stale: Duration,
    /// The shortest time from one fetch that succeeded to the next.
    pub again: Duration,
    /// The pause after a fetch that failed, at first and at most.
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

/// How a provider's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nobody has needed them yet.
    Unknown,
    /// There are so many.
    Ready(usize),
    /// They cannot be fetched, and why; whether older ones do meanwhile.
    Failed(String, bool),
}

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoKeys {
    /// For whoever registered the provider.
    pub why: String,
    /// When it is worth trying again.
    pub wait: Duration,
}

/// What somebody was given.
#[derive(Debug, Clone)]
pub struct Given {
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
    /// Held by the one fetch.
    fetching: Arc<AsyncMutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    /// Fetches that have ended.
    attempts: u64,
    /// Those that failed since one succeeded, and why the last one did.
    failures: u32,
    problem: String,
    /// Before then nothing is fetched.
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    keys: Arc<KeySet>,
    fetched: Instant,
    fresh_for: Duration,
}

impl Cache {
    /// An empty one.
    pub fn new(fetcher: Fetcher, times: Times) -> Self {
        Self(Arc::new(Inner { fetcher, times, entries: Mutex::default() }))
    }

    /// What gets the keys.
    pub fn fetcher(&self) -> &Fetcher {
        &self.0.fetcher
    }

    /// The keys of a provider. When they are not fresh they are fetched first; if that fails, older ones do for a while.
    pub async fn keys(&self, provider: &IdentityProvider) -> Result<Given, NoKeys> {
        let entry = self.entry(provider);
        let attempts = match entry.fresh() {
            Ok(given) => return Ok(given),
            Err(attempts) => attempts,
        };
        self.refresh(&entry, attempts).await;
        entry.usable(&self.0.times)
    }

    /// Newer keys than `given`, for a token that none of those has signed. `None` when there are none, or it is too early
    /// to ask.
    pub async fn newer(&self, provider: &IdentityProvider, given: &Given) -> Option<Given> {
        let entry = self.entry(provider);
        self.refresh(&entry, given.attempts).await;
        entry.usable(&self.0.times).ok().filter(|newer| !Arc::ptr_eq(&newer.keys, &given.keys))
    }

    /// Forgets the keys of a provider: what is registered by that name now may be another one.
    pub fn forget(&self, provider: &Name) {
        self.entries().remove(provider);
    }

    /// How a provider's keys are, as far as this gateway knows.
    pub fn condition(&self, provider: &IdentityProvider) -> Condition {
        let entry = self.entries().get(&provider.name).cloned();
        let Some(entry) = entry.filter(|entry| entry.is_of(provider)) else { return Condition::Unknown };
        let state = entry.state();
        match &state.kept {
            Some(kept) if state.failures == 0 => Condition::Ready(kept.keys.len()),
            kept if state.failures > 0 => {
                let older = kept.as_ref().is_some_and(|kept| kept.fetched.elapsed() < self.0.times.stale);
                Condition::Failed(state.problem.clone(), older)
            }
            _ => Condition::Unknown,
        }
    }

    /// The entry of a provider. One that was registered anew, with another issuer or address, begins with nothing.
    fn entry(&self, provider: &IdentityProvider) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&provider.name).filter(|entry| entry.is_of(provider)) {
            return Arc::clone(entry);
        }
        if entries.len() >= MAX_PROVIDERS {
            // Whichever goes is fetched again when it is needed.
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

    /// Fetches, unless somebody has since `attempts` or it is too early.
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
        // It ends with a panic at worst, and then the keys stay as they were.
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

    /// Fresh keys, or how many fetches there were.
    fn fresh(&self) -> Result<Given, u64> {
        let state = self.state();
        let kept = state.kept.as_ref().filter(|kept| kept.fetched.elapsed() < kept.fresh_for);
        kept.map(|kept| state.give(kept)).ok_or(state.attempts)
    }

    /// Keys that may still be used.
    fn usable(&self, times: &Times) -> Result<Given, NoKeys> {
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
    fn give(&self, kept: &Kept) -> Given {
        Given { keys: Arc::clone(&kept.keys), attempts: self.attempts }
    }
}
