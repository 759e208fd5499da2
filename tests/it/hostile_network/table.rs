//! The attempts of hostile agents in a closed network, and the sandboxes in which each is stopped. docs/sandbox.md has
//! the same table.

use crate::containers;

pub const CONTAINERS: &str = "containers";

/// A configuration of the sandbox.
pub struct Column {
    /// Its name in the documentation.
    pub name: &'static str,
    pub flags: &'static [&'static str],
    /// Whether Hoistway runs as root.
    pub root: bool,
}

pub const COLUMNS: [Column; 4] = [
    Column { name: "namespaces, as root", flags: &["--sandbox", "namespaces"], root: true },
    Column { name: "namespaces", flags: &["--sandbox", "namespaces"], root: false },
    Column { name: "Landlock", flags: &["--sandbox", "landlock"], root: false },
    Column { name: CONTAINERS, flags: &containers::FLAGS, root: true },
];

/// One attempt: the function in `attempts.py`, its description, and its result in each column: `s` stopped, `r`
/// reached, `-` not applicable.
pub type Attempt = (&'static str, &'static str, &'static str);

pub const ATTEMPTS: &[Attempt] = &[
    // Direct connections.
    ("platform_directly", "connect to the gateway, the registry or any port of Hoistway but egress'", "ssss"),
    ("other_agent_directly", "connect to another agent", "ssss"),
    ("metadata_directly", "connect to the cloud's metadata (IPv4, IPv6)", "ssss"),
    ("internet_directly", "connect to the Internet", "ssss"),
    ("machine_directly", "connect to a port of this machine, by many spellings of its addresses", "ssss"),
    ("egress_port_elsewhere", "connect to egress' port at another address", "ssrs"),
    // Through egress.
    ("platform_through_egress", "reach any port of Hoistway through egress", "ssss"),
    ("others_source", "read another agent's source from the registry, registered as a tool", "ssss"),
    ("other_agent_through_egress", "reach another agent through egress", "ssss"),
    ("metadata_through_egress", "reach metadata through egress, by address and by name", "ssss"),
    ("internet_through_egress", "reach hosts through egress that are no tools", "ssss"),
    ("machine_through_egress", "reach this machine through egress, by many spellings of its addresses", "ssss"),
    ("others_tool", "call a tool of another agent", "ssss"),
    ("others_tool_otherwise", "call it by other spellings of its host (upper case, final dot)", "ssss"),
    ("user_in_url", "hide a host behind a user in a URL", "ssss"),
    ("tool_at_another_port", "call a tool's host at another port", "ssss"),
    ("rebound_name", "call a tool whose public name was pointed at this machine or metadata (DNS rebinding)", "ssss"),
    ("redirect_to_machine", "be redirected by a tool to this machine, metadata or another's tool", "ssss"),
    ("beside_the_base_url", "leave a tool's base path by `..`, encoded and not", "ssss"),
    ("not_covered_by_the_base_url", "call a path beside a tool's base path", "ssss"),
    // With another identity.
    ("without_token", "call another agent's tool without a token", "ssss"),
    ("made_up_token", "the same with a token that is made up, cut or put together", "ssss"),
    ("others_token", "the same with the token of that agent, if it has got hold of it", "ssrs"),
    ("made_up_preface", "begin a connection as the agent service does, with such a token", "ssss"),
    ("others_preface", "the same with the token of that agent, if it has got hold of it", "ssrs"),
    ("as_a_user", "tell a tool that it works for a certain user (`X-End-User-ID`)", "ssss"),
    ("own_credential", "send a tool a credential in place of the platform's, or in another header", "ssss"),
    // Ambiguous requests.
    ("two_hosts", "name two hosts in a request (URI, `Host`, `Host` twice, folded, CONNECT)", "ssss"),
    ("two_lengths", "hide a request in a body with two lengths", "ssss"),
    ("line_breaks", "put a header into a path or another header by line breaks", "ssss"),
    ("old_http", "name no host (HTTP/1.0, HTTP/0.9)", "ssss"),
    ("second_request", "send a second request behind an allowed one, for another host", "ssss"),
    ("other_protocols", "leave HTTP by an upgrade (h2c, WebSocket, TLS), by HTTP/2 unasked, by TRACE", "ssss"),
    ("raw_bytes_in_a_tunnel", "speak another protocol in a tunnel to a tool", "ssss"),
    ("tunnel_to_another_host", "use a tunnel to a tool for another host (SNI, `Host`, URI, CONNECT in it)", "ssss"),
    ("others_tool_by_name", "call another agent's tool where the names of its own tools lead", "ss-s"),
    // Other sockets, and the network itself.
    ("datagrams", "send UDP, to a name server for example", "ssss"),
    ("datagrams_v6", "the same over IPv6", "ssss"),
    ("ping", "send ICMP", "ssss"),
    ("raw_socket", "open a raw socket", "ssss"),
    ("packet_socket", "open a packet socket", "ssss"),
    ("sctp", "connect with SCTP", "ssss"),
    ("vsock", "speak with the machine's host (vsock)", "ssss"),
    ("other_families", "open sockets of other families (Bluetooth, CAN, XDP, …)", "ssss"),
    ("change_network", "add a route, an address or an interface (netlink)", "ssss"),
    ("other_namespace", "make a network namespace, or enter another", "ssss"),
    ("unix_sockets", "connect to Unix sockets of the machine, abstract ones too", "ssss"),
    ("signal_by_socket", "signal the platform by the connection of a caller (`SO_PEERPIDFD`)", "ssss"),
    ("take_egress_port", "listen in egress' place", "ssss"),
    ("see_connections", "see the machine's connections in `/proc/net`", "ssrs"),
    ("hold_connections", "keep another agent from egress by holding connections", "ssss"),
];

/// Returns the table in the format of docs/sandbox.md.
pub fn markdown() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    let mut text = format!(
        "| in a closed network a hostile agent tries to | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for (_, words, verdicts) in ATTEMPTS {
        let cells = verdicts.chars().map(|verdict| match verdict {
            's' => "stopped",
            'r' => "**not stopped**",
            _ => "–",
        });
        text.push_str(&format!("| {words} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    text
}
