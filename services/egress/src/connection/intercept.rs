//! Connections to the hosts of tools, as their clients believe: CONNECT, and TLS that was led here. Egress answers as
//! the host, with a certificate of the installation's authority, and treats each request by itself.

use crate::{
    Egress,
    calls::call_entry::CallEntry,
    connection,
    connection::agent_connection::{AgentConnection, Identity},
    connection::buffered_stream::Stream,
    connection::tunnel,
    forward::refusal::Refusal,
    forward::target::{Mode, no_tool},
    origin::{HostName, HostPort, Origin},
    policy::{AgentPolicy, Route},
};
use hoistway_model::{RevisionId, tool::Scheme};
use http::{Method, Request};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use std::{io, pin::Pin, sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// A fatal alert that says `unrecognized_name` (RFC 6066, 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Agrees to a CONNECT, if it goes to a tool of the agent; the tunnel begins once the answer is out.
pub(crate) async fn connect(
    connection: &AgentConnection,
    policy: &Arc<AgentPolicy>,
    request: Request<Incoming>,
    entry: &mut CallEntry,
) -> Result<(), Refusal> {
    let Mode::Proxy { .. } = connection.mode else {
        return Err(Refusal::method_not_allowed("CONNECT is for proxies, and this connection is to a host already"));
    };
    let place = request.uri().authority().and_then(|authority| HostPort::parse(authority.as_str(), None));
    let place = place.ok_or_else(|| Refusal::bad_request("CONNECT needs HOST:PORT"))?;
    let host = request.headers().get(http::header::HOST).map(|host| host.to_str().unwrap_or_default());
    if let Some(host) = host
        && HostPort::parse(host, Some(place.port)).as_ref() != Some(&place)
    {
        return Err(Refusal::bad_request("the header \"Host\" and the URI name different hosts"));
    }
    let origin = Origin { scheme: scheme_at(policy, &place), place };
    entry.to(origin.to_string());
    match policy.route(&origin) {
        Route::Tool | Route::OwnKey | Route::Models => {}
        Route::Open => return tunnel::connect(connection, request, &origin, entry).await,
        Route::Closed => return Err(no_tool(&connection.egress, policy, &origin).await),
    }
    let connection = AgentConnection {
        identity: Identity::Known(policy.revision),
        mode: Mode::Fixed(origin.clone()),
        ..connection.clone()
    };
    let tasks = connection.egress.tasks.clone();
    tasks.spawn(tunnel(connection, hyper::upgrade::on(request), origin));
    Ok(())
}

/// Boxed, because a tunnel has requests in it, and a request can make a tunnel.
fn tunnel(
    connection: AgentConnection,
    upgrading: OnUpgrade,
    origin: Origin,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let Ok(upgraded) = upgrading.await else { return };
        match origin.scheme {
            Scheme::Https => serve_tls(connection, TokioIo::new(upgraded), &origin).await,
            Scheme::Http => connection::http1(connection, TokioIo::new(upgraded)).await,
        }
    })
}

/// The scheme that a tunnel to a place will carry: TLS, unless only tools without it are there.
fn scheme_at(policy: &AgentPolicy, place: &HostPort) -> Scheme {
    let mut there = policy.tools.iter().filter(|tool| tool.origin.place == *place).map(|tool| tool.origin.scheme);
    let first = there.next().unwrap_or_default();
    if there.all(|scheme| scheme == first) { first } else { Scheme::Https }
}

/// TLS with a client that has requested `origin`.
async fn serve_tls<S: Stream>(connection: AgentConnection, stream: S, origin: &Origin) {
    let egress = Arc::clone(&connection.egress);
    let check = |name: Option<&HostName>| match name {
        // Addresses are never named; a host may go unnamed, since CONNECT has named it.
        None => Ok(origin.place.host.clone()),
        Some(name) if *name == origin.place.host => Ok(name.clone()),
        Some(_) => Err(Refusal::misdirected("TLS names another host than CONNECT did")),
    };
    let entry = || {
        let mut entry = CallEntry::new(&egress.recorder, &Method::CONNECT, "");
        entry.to(origin.to_string());
        entry
    };
    match handshake(&egress, stream, check).await {
        Ok(Ok(tls)) => connection::negotiated(connection, tls).await,
        Ok(Err(refusal)) => {
            let mut entry = entry();
            if let Identity::Known(revision) = connection.identity
                && let Ok(policy) = egress.policies.policy(revision).await
            {
                entry.by(&policy.agent, revision);
            }
            entry.refused(&refusal);
        }
        Err(e) => tracing::debug!("no TLS with an agent for {origin}: {e}"),
    }
}

/// TLS with a client that was led here, and names the host that it believes to speak with.
pub(crate) async fn serve_led_here<S: Stream>(connection: AgentConnection, stream: S, revision: RevisionId, port: u16) {
    let egress = Arc::clone(&connection.egress);
    let mut entry = CallEntry::new(&egress.recorder, &Method::CONNECT, "");
    let Ok(policy) = egress.policies.policy(revision).await else {
        return entry.refused(&Refusal::unidentified(true, "identity_unknown"));
    };
    entry.by(&policy.agent, revision);
    let at = |host: &HostName| Origin { scheme: Scheme::Https, place: HostPort { host: host.clone(), port } };
    let mut wanted = None;
    let check = |name: Option<&HostName>| match name {
        Some(name) => {
            wanted = Some(at(name));
            match policy.route(&at(name)) {
                Route::Tool | Route::OwnKey | Route::Models => Ok(name.clone()),
                Route::Open | Route::Closed => {
                    Err(Refusal::denied("host_not_allowed", "no tool of this agent is there"))
                }
            }
        }
        None => Err(Refusal::denied("host_not_allowed", "TLS names no host")),
    };
    let shaken = handshake(&egress, stream, check).await;
    if let Some(origin) = &wanted {
        entry.to(origin.to_string());
    }
    match (shaken, wanted) {
        (Ok(Ok(tls)), Some(origin)) => {
            entry.discard();
            connection::negotiated(AgentConnection { mode: Mode::Fixed(origin), ..connection }, tls).await;
        }
        (Ok(Err(refusal)), _) => entry.refused(&refusal),
        (Ok(Ok(_)) | Err(_), _) => entry.discard(),
    }
}

/// Reads what the client says first, lets `check` choose the host to answer as, and shakes hands as that host.
async fn handshake<S: Stream>(
    egress: &Egress,
    stream: S,
    check: impl FnOnce(Option<&HostName>) -> Result<HostName, Refusal>,
) -> io::Result<Result<TlsStream<S>, Refusal>> {
    let limit = Duration::from_millis(egress.config.limits.header_ms);
    let shaking = async {
        let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
        let mut start = acceptor.await?;
        let hello = start.client_hello();
        let named = hello.server_name().map(HostName::parse);
        let host = match named {
            Some(None) => Err(Refusal::bad_request("TLS names no usable host")),
            Some(Some(name)) => check(Some(&name)),
            None => check(None),
        };
        let host = match host {
            Ok(host) => host,
            Err(refusal) => {
                // The client may be gone; it is refused either way.
                let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
                let _ = start.io.shutdown().await;
                return Ok(Err(refusal));
            }
        };
        let config =
            egress.certificates.of(&host.bare()).map_err(|e| io::Error::other(format!("{e}: {}", e.chain())))?;
        start.into_stream(config).await.map(Ok)
    };
    timeout(limit, shaking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
