//! Classifies addresses and decides which may be dialled. The owner of a name can point it anywhere, so every address
//! from an untrusted source (a tool, a token issuer, an image registry, a redirect) is checked here.

mod lookup;

pub use lookup::{Lookup, NoAddress, addresses, check_url};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The scope of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressScope {
    /// The public network.
    Public,
    /// Loopback or a private network. Allowed only for names from a trusted source.
    Private,
    /// Never allowed: link-local (where clouds serve metadata), multicast, unspecified, reserved.
    Forbidden,
}

/// Cloud metadata services at addresses that look private or public: Azure, Alibaba Cloud and Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

/// Domains of loopback or a private network, whatever they resolve to (RFC 6761, 6762, 8375 and the reservation of
/// `internal`).
const PRIVATE_DOMAINS: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];

/// Whether a name by itself denotes loopback or a private network, whatever it resolves to.
pub fn is_private_name(name: &str) -> bool {
    // A name without a dot is resolved by the network's own resolver, such as that of a container engine.
    !name.contains('.') || PRIVATE_DOMAINS.into_iter().any(|domain| is_in(name, domain))
}

/// Whether a name is the domain or a subdomain of it.
pub fn is_in(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Returns the scope of an address.
pub fn scope(ip: IpAddr) -> AddressScope {
    match ip {
        IpAddr::V4(ip) => scope_of_v4(ip),
        IpAddr::V6(ip) => scope_of_v6(ip),
    }
}

fn may_be_metadata(ip: &Ipv4Addr) -> bool {
    ip.is_link_local() || METADATA_V4.contains(ip)
}

fn scope_of_v4(ip: Ipv4Addr) -> AddressScope {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        _ if may_be_metadata(&ip) => AddressScope::Forbidden,
        (0, ..) | (224.., ..) => AddressScope::Forbidden,
        // Documentation, benchmarks, protocol assignments, the anycast relay of 6to4.
        (192, 0, 0) | (192, 0, 2) | (198, 51, 100) | (203, 0, 113) | (192, 88, 99) | (198, 18 | 19, _) => {
            AddressScope::Private
        }
        (10 | 127, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => AddressScope::Private,
        _ => AddressScope::Public,
    }
}

/// Whether a host, by name or by address, with or without brackets, is this machine, where nobody listens in between.
pub fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn scope_of_v6(ip: Ipv6Addr) -> AddressScope {
    let s = ip.segments();
    if let Some(v4) = embedded(ip) {
        // Both the embedded address and its IPv6 form are checked: the form itself is not a public address either.
        return scope(IpAddr::V4(v4)).max(if is_nat64(ip) || s[0] == 0x2002 {
            AddressScope::Public
        } else {
            AddressScope::Private
        });
    }
    match s {
        _ if ip.is_unspecified() || ip.is_multicast() => AddressScope::Forbidden,
        _ if ip.is_loopback() => AddressScope::Private,
        // Metadata services of AWS (the whole prefix), Google Cloud and Oracle Cloud.
        [0xfd00, 0xec2, ..] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => {
            AddressScope::Forbidden
        }
        // Unique local; link-local and the deprecated site-local.
        [0xfc00..=0xfdff, ..] => AddressScope::Private,
        [0xfe80..=0xfeff, ..] => AddressScope::Forbidden,
        // A network-specific NAT64 prefix: its targets belong to that network, except metadata services.
        [0x64, 0xff9b, 1, ..] if local_nat64(ip).iter().any(may_be_metadata) => AddressScope::Forbidden,
        [0x64, 0xff9b, 1, ..] => AddressScope::Private,
        // Documentation, Teredo and other assignments of 2001::/23, segment routing.
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] | [0x2001, 0..=0x1ff, ..] | [0x5f00, ..] => AddressScope::Private,
        // Only 2000::/3 is global unicast.
        [0x2000..=0x3fff, ..] => AddressScope::Public,
        _ => AddressScope::Forbidden,
    }
}

fn is_nat64(ip: Ipv6Addr) -> bool {
    ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
}

/// Returns the IPv4 addresses that an address below 64:ff9b:1::/48 (RFC 8215) may embed, one for each possible length
/// of the network's prefix (RFC 6052, 2.2): /48, /56, /64 and /96.
fn local_nat64(ip: Ipv6Addr) -> [Ipv4Addr; 4] {
    let o = ip.octets();
    // The ninth octet is not part of the address.
    let of = |at: [usize; 4]| Ipv4Addr::from(at.map(|at| o[at]));
    [of([6, 7, 9, 10]), of([7, 9, 10, 11]), of([9, 10, 11, 12]), of([12, 13, 14, 15])]
}

/// Returns the IPv4 address embedded in an IPv6 address: mapped, compatible, translated (NAT64) or 6to4.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(of(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        [.., high, low] if is_nat64(ip) => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_private_by_what_they_are() {
        for (name, expected) in [
            ("vllm", true),
            ("localhost", true),
            ("a.localhost", true),
            ("models.internal", true),
            ("printer.local", true),
            ("api.openai.com", false),
            ("notlocalhost.com", false),
            ("local.example", false),
            ("not-internal.evil-internal", false),
        ] {
            assert_eq!(is_private_name(name), expected, "{name}");
        }
    }

    #[test]
    fn addresses_are_classified_by_scope() {
        let all = |expected, addresses: &[&str]| {
            for text in addresses {
                assert_eq!(scope(text.parse().unwrap()), expected, "{text}");
            }
        };
        all(
            AddressScope::Public,
            &["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::808:808", "2002:808:808::1"],
        );
        all(
            AddressScope::Private,
            &[
                "127.0.0.1",
                "127.255.0.9",
                "10.0.0.1",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.1.1",
                "100.64.0.1",
                "198.18.0.1",
                "192.0.2.1",
                "::1",
                "fc00::1",
                "fdff::1",
                "::ffff:127.0.0.1",
                "::ffff:8.8.8.8",
                "64:ff9b::7f00:1",
                "64:ff9b::a00:1",
                "2002:7f00:1::1",
                "::7f00:1",
                "::ffff:0:7f00:1",
                "64:ff9b:1::1",
                "64:ff9b:1::a00:1",
                "fd20:ce::1",
                "fd00:c1::1",
                "fd00:ec3::254",
                "2001:db8::1",
                "2001::1",
            ],
        );
        all(
            AddressScope::Forbidden,
            &[
                "0.0.0.0",
                "0.1.2.3",
                "169.254.169.254",
                "224.0.0.1",
                "255.255.255.255",
                "240.0.0.1",
                "::",
                "ff02::1",
                "fe80::1",
                "fec0::1",
                "192.0.0.192",
                "fd00:ec2::254",
                "fd00:ec2::23",
                "fd00:ec2:ffff::1",
                "fd20:ce::254",
                "fd00:c1::a9fe:a9fe",
                "::ffff:100.100.100.200",
                "::ffff:168.63.129.16",
                "::a9fe:a9fe",
                "::ffff:0:a9fe:a9fe",
                "64:ff9b::a83f:8110",
                "64:ff9b::6464:64c8",
                "64:ff9b:1::a9fe:a9fe",
                "64:ff9b:1:0:a9:fea9:fe00:0",
                "64:ff9b:1:a9fe:a9:fe00::",
                "2002:a83f:8110::1",
                "2002:c000:c0::1",
                "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "100.100.100.200",
                "168.63.129.16",
                "2002:a9fe:a9fe::1",
                "1::1",
                "4000::1",
            ],
        );
    }
}
