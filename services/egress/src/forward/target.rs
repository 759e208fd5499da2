//! The target of a request, stated in one of HTTP's several ways, and which of the agent's tools that is.

use crate::{
    Egress,
    forward::refusal::Refusal,
    forward::{Destination, Host},
    origin::{HostPort, Origin},
    policy::{AgentPolicy, ToolPolicy},
    request_path::RequestPath,
};
use hoistway_model::tool::Scheme;
use http::{Method, Request, header, uri::PathAndQuery};
use std::net::SocketAddr;

/// The way in which requests of a connection name their target.
#[derive(Debug, Clone)]
pub(crate) enum Mode {
    /// With their URI, as proxies are asked, or as paths of egress itself. The client knows this port.
    Proxy { port: u16 },
    /// With their header `Host`: the client believes to speak with that host at this port.
    Named { scheme: Scheme, port: u16 },
    /// The connection has named it.
    Fixed(Origin),
}

/// The target of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Something at a host.
    Remote { origin: Origin, path_and_query: String },
    /// A path of egress itself.
    Own { path_and_query: String },
}

/// Reads what a request is for. A request that says it in two ways must say the same.
pub(crate) fn wanted<B>(
    mode: &Mode,
    request: &Request<B>,
    local: Option<SocketAddr>,
    names: &[HostPort],
) -> Result<Wanted, Refusal> {
    let uri = request.uri();
    let path_and_query = uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
    let host = host(request)?;
    let scheme = match uri.scheme_str() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(_) => return Err(Refusal::bad_request("only http:// and https:// are supported")),
    };
    let default = match mode {
        Mode::Proxy { .. } => scheme.unwrap_or_default().default_port(),
        Mode::Named { port, .. } => *port,
        Mode::Fixed(origin) => origin.place.port,
    };
    let parse = |text: &str| {
        HostPort::parse(text, Some(default)).ok_or_else(|| Refusal::bad_request("the request names no usable host"))
    };
    let in_uri = uri.authority().map(|authority| parse(authority.as_str())).transpose()?;
    match mode {
        Mode::Proxy { port } => {
            let (Some(scheme), Some(place)) = (scheme, in_uri) else {
                return Ok(Wanted::Own { path_and_query });
            };
            if let Some(host) = host
                && parse(host)? != place
            {
                return Err(Refusal::bad_request("the header \"Host\" and the URI name different hosts"));
            }
            let is_own = names.contains(&place)
                || place.port == *port && place.host.is_loopback()
                || local.is_some_and(|local| place.port == local.port() && place.host.ip() == Some(local.ip()));
            match is_own && scheme == Scheme::Http {
                true => Ok(Wanted::Own { path_and_query }),
                false => Ok(Wanted::Remote { origin: Origin { scheme, place }, path_and_query }),
            }
        }
        Mode::Named { scheme, port } => {
            let place = match (in_uri, host.map(parse).transpose()?) {
                (Some(a), Some(b)) if a != b => {
                    return Err(Refusal::bad_request("the header \"Host\" and the URI name different hosts"));
                }
                (Some(place), _) | (None, Some(place)) => place,
                (None, None) => return Err(Refusal::bad_request("the request names no host")),
            };
            if place.port != *port {
                return Err(Refusal::misdirected(format!("this connection was made to port {port}")));
            }
            Ok(Wanted::Remote { origin: Origin { scheme: *scheme, place }, path_and_query })
        }
        Mode::Fixed(origin) => {
            let named: Vec<HostPort> = in_uri.into_iter().chain(host.map(parse).transpose()?).collect();
            if named.is_empty() {
                return Err(Refusal::bad_request("the request names no host"));
            }
            if named.iter().any(|place| *place != origin.place) || scheme.is_some_and(|scheme| scheme != origin.scheme)
            {
                let text = format!("this connection was made to {origin} and is for nothing else");
                return Err(Refusal::misdirected(text));
            }
            Ok(Wanted::Remote { origin: origin.clone(), path_and_query })
        }
    }
}

/// The header `Host`, which must not be there twice.
fn host<B>(request: &Request<B>) -> Result<Option<&str>, Refusal> {
    let mut all = request.headers().get_all(header::HOST).iter();
    let first = all.next();
    if all.next().is_some() {
        return Err(Refusal::bad_request("the header \"Host\" is there twice"));
    }
    let text = first.map(|value| value.to_str()).transpose();
    text.map_err(|_| Refusal::bad_request("the header \"Host\" is not a host"))
}

/// Which tool a call to a host is for.
pub(crate) async fn by_origin<'a>(
    egress: &Egress,
    policy: &'a AgentPolicy,
    origin: &Origin,
    method: &Method,
    path_and_query: String,
) -> Result<Destination<'a>, Refusal> {
    let mut tools: Vec<&ToolPolicy> = policy.tools.iter().filter(|tool| tool.origin == *origin).collect();
    if tools.is_empty() {
        return Err(no_tool(egress, policy, origin).await);
    }
    let path = path_of(&path_and_query);
    let checked = RequestPath::parse(path).map_err(Refusal::bad_request)?;
    // The closest one first.
    tools.sort_by_key(|tool| std::cmp::Reverse(tool.prefix.len()));
    let mut first = None;
    for tool in tools {
        match tool.refuses(method, path, &checked) {
            None => return Ok(Destination { host: Host::Tool(tool), path_and_query }),
            Some(why) => {
                first.get_or_insert(why);
            }
        }
    }
    Err(Refusal::denied("not_covered", first.unwrap_or_default()))
}

/// Which tool a path of egress, `/tools/NAME/…`, is for; `None` when it is no such path.
pub(crate) fn by_name<'a>(
    policy: &'a AgentPolicy,
    method: &Method,
    path_and_query: &str,
) -> Option<Result<Destination<'a>, Refusal>> {
    let rest = path_and_query.strip_prefix("/tools/")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let Some(tool) = policy.tools.iter().find(|tool| tool.name.as_str() == name) else {
        let text = format!("this agent may not call a tool \"{}\": add it to required_tools", name.escape_debug());
        return Some(Err(Refusal::denied("tool_not_allowed", text)));
    };
    let mut path_and_query = format!("{}{rest}", tool.prefix);
    if !path_and_query.starts_with('/') {
        path_and_query.insert(0, '/');
    }
    let path = path_of(&path_and_query);
    let refused = match RequestPath::parse(path) {
        Err(why) => Some(Refusal::bad_request(why)),
        Ok(checked) => tool.refuses(method, path, &checked).map(|why| Refusal::denied("not_covered", why)),
    };
    Some(refused.map_or(Ok(Destination { host: Host::Tool(tool), path_and_query }), Err))
}

fn path_of(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

/// Says which tool would be needed.
pub(crate) async fn no_tool(egress: &Egress, policy: &AgentPolicy, origin: &Origin) -> Refusal {
    let near = policy.tools.iter().find(|tool| tool.origin.place.host == origin.place.host);
    let text = match (near, egress.policies.registered_at(origin).await) {
        (_, Some(name)) => {
            format!("{origin} is the tool \"{name}\", which this agent does not require: add it to required_tools")
        }
        (Some(tool), None) => format!("the tool \"{}\" is at {}, not at {origin}", tool.name, tool.origin),
        (None, None) => {
            format!("no tool is registered for {origin}: register one there and add it to required_tools")
        }
    };
    Refusal::denied("host_not_allowed", text)
}
