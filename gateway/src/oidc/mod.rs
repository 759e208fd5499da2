//! Who an agent's callers are: tokens of identity providers (OpenID Connect), checked against the keys that their
//! issuers publish.
//!
//! The provider's record is read anew for each invoke, as API keys are: a change or a deletion holds from the next
//! invoke on, in every gateway. What is kept is the issuer's keys, by [`cache`].

pub mod cache;
mod crypto;
pub mod fetch;
mod keyset;
mod token;

pub use token::Refusal;

use crate::rate_limits::{KeyedBuckets, Level, Rate};
use cache::{Cache, Condition, NoKeys, Times};
use fetch::{Fetcher, PlainHosts};
use hoistway_kit::metrics::Counter;
use hoistway_model::{Code, Error, Name, Secret, ToolRegistry, metric::Family, tool::IdentityProvider};
use keyset::KeySet;
use std::{sync::Arc, time::Duration};
use token::Unverified;

/// A person whom an identity provider vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndUser {
    /// Which provider.
    pub provider: Name,
    /// Who, in the words of its claim.
    pub id: Arc<str>,
}

/// Why somebody with a token is not let in.
#[derive(Debug)]
pub enum Denied {
    /// Because of the token.
    Refused(Refusal),
    /// Because it cannot be checked now; when it is worth trying again.
    Unchecked(Error, Option<Duration>),
}

/// The bounds of [`Callers`].
#[derive(Debug, Clone, Default)]
pub struct CallerLimits {
    /// Hosts whose keys may come over plain HTTP.
    pub plain_hosts: PlainHosts,
    /// How long keys are kept.
    pub times: Times,
    /// Invokes of each user who comes without an API key.
    pub rate: Option<Rate>,
}

/// What checks tokens.
#[derive(Debug)]
pub struct Callers {
    tools: Arc<dyn ToolRegistry>,
    cache: Cache,
    users: KeyedBuckets<(Name, Arc<str>)>,
    checked: Counter,
}

impl Callers {
    /// Over the registry, which has the providers.
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

    /// The user whom `token` names, if `provider` vouches for them.
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
        // Before anything is asked of anybody.
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
        // A key that is not there may be new, and so may one that has no name to tell it by.
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

    /// Counts an invoke of a user who comes without an API key. `None` when there is no limit.
    pub fn count(&self, user: &EndUser) -> Option<(Level, Rate)> {
        self.users.take((user.provider.clone(), user.id.clone()))
    }

    /// Which hosts may be asked for keys without TLS.
    pub fn plain_hosts(&self) -> &PlainHosts {
        self.cache.fetcher().plain_hosts()
    }

    /// How a provider's keys are, as far as this gateway knows.
    pub fn condition(&self, provider: &IdentityProvider) -> Condition {
        self.cache.condition(provider)
    }

    /// A provider was registered: its keys are fetched, so that its status tells whether they can be.
    pub async fn registered(&self, provider: &IdentityProvider) {
        self.cache.forget(&provider.name);
        // Whether it worked is in the status, and why not in the log.
        let _ = self.cache.keys(provider).await;
    }

    /// A provider is gone.
    pub fn deleted(&self, provider: &Name) {
        self.cache.forget(provider);
        self.checked.forget(provider.as_str());
    }

    /// What was measured.
    pub fn family(&self) -> Family {
        self.checked.family()
    }
}

/// What a caller is told is less than what the status and the log say: the address is the operator's business.
fn no_keys(provider: &IdentityProvider, none: &NoKeys) -> Denied {
    let text = format!("the keys of the identity provider \"{}\" cannot be fetched now", provider.name);
    Denied::Unchecked(Error::new(Code::Unavailable, text).with_source(none.why.clone()), Some(none.wait))
}
