//! The network namespace of an agent whose network is closed: egress listens there as a proxy, and at the names of the
//! agent's tools and models for clients that do not use proxies.

use crate::runtime::endpoint::{Endpoint, fits_hosts_file};
use hoistway_confine::OwnNetwork;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Where egress listens as a proxy.
pub(crate) const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3128);
/// The address of every endpoint. Not that of `localhost`, so that the agent's own servers can listen there
/// on the same ports.
const ENDPOINTS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The ports of one agent's endpoints, each of which is an open descriptor.
const MAX_PORTS: usize = 64;

/// The network of an agent that connects to these endpoints and answers its callers on this port, on a machine of this
/// name.
pub(crate) fn own_network(endpoints: &[Endpoint], callers: Option<u16>, machine: &str) -> OwnNetwork {
    let names: BTreeSet<&str> = endpoints.iter().map(Endpoint::host).collect();
    let ports: BTreeSet<u16> = endpoints.iter().map(Endpoint::port).collect();
    if ports.len() > MAX_PORTS {
        tracing::warn!(
            "an agent's tools and models are on {} ports, only the first {MAX_PORTS} are reached by name",
            ports.len()
        );
    }
    let listen = ports.into_iter().take(MAX_PORTS).map(|port| SocketAddrV4::new(ENDPOINTS, port));
    // Programs look up the name of their own machine.
    let own = Some(machine).filter(|name| fits_hosts_file(name) && !names.contains(name));
    let local = ["localhost"].into_iter().chain(own).map(|name| (Ipv4Addr::LOCALHOST, name.to_owned()));
    OwnNetwork {
        listen: std::iter::once(PROXY).chain(listen).collect(),
        callers: callers.map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
        hosts: local.chain(names.iter().map(|&name| (ENDPOINTS, name.to_owned()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn network(urls: &[&str], machine: &str) -> (Vec<String>, Vec<String>) {
        let endpoints: Vec<_> = urls.iter().filter_map(|url| Endpoint::of_url(url)).collect();
        let OwnNetwork { listen, hosts, .. } = own_network(&endpoints, None, machine);
        let hosts = hosts.into_iter().map(|(address, name)| format!("{address} {name}"));
        (listen.iter().map(ToString::to_string).collect(), hosts.collect())
    }

    #[test]
    fn names_of_tools_lead_to_an_address_of_their_own_on_the_ports_of_the_tools() {
        let urls = ["https://b.example", "https://a.example/v1", "http://a.example:8080", "http://192.0.2.1:9000"];
        let (listen, hosts) = network(&urls, "box");
        assert_eq!(listen, ["127.0.0.1:3128", "127.0.0.2:443", "127.0.0.2:8080"]);
        assert_eq!(hosts, ["127.0.0.1 localhost", "127.0.0.1 box", "127.0.0.2 a.example", "127.0.0.2 b.example"]);
    }

    #[test]
    fn a_tool_named_like_the_machine_is_the_tool() {
        assert_eq!(network(&["http://box"], "box").1, ["127.0.0.1 localhost", "127.0.0.2 box"]);
        assert_eq!(network(&[], "two words\n").1, ["127.0.0.1 localhost"]);
    }

    #[test]
    fn the_number_of_listeners_is_bounded() {
        let urls: Vec<String> = (1..=100).map(|port| format!("https://a.example:{port}")).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        assert_eq!(network(&urls, "box").0.len(), 1 + MAX_PORTS);
    }
}
