//! Asking registries over HTTP. Whose they are is a matter of who names an image, so how much is read, where a question
//! leads and how long it takes have bounds.

use hoistway_kit::{
    address_scope::{self, AddressScope, Lookup, NoAddress, check_url},
    tls::ServiceAddress,
    web::USER_AGENT,
};
use hoistway_model::{Error, Result};
use http::{
    HeaderValue,
    header::{ACCEPT, AUTHORIZATION, LOCATION},
};
use reqwest::{Client, ClientBuilder, Response, Url, redirect::Policy};
use rustls::ClientConfig;
use std::{
    error::Error as StdError,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;

/// The time that a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The time that a registry may stay silent in the middle of an answer.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Most registries keep blobs elsewhere and say so once.
const MAX_REDIRECTS: usize = 3;
/// The memory that every answer may take; beyond, it takes one of [`LARGE`] places.
const SMALL: usize = 256 << 10;
const LARGE: usize = 8;
/// Companies have registries of their own, in their networks and on this machine, and whoever may name an image may
/// register tools there too. Addresses of cloud metadata are nobody's registry.
const FARTHEST: AddressScope = AddressScope::Private;

/// The failure in the place of an answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nobody is there, or it is no registry. The text is for the log: to others it would tell which ports are open.
    Silent(String),
    /// The image's own host is at an address that may not be asked.
    Forbidden(NoAddress),
    /// A registry's answer is not as it must be.
    Wrong(String),
    /// It wants to know who asks, and we have nothing to show.
    Login,
    /// It does not have the image.
    Missing,
    /// The image is for other machines.
    NoVariant,
}

/// The HTTP clients.
#[derive(Debug)]
pub(super) struct Http {
    /// Without TLS and without a proxy: our own registry, and those on this machine.
    plain: Client,
    /// `None` on a machine without CA certificates.
    tls: Option<Client>,
    /// Our own registry, and the client for it if it has TLS, with what that was made of.
    platform: ServiceAddress,
    own: Mutex<Option<(Arc<ClientConfig>, Client)>>,
    large: Semaphore,
}

impl Http {
    pub fn new(platform: ServiceAddress) -> Result<Self> {
        // The TLS library asks the process for its cryptography. The first to say so wins, and all of us say ring.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = client().build();
        if let Err(e) = &tls {
            tracing::warn!("images of registries with TLS cannot be pulled: {}", chain(e));
        }
        // It speaks plain HTTP only, and so is made on a machine without CA certificates too.
        let plain = client().no_proxy().tls_certs_only([]).build();
        let plain = plain.map_err(|e| Error::internal("making an HTTP client", e))?;
        Ok(Self { plain, tls: tls.ok(), platform, own: Mutex::default(), large: Semaphore::new(LARGE) })
    }

    /// The client for our own registry with TLS. Its certificates may have changed since the last time.
    async fn own(&self) -> Result<Client, Trouble> {
        let config = self.platform.client_config().await.map_err(|e| Trouble::Silent(e.to_string()))?;
        let Some(config) = config else { return Ok(self.plain.clone()) };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_of, client)) = &*own
            && Arc::ptr_eq(made_of, &config)
        {
            return Ok(client.clone());
        }
        let made = client().no_proxy().tls_backend_preconfigured((*config).clone()).build();
        let made = made.map_err(|e| Trouble::Silent(chain(&e)))?;
        *own = Some((config, made.clone()));
        Ok(made)
    }

    /// Asks for `url` and follows redirects, each of which is checked as the first address is. `shown` goes to the
    /// host of `url` and to no other.
    pub async fn get(&self, url: &Url, accept: &str, shown: Option<&HeaderValue>) -> Result<Response, Trouble> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let own = at.origin() == url.origin();
            let refused = |why: NoAddress| match own {
                true => Trouble::Forbidden(why),
                false => Trouble::Wrong(format!("it leads elsewhere, and there {why}")),
            };
            check_url(&at, FARTHEST).map_err(refused)?;
            let mut request = self.client(&at, url).await?.get(at.clone()).header(ACCEPT, accept);
            if let Some(shown) = shown.filter(|_| own) {
                request = request.header(AUTHORIZATION, shown);
            }
            let answer = request.send().await.map_err(|e| match no_address(&e) {
                Some(why @ NoAddress::Forbidden(_)) => refused(why.clone()),
                _ => Trouble::Silent(chain(&e)),
            })?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let next = answer.headers().get(LOCATION).and_then(|next| at.join(next.to_str().ok()?).ok());
            at = next.ok_or_else(|| Trouble::Silent("it redirects to nowhere".to_owned()))?;
        }
        Err(Trouble::Wrong(format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    /// Reads an answer that may have `most` bytes.
    pub async fn read(&self, mut answer: Response, what: &str, most: usize) -> Result<Vec<u8>, Trouble> {
        let too_large = || Trouble::Wrong(format!("{what} is larger than {} KiB", most >> 10));
        if answer.content_length().is_some_and(|length| length > most as u64) {
            return Err(too_large());
        }
        let (mut bytes, mut place) = (Vec::new(), None);
        while let Some(chunk) = answer.chunk().await.map_err(|e| Trouble::Silent(chain(&e)))? {
            if bytes.len() + chunk.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
            if bytes.len() > SMALL && place.is_none() {
                place = self.large.acquire().await.ok();
            }
        }
        Ok(bytes)
    }

    /// Without TLS goes what begins without it, and then only to the same place or to this machine.
    async fn client(&self, at: &Url, first: &Url) -> Result<Client, Trouble> {
        let is_platform = self.platform.has_tls() && at.authority() == self.platform.to_string();
        match at.scheme() {
            "https" if is_platform => self.own().await,
            "https" => self
                .tls
                .clone()
                .ok_or_else(|| Trouble::Wrong("this machine has no CA certificates, so TLS is impossible".to_owned())),
            "http" if first.scheme() == "http" && (at.origin() == first.origin() || is_this_machine(at)) => {
                Ok(self.plain.clone())
            }
            _ => Err(Trouble::Wrong("it leads to an address without TLS".to_owned())),
        }
    }
}

fn client() -> ClientBuilder {
    Client::builder()
        .redirect(Policy::none())
        .dns_resolver(Arc::new(Lookup(FARTHEST)))
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(READ_LIMIT)
        .user_agent(USER_AGENT)
}

/// Whether a URL leads to this machine.
pub(super) fn is_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(address_scope::is_this_machine)
}

fn no_address<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a NoAddress> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref::<NoAddress>() {
            return Some(found);
        }
        next = e.source();
    }
    None
}

/// An error and its causes in one line.
pub(super) fn chain(e: &(dyn StdError + 'static)) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    brief(&text)
}

/// The text of a remote server, in one line of bearable length.
pub(super) fn brief(text: &str) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(200) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
