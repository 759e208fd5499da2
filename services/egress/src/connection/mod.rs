//! Connections of agents, from the first byte to the last.
mod agent_connection;
mod authorization;
mod buffered_stream;
pub mod ca;
mod intercept;
pub mod lru_map;
pub mod tls;
mod tunnel;

use crate::{
    Egress,
    connection::agent_connection::{AgentConnection, Held, Identity},
    connection::buffered_stream::{Prefixed, Stream},
    forward::target::Mode,
};
use hoistway_kit::{
    egress_auth::{Flavour, PREFACE_MAX, PREFACE_START, Preface},
    tls::ServerStream,
};
use hoistway_model::tool::Scheme;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// Requests at the same time on one connection.
const STREAMS: u32 = 100;
/// Header fields of one request.
const FIELDS: usize = 128;
/// The smallest buffer that hyper takes.
const MIN_BUFFER: usize = 8 << 10;
/// The interval of pings on a silent HTTP/2 connection, and the time for an answer.
const PING: Duration = Duration::from_secs(30);

/// Serves a connection that was just accepted.
pub(crate) async fn serve(egress: Arc<Egress>, stream: ServerStream) {
    let accepted = stream.connection();
    let local = accepted.local();
    let port = local.map_or(0, |local| local.port());
    let mut stream = Prefixed::new(stream);
    let limit = Duration::from_millis(egress.config.limits.header_ms);
    let Ok(Ok(opening)) = timeout(limit, opening(&mut stream)).await else { return };
    let mut connection = AgentConnection {
        egress,
        identity: Identity::PerRequest,
        mode: Mode::Proxy { port },
        local,
        held: Arc::new(Held::new(accepted)),
    };
    let preface = match opening {
        Opening::Plain => return http1(connection, stream).await,
        Opening::Broken => return tracing::warn!("a connection to egress began with a preface that cannot be read"),
        Opening::Preface(preface) => preface,
    };
    let revision = connection.egress.key.verify(preface.token.expose());
    connection.identity = revision.map_or(Identity::Rejected, Identity::Known);
    if let Some(revision) = revision
        && let Ok(policy) = connection.egress.policies.policy(revision).await
        && connection.held.by(&connection.egress.agents, &policy.agent).is_err()
    {
        return;
    }
    let port = preface.port;
    match (preface.flavour, revision) {
        (Flavour::Proxy, _) => http1(AgentConnection { mode: Mode::Proxy { port }, ..connection }, stream).await,
        (Flavour::Http, _) => {
            http1(AgentConnection { mode: Mode::Named { scheme: Scheme::Http, port }, ..connection }, stream).await
        }
        (Flavour::Tls, Some(revision)) => intercept::serve_led_here(connection, stream, revision, port).await,
        // There is no way to answer before the handshake.
        (Flavour::Tls, None) => {}
    }
}

enum Opening {
    Plain,
    Preface(Preface),
    Broken,
}

/// Reads the preface, if there is one.
async fn opening(stream: &mut Prefixed<ServerStream>) -> std::io::Result<Opening> {
    let start = PREFACE_START.as_bytes();
    let differs = |read: &[u8]| read.iter().zip(start).any(|(a, b)| a != b);
    let end = |read: &[u8]| read.iter().position(|&byte| byte == b'\n');
    let read = stream.look(PREFACE_MAX, |read| differs(read) || end(read).is_some()).await?;
    if differs(read) || read.is_empty() {
        return Ok(Opening::Plain);
    }
    let Some(end) = end(read) else { return Ok(Opening::Broken) };
    let preface = Preface::parse(&read[..=end]);
    stream.skip(end + 1);
    Ok(preface.map_or(Opening::Broken, Opening::Preface))
}

/// Serves TLS in the version of HTTP that was agreed on.
pub(crate) async fn negotiated<S: Stream>(connection: AgentConnection, stream: TlsStream<S>) {
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(connection, stream).await;
    } else {
        http1(connection, stream).await;
    }
}

pub(crate) async fn http1<S: Stream>(connection: AgentConnection, stream: S) {
    let limits = &connection.egress.config.limits;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.header_ms))
        .max_headers(FIELDS)
        .max_header_size(limits.header_size)
        .max_buf_size(limits.header_size.max(MIN_BUFFER));
    let shutdown = connection.egress.shutdown.clone();
    let serving = service_fn(move |request| connection.clone().answer(request));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), serving).with_upgrades());
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    log_end(ended);
}

async fn http2<S: Stream>(connection: AgentConnection, stream: S) {
    let limits = &connection.egress.config.limits;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(limits.header_size).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let shutdown = connection.egress.shutdown.clone();
    let serving = service_fn(move |request| connection.clone().answer(request));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), serving));
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    log_end(ended);
}

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(e) = ended {
        tracing::debug!("a connection of an agent ended: {e}");
    }
}
