//! Connections of which egress copies the bytes without reading them: those to hosts that are none of the agent's
//! tools, where its network is open, and those whose protocol was switched (WebSocket).

use crate::{
    Egress,
    calls::call_entry::{CallEntry, Progress},
    connection::agent_connection::AgentConnection,
    forward,
    forward::refusal::Refusal,
    origin::Origin,
};
use http::Request;
use hyper::{body::Incoming, upgrade::OnUpgrade};
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
    time::{Instant, sleep, sleep_until},
};

/// The longest time in which nothing moves in a tunnel.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// The time that tunnels may go on after a shutdown began: their content has no end that egress could see.
const DRAIN: Duration = Duration::from_secs(5);
/// Bytes that are copied at once.
const PIECE: usize = 16 << 10;

/// Agrees to a CONNECT to any host; the tunnel's bytes are copied once the answer is out. `entry` is taken for its
/// record.
pub(crate) async fn connect(
    connection: &AgentConnection,
    request: Request<Incoming>,
    origin: &Origin,
    entry: &mut CallEntry,
) -> Result<(), Refusal> {
    let egress = &connection.egress;
    let host = egress.upstream.tunnel(&origin.place).await;
    let host = host.map_err(|e| forward::no_connection_to(&origin.to_string(), &e))?;
    let replacement = CallEntry::new(&egress.recorder, request.method(), "");
    let mut entry = mem::replace(entry, replacement);
    entry.answered(200);
    let agent = hyper::upgrade::on(request);
    // The connection's place is held until the tunnel's end.
    let connection = connection.clone();
    connection.egress.tasks.clone().spawn(async move {
        match agent.await {
            Ok(agent) => copy(&connection.egress, TokioIo::new(agent), host, entry).await,
            Err(_) => entry.broken("agent_went_away"),
        }
    });
    Ok(())
}

/// Copies the bytes of a call whose protocol both sides have agreed to switch, once the answer is out.
pub(crate) fn switch(connection: AgentConnection, agent: OnUpgrade, tool: OnUpgrade, mut entry: CallEntry) {
    connection.egress.tasks.clone().spawn(async move {
        match tokio::join!(agent, tool) {
            (Ok(agent), Ok(tool)) => copy(&connection.egress, TokioIo::new(agent), TokioIo::new(tool), entry).await,
            (Err(_), _) => entry.broken("agent_went_away"),
            (Ok(_), Err(_)) => entry.broken("tool_broke_off"),
        }
    });
}

/// Copies both ways until both sides have ended.
async fn copy(
    egress: &Egress,
    agent: impl AsyncRead + AsyncWrite,
    host: impl AsyncRead + AsyncWrite,
    mut entry: CallEntry,
) {
    let (progress, received) = (entry.progress(), AtomicU64::new(0));
    let (from_agent, to_agent) = tokio::io::split(agent);
    let (from_host, to_host) = tokio::io::split(host);
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
        // TLS keeps what was written until it is flushed.
        to.flush().await?;
        count(length as u64);
    }
}

/// Waits until nothing has moved for [`IDLE`].
async fn idle(progress: &Arc<Progress>) {
    loop {
        let until = Instant::from_std(progress.last_moved()) + IDLE;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}
