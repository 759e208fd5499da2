//! Calls to hosts that are none of the agent's tools, where its network is open: passed on as they are, and recorded.

use crate::{
    Egress,
    body::Upload,
    call::{self, check},
    edge::Edge,
    entry::{Entry, Progress},
    headers::{END_USER, clean_request, clean_response, remove_all_spellings},
    origin::Origin,
    policy::AgentPolicy,
    refuse::Refusal,
    upstream::uri,
};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, sleep_until},
};

/// The longest time in which nothing moves in a tunnel.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// How long tunnels may go on after a shutdown began: what is in them has no end that egress could see.
const DRAIN: Duration = Duration::from_secs(5);
/// Bytes that are copied at once.
const PIECE: usize = 16 << 10;

/// Agrees to a CONNECT to any host; the tunnel's bytes are copied once the answer is out. `entry` is taken for its
/// record.
pub(crate) async fn connect(
    edge: &Edge,
    policy: &AgentPolicy,
    request: Request<Incoming>,
    origin: &Origin,
    entry: &mut Entry,
) -> Result<(), Refusal> {
    let egress = Arc::clone(&edge.egress);
    entry.hold(egress.agents.connection(&policy.agent)?);
    let host = egress.upstream.tunnel(&origin.place).await;
    let host = host.map_err(|e| call::no_connection_to(&origin.to_string(), &e))?;
    let mut entry = mem::replace(entry, Entry::new(&egress.recorder, &Method::CONNECT, ""));
    entry.answered(200);
    // The connection's place among all of egress is held until the tunnel's end.
    let held = edge.clone();
    egress.tasks.clone().spawn(async move {
        let _held = held;
        match hyper::upgrade::on(request).await {
            Ok(agent) => copy(&egress, TokioIo::new(agent), host, entry).await,
            Err(_) => entry.broken("agent_went_away"),
        }
    });
    Ok(())
}

/// Copies both ways until both sides have ended.
async fn copy<S: AsyncRead + AsyncWrite>(egress: &Egress, agent: S, host: TcpStream, mut entry: Entry) {
    let (progress, received) = (entry.progress(), AtomicU64::new(0));
    let (from_agent, to_agent) = tokio::io::split(agent);
    let (from_host, to_host) = host.into_split();
    let up = pump(from_agent, to_host, |bytes| {
        progress.sent(bytes);
        progress.moved();
    });
    let down = pump(from_host, to_agent, |bytes| {
        received.fetch_add(bytes, Ordering::Relaxed);
        progress.moved();
    });
    let closing = async {
        egress.shutdown.cancelled().await;
        sleep(DRAIN).await;
    };
    progress.moved();
    tokio::select! {
        ended = async { tokio::try_join!(up, down) } => match ended {
            Ok(_) => entry.complete(),
            Err(_) => entry.broken("connection_lost"),
        },
        () = idle(&progress) => entry.broken("idle_timeout"),
        () = closing => entry.broken("shutdown"),
    }
    entry.received(received.load(Ordering::Relaxed));
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(u64),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
        count(length as u64);
    }
}

/// Waits until nothing has moved for [`IDLE`].
async fn idle(progress: &Progress) {
    loop {
        let until = Instant::from_std(progress.last_moved()) + IDLE;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

/// Sends a plain request on to any host, without any credential of the platform.
pub(crate) async fn forward(
    egress: &Egress,
    policy: &AgentPolicy,
    origin: &Origin,
    path_and_query: &str,
    request: Request<Incoming>,
    entry: &mut Entry,
) -> Result<Response<Incoming>, Refusal> {
    let (mut parts, body) = request.into_parts();
    check(egress, &parts, &body)?;
    entry.hold(egress.agents.call(&policy.agent)?);
    clean_request(&mut parts.headers);
    remove_all_spellings(&mut parts.headers, &END_USER);
    parts.uri =
        uri(origin, path_and_query).map_err(|_| Refusal::bad_request("the path or the query is not one of a URI"))?;
    // The connection to the host has a version of its own.
    parts.version = http::Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    let progress = entry.progress();
    let upload = Upload::new(body, Arc::clone(&progress), egress.config.limits.request_size);
    let request = Request::from_parts(parts, upload.boxed_unsync());
    let mut response = call::send(egress, &origin.to_string(), true, request, &progress).await?;
    clean_response(response.headers_mut());
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::bad_gateway("bad_answer", format!("{origin} switched protocols unasked")));
    }
    Ok(response)
}
