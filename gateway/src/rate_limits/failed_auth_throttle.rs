//! How often an address may show a wrong key.
//!
//! Nobody guesses 256 bits; what this saves is the work and the log lines of whoever tries. So a right key is let in
//! always: people behind one proxy or one host must not be locked out by a neighbour.

use super::{KeyedBuckets, Rate};
use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// The wrong keys of each address.
#[derive(Debug)]
pub struct FailedAuthThrottle(KeyedBuckets<IpAddr>);

impl FailedAuthThrottle {
    /// `None` is no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        Self(KeyedBuckets::new(rate))
    }

    /// Counts a wrong key; when there were too many, says how long to wait.
    pub fn failed(&self, address: IpAddr) -> Option<Duration> {
        self.0.take(network(address))?.0.wait
    }
}

/// What one customer of a network provider has: an IPv4 address, or 64 bits of IPv6.
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
