//! The rate of wrong keys from an address.
//!
//! Nobody guesses 256 bits; the limit saves the work and the log lines of such attempts. A right key is always
//! accepted: users behind one proxy or on one host must not be locked out by another.

use super::{KeyedBuckets, Rate};
use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// The wrong keys of each address.
#[derive(Debug)]
pub struct FailedAuthThrottle(KeyedBuckets<IpAddr>);

impl FailedAuthThrottle {
    /// Returns a throttle; `None` is no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        Self(KeyedBuckets::new(rate))
    }

    /// Counts a wrong key; returns the time to wait when there were too many.
    pub fn failed(&self, address: IpAddr) -> Option<Duration> {
        self.0.take(network(address))?.0.wait
    }
}

/// Returns the network of one customer of a provider: an IPv4 address, or 64 bits of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_network_has_a_budget_of_its_own() {
        let throttle = FailedAuthThrottle::new(Rate::new(1, Duration::from_secs(3600), 2));
        let failed = |text: &str| throttle.failed(text.parse().unwrap()).is_some();
        assert!(!failed("192.0.2.1") && !failed("::ffff:192.0.2.1") && failed("192.0.2.1"));
        assert!(!failed("192.0.2.2"));
        assert!(
            !failed("2001:db8::1") && !failed("2001:db8::2") && failed("2001:db8::3") && !failed("2001:db8:0:1::1")
        );
        assert_eq!(FailedAuthThrottle::new(None).failed("192.0.2.1".parse().unwrap()), None);
    }
}
