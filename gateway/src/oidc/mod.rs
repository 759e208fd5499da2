//! Authentication of agents' end users: tokens of identity providers (OpenID Connect), verified with the keys that
//! their issuers publish.
//!
//! The provider's record is read again for each invoke, as API keys are: a change or a deletion holds from the next
//! invoke on, in every gateway. Only the issuer's keys are cached, by [`cache`].

pub mod cache;
mod crypto;
pub mod fetch;
mod keyset;
mod token;

pub use token::Refusal;

use crate::rate_limits::{KeyedBuckets, Rate, TakeResult};
use cache::{Cache, KeySetStatus, NoKeys, Times};
use fetch::{Fetcher, PlainHosts};
use hoistway_kit::metrics::Counter;
use hoistway_model::{Code, Error, Name, Secret, ToolRegistry, metric::Family, tool::IdentityProvider};
use keyset::KeySet;
use std::{sync::Arc, time::Duration};
use token::Unverified;

/// A user whom an identity provider authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndUser {
    /// The provider.
    pub provider: Name,
    /// The user's id, from the provider's claim.
    pub id: Arc<str>,
}

/// The reason that a user with a token is refused.
#[derive(Debug)]
pub enum Denied {
    /// The token is not accepted.
    Refused(Refusal),
    /// The token cannot be verified now; the time after which a retry makes sense.
    Unchecked(Error, Option<Duration>),
}

/// The limits of [`Callers`].
#[derive(Debug, Clone, Default)]
pub struct CallerLimits {
    /// Hosts whose keys may be fetched over plain HTTP.
    pub plain_hosts: PlainHosts,
    /// The times for which keys are cached.
    pub times: Times,
    /// The rate of invokes of each user without an API key.
    pub rate: Option<Rate>,
}

/// The verifier of tokens.
#[derive(Debug)]
pub struct Callers {
    tools: Arc<dyn ToolRegistry>,
    cache: Cache,
    users: KeyedBuckets<(Name, Arc<str>)>,
    checked: Counter,
}

impl Callers {
    /// Returns a verifier for the providers in the registry.
    pub fn new(tools: Arc<dyn ToolRegistry>, limits: CallerLimits) -> Self {
        crypto::install();
        let checked = Counter::new(
            "hoistway_caller_tokens_total",
            "Tokens of callers that were checked, by ok, unavailable or why they were refused.",
            &["provider", "outcome"],
        );
        let CallerLimits { plain_hosts, times, rate } = limits;
        Self { tools, cache: Cache::new(Fetcher::new(plain_hosts), times), users: KeyedBuckets::new(rate), checked }
    }

    /// Returns the user of `token`, if `provider` authenticates them.
    pub async fn admit(&self, provider: &Name, token: &Secret) -> Result<EndUser, Denied> {
        let admitted = self.check(provider, token).await;
        let outcome = match &admitted {
            Ok(_) => "ok",
            Err(Denied::Refused(refusal)) => refusal.as_str(),
            Err(Denied::Unchecked(..)) => "unavailable",
        };
        self.checked.inc(&[provider.as_str(), outcome]);
        if let Err(Denied::Refused(refusal)) = &admitted {
            tracing::debug!("a token for the identity provider \"{provider}\" is refused: {}", refusal.text());
        }
        admitted
    }

    async fn check(&self, provider: &Name, token: &Secret) -> Result<EndUser, Denied> {
        // Before any request to another service.
        let token = Unverified::parse(token.expose()).map_err(Denied::Refused)?;
        let provider = self.tools.get_identity_provider(provider.clone()).await.map_err(|e| match e.code {
            Code::NotFound => {
                let text = format!("the identity provider \"{provider}\" of this agent is not registered any more");
                Denied::Unchecked(Error::new(Code::PermissionDenied, text), None)
            }
            _ => Denied::Unchecked(e, None),
        })?;
        let given = self.cache.keys(&provider).await.map_err(|none| no_keys(&provider, &none))?;
        let verify = |keys: &KeySet| token.verify(&provider, &token.candidates(keys));
        let mut verified = verify(&given.keys);
        // A missing key may be new, and so may one without an id.
        let maybe_new = match verified {
            Err(Refusal::UnknownKey) => true,
            Err(Refusal::Signature) => !token.names_key(),
            _ => false,
        };
        if maybe_new && let Some(newer) = self.cache.newer(&provider, &given).await {
            verified = verify(&newer.keys);
        }
        let id = verified.map_err(Denied::Refused)?;
        Ok(EndUser { provider: provider.name.clone(), id })
    }

    /// Counts an invoke of a user without an API key. `None` when there is no limit.
    pub fn count(&self, user: &EndUser) -> Option<(TakeResult, Rate)> {
        self.users.take((user.provider.clone(), user.id.clone()))
    }

    /// Returns the hosts that may be used without TLS.
    pub fn plain_hosts(&self) -> &PlainHosts {
        self.cache.fetcher().plain_hosts()
    }

    /// Returns the condition of a provider's keys, as far as this gateway knows.
    pub fn condition(&self, provider: &IdentityProvider) -> KeySetStatus {
        self.cache.condition(provider)
    }

    /// Fetches the keys of a registered provider, so that its status reports whether that is possible.
    pub async fn registered(&self, provider: &IdentityProvider) {
        self.cache.forget(&provider.name);
        // The status reports the result, and the log the cause of a failure.
        let _ = self.cache.keys(provider).await;
    }

    /// Removes the keys of a deleted provider.
    pub fn deleted(&self, provider: &Name) {
        self.cache.forget(provider);
        self.checked.forget(provider.as_str());
    }

    /// Returns the metrics.
    pub fn family(&self) -> Family {
        self.checked.family()
    }
}

/// Returns the error for the caller, with less than the status and the log contain: the address is for operators only.
fn no_keys(provider: &IdentityProvider, none: &NoKeys) -> Denied {
    let text = format!("the keys of the identity provider \"{}\" cannot be fetched now", provider.name);
    Denied::Unchecked(Error::new(Code::Unavailable, text).with_source(none.why.clone()), Some(none.wait))
}
