//! Hands agents' connections on to egress: those that an agent opens in its own network with the agent's token, since
//! nobody but that agent reaches the listeners there; and those of agents that may not resolve the name of egress.

use super::relay::relay;
use crate::sandbox::PROXY;
use hoistway_kit::{
    egress_auth::{Flavour, Preface},
    ports::Listeners,
    tls::ServiceAddress,
};
use hoistway_model::Secret;
use serde_json::json;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Connections at the same time, of one agent or of all; more wait in the kernel.
const CONNECTIONS_OF_ONE: usize = 512;
const CONNECTIONS_OF_ALL: usize = 4096;
/// The time that egress may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The time that a client that connected to a tool may take to send the first byte: HTTP and TLS begin with the client.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// The first byte of a TLS connection: the type of a record with a handshake in it. No HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// The time that a client may take to send the request that is answered with why it goes no further, and to read that.
const REFUSAL: Duration = Duration::from_secs(5);
/// Bytes of that request that are read at most.
const REFUSED_BYTES: u64 = 64 << 10;

/// Serves the agent with `token` until `ended`; without one all agents, each of whose requests says whose it is.
pub(in crate::runtime) async fn serve(
    listeners: Listeners,
    egress: ServiceAddress,
    token: Option<Secret>,
    ended: CancellationToken,
) {
    let room = if token.is_some() { CONNECTIONS_OF_ONE } else { CONNECTIONS_OF_ALL };
    let room = Arc::new(Semaphore::new(room));
    let target = Arc::new((egress, token));
    let accepting = async {
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let (agent, _) = listeners.accept().await;
            let (target, ended) = (Arc::clone(&target), ended.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let (egress, token) = &*target;
                if let Some(Err(e)) = ended.run_until_cancelled(hand_over(agent, egress, token.as_ref())).await {
                    tracing::debug!("a connection of an agent to egress ended: {e}");
                }
            });
        }
    };
    ended.run_until_cancelled(accepting).await;
}

async fn hand_over(mut agent: TcpStream, egress: &ServiceAddress, token: Option<&Secret>) -> io::Result<()> {
    let at = agent.local_addr()?;
    let flavour = match token.is_none() || at == PROXY.into() {
        true => Flavour::Proxy,
        false => match timeout(FIRST_BYTE, flavour(&agent)).await {
            Ok(flavour) => flavour?,
            // It connected and wants nothing.
            Err(_) => return Ok(()),
        },
    };
    let preface = token.map(|token| Preface { token: token.clone(), flavour, port: at.port() }.line());
    let opening = async {
        let mut egress = egress.connect().await?;
        if let Some(preface) = preface {
            egress.write_all(preface.expose().as_bytes()).await?;
        }
        Ok::<_, io::Error>(egress)
    };
    let egress = match timeout(CONNECT, opening).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(egress) => egress,
        Err(e) => {
            tracing::warn!("egress cannot be reached: {e}");
            if flavour == Flavour::Tls {
                // There is no way to say why before the handshake.
                return Ok(());
            }
            return timeout(REFUSAL, refuse(&mut agent)).await.unwrap_or(Ok(()));
        }
    };
    relay(agent, egress).await
}

/// The protocol of a client that connected to a tool, by its first byte, which stays unread.
async fn flavour(agent: &TcpStream) -> io::Result<Flavour> {
    let mut first = [0; 1];
    match agent.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if first[0] == TLS_HANDSHAKE => Ok(Flavour::Tls),
        _ => Ok(Flavour::Http),
    }
}

/// Answers the first request with why it goes no further. What the client has sent is read: a connection that is
/// closed with unread bytes is reset, and its client may not see the answer.
async fn refuse(agent: &mut TcpStream) -> io::Result<()> {
    let mut some = [0; 1];
    agent.read_exact(&mut some).await?;
    let body = json!({"error": "egress cannot be reached now", "code": "unavailable", "reason": "egress_unreachable"});
    let body = format!("{body}\n");
    let head = format!(
        "HTTP/1.1 503 egress cannot be reached now\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n",
        body.len()
    );
    agent.write_all(head.as_bytes()).await?;
    agent.write_all(body.as_bytes()).await?;
    agent.shutdown().await?;
    let (rest, mut nowhere) = (agent.take(REFUSED_BYTES), tokio::io::sink());
    copy(&mut { rest }, &mut nowhere).await.map(drop)
}
