//! From places to addresses that may be dialled.

use super::error::ConnectError;
use crate::origin::HostPort;
use hoistway_kit::address_scope::{self, AddressScope, NoAddress};
use hoistway_model::{Error, Result};
use std::{collections::HashMap, net::SocketAddr};

/// The system's resolver, and places that are somewhere else.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    elsewhere: HashMap<HostPort, SocketAddr>,
}

impl Resolver {
    /// Reads `HOST:PORT=ADDRESS:PORT`.
    pub(crate) fn new(elsewhere: &[String]) -> Result<Self> {
        let parse = |text: &String| {
            let (from, to) = text.split_once('=')?;
            Some((HostPort::parse(from.trim(), None)?, to.trim().parse().ok()?))
        };
        let read = |(index, text): (usize, &String)| {
            parse(text).ok_or_else(|| Error::field(format!("resolve[{index}]"), "must be HOST:PORT=ADDRESS:PORT"))
        };
        Ok(Self { elsewhere: elsewhere.iter().enumerate().map(read).collect::<Result<_>>()? })
    }

    /// The addresses of a place that may be dialled, in order. At least one.
    pub(crate) async fn addresses(
        &self,
        place: &HostPort,
        allow_private: bool,
    ) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Some(address) = self.elsewhere.get(place) {
            return Ok(vec![*address]);
        }
        let most = if allow_private { AddressScope::Private } else { AddressScope::Public };
        address_scope::addresses(&place.host.bare(), place.port, most).await.map_err(|e| match e {
            NoAddress::Unknown(why) => ConnectError::Resolve(why),
            NoAddress::Forbidden(reach) => ConnectError::Forbidden { may_be_allowed: reach == AddressScope::Private },
        })
    }

    /// Whether a place is somewhere else by configuration.
    pub(crate) fn is_elsewhere(&self, place: &HostPort) -> bool {
        self.elsewhere.contains_key(place)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn private_and_reserved_addresses_are_not_dialled() {
        let resolver = Resolver::new(&["api.example:443=127.0.0.1:4433".to_owned()]).unwrap();
        let place = |text: &str| HostPort::parse(text, None).unwrap();
        let dial = async |text: &str, private| resolver.addresses(&place(text), private).await;
        assert_eq!(dial("API.example:443", false).await.unwrap(), ["127.0.0.1:4433".parse().unwrap()]);
        assert!(matches!(dial("127.0.0.1:80", false).await, Err(ConnectError::Forbidden { may_be_allowed: true })));
        assert!(matches!(dial("localhost:80", false).await, Err(ConnectError::Forbidden { may_be_allowed: true })));
        assert!(dial("localhost:80", true).await.unwrap().iter().all(|address| address.ip().is_loopback()));
        for never in ["169.254.169.254:80", "0.0.0.0:80"] {
            let refused = dial(never, true).await;
            assert!(matches!(refused, Err(ConnectError::Forbidden { may_be_allowed: false })), "{never}");
        }
        assert_eq!(dial("8.8.8.8:53", false).await.unwrap(), ["8.8.8.8:53".parse().unwrap()]);
        for bad in ["", "a=b", "a:1", "a:1=b:2", "a=127.0.0.1:1"] {
            let e = Resolver::new(&[bad.to_owned()]).unwrap_err();
            assert_eq!(e.field.as_deref(), Some("resolve[0]"));
        }
    }
}
