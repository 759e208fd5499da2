//! How often an address may show a wrong key.
//!
//! Nobody guesses 256 bits; what this saves is the work and the log lines of whoever tries. So a right key is let in
//! always: people behind one proxy or one host must not be locked out by a neighbour.

use super::bucket::{Bucket, Clock, Rate};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How many addresses are watched at a time. Those beyond are not slowed down, which costs us less than forgetting one
/// that is.
const MAX_ADDRESSES: usize = 8_192;

/// The wrong keys of each address.
#[derive(Debug)]
pub struct Throttle {
    rate: Option<Rate>,
    clock: Clock,
    seen: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Throttle {
    /// `None` is no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, clock: Clock::default(), seen: Mutex::default() }
    }

    /// Counts a wrong key; when there were too many, says how long to wait.
    pub fn failed(&self, address: IpAddr) -> Option<Duration> {
        let (rate, now) = (self.rate?, self.clock.now());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if seen.len() >= MAX_ADDRESSES && !seen.contains_key(&address) {
            seen.retain(|_, bucket| !bucket.is_full(now));
            if seen.len() >= MAX_ADDRESSES {
                return None;
            }
        }
        seen.entry(address).or_default().take(rate, now).wait
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
        let throttle = Throttle::new(Rate::new(1, Duration::from_secs(3600), 2));
        let failed = |text: &str| throttle.failed(text.parse().unwrap()).is_some();
        assert!(!failed("192.0.2.1") && !failed("::ffff:192.0.2.1") && failed("192.0.2.1"));
        assert!(!failed("192.0.2.2"));
        assert!(
            !failed("2001:db8::1") && !failed("2001:db8::2") && failed("2001:db8::3") && !failed("2001:db8:0:1::1")
        );
        assert_eq!(Throttle::new(None).failed("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::new(Rate::new(1, Duration::from_secs(3600), 2));
        for n in 0..2 * MAX_ADDRESSES as u32 {
            throttle.failed(IpAddr::V4(n.into()));
        }
        assert_eq!(throttle.seen.lock().unwrap().len(), MAX_ADDRESSES);
    }
}
