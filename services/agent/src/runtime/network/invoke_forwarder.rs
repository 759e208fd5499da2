//! Hands the connections of an agent's callers on to the agent, where it has a network of its own.
//!
//! The agent is not given the listener that its callers connect to: whoever holds a TCP socket of the machine's network
//! can disconnect it and connect it to another address, whatever network the process is in.

use super::agent_network::AgentNetwork;
use super::relay::relay;
use hoistway_kit::{ports::Listeners, tls::ListenerTls};
use std::io::Result;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Connections of callers at the same time; more wait in the kernel.
const CONNECTIONS: usize = 1024;
/// The time that callers who have connected may take to reach the agent once it is to stop.
const CLOSE: Duration = Duration::from_secs(2);

/// The time that it may take until an agent that refuses connections is known to have crashed.
const NOTICED: Duration = Duration::from_secs(1);

/// Where callers are led.
#[derive(Clone)]
pub(in crate::runtime) enum Target {
    /// The agent will be there soon: callers wait.
    Starting,
    /// The agent is there.
    Up(Arc<AgentNetwork>),
    /// The agent is not there for a while: callers are hung up on.
    Absent,
}

/// Forwards connections until it is closed or dropped. Those that have reached the agent go on until they end.
pub(in crate::runtime) struct InvokeForwarder {
    target: watch::Sender<Target>,
    closing: CancellationToken,
    /// Accepting, and the connections that have not reached the agent yet.
    unfinished: TaskTracker,
}

impl InvokeForwarder {
    /// Accepts connections on `callers`, with `tls` if that is given.
    pub fn start(callers: OwnedFd, tls: Option<ListenerTls>) -> Result<Self> {
        let callers = StdTcpListener::from(callers);
        callers.set_nonblocking(true)?;
        let listeners = TcpListener::from_std(callers.try_clone()?)?.into();
        let target = watch::Sender::new(Target::Starting);
        let (closing, unfinished) = (CancellationToken::new(), TaskTracker::new());
        let hand_over = HandOver { target: target.subscribe(), tls, unfinished: unfinished.clone() };
        unfinished.spawn(accept(callers, listeners, hand_over, closing.clone()));
        Ok(Self { target, closing, unfinished })
    }

    /// Leads callers there from now on, those who wait as well.
    pub fn lead(&self, target: Target) {
        self.target.send_replace(target);
    }

    /// Refuses connections, once whoever has connected has reached the agent.
    pub async fn close(self) {
        self.closing.cancel();
        if matches!(*self.target.borrow(), Target::Starting) {
            self.lead(Target::Absent);
        }
        self.unfinished.close();
        let _ = timeout(CLOSE, self.unfinished.wait()).await;
    }
}

impl Drop for InvokeForwarder {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// The way of a connection to the agent.
struct HandOver {
    target: watch::Receiver<Target>,
    tls: Option<ListenerTls>,
    unfinished: TaskTracker,
}

impl HandOver {
    fn spawn(&self, caller: TcpStream, permit: OwnedSemaphorePermit) {
        let (target, tls, connecting) = (self.target.clone(), self.tls.clone(), self.unfinished.token());
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(e) = hand_over(caller, tls, target, connecting).await {
                tracing::debug!("a connection of an agent's caller ended: {e}");
            }
        });
    }
}

async fn accept(callers: StdTcpListener, listeners: Listeners, hand_over: HandOver, closing: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            hand_over.spawn(listeners.accept().await.0, permit);
        }
    };
    closing.run_until_cancelled(accepting).await;
    // Whoever has connected by now: their connections would be reset.
    while let Ok(permit) = Arc::clone(&room).try_acquire_owned()
        && let Ok((caller, _)) = callers.accept()
        && let Ok(caller) = caller.set_nonblocking(true).and_then(|()| TcpStream::from_std(caller))
    {
        hand_over.spawn(caller, permit);
    }
}

async fn hand_over(
    caller: TcpStream,
    tls: Option<ListenerTls>,
    mut target: watch::Receiver<Target>,
    connecting: TaskTrackerToken,
) -> Result<()> {
    caller.set_nodelay(true)?;
    let caller = ListenerTls::accept(tls, caller).await?.permitted()?;
    let Some(agent) = connect(&mut target).await else { return Ok(()) };
    drop(connecting);
    relay(caller, agent).await
}

/// Connects to the agent; to the next one if this one has just crashed. `None` if there is none.
async fn connect(target: &mut watch::Receiver<Target>) -> Option<TcpStream> {
    loop {
        let decided = target.wait_for(|target| !matches!(target, Target::Starting)).await.ok()?.clone();
        let Target::Up(network) = decided else { return None };
        match network.connect().await {
            Ok(agent) => return Some(agent),
            Err(e) => tracing::debug!("an agent cannot be connected to: {e}"),
        }
        // One that is still up does not accept connections.
        timeout(NOTICED, target.changed()).await.ok()?.ok()?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::launcher::send;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpStream as StdTcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream as StdUnixStream;

    /// A network, made of this one: its launcher hands out sockets, and its agent answers a letter with that letter.
    fn network() -> Target {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let egress = StdTcpListener::bind("127.0.0.1:0").unwrap();
        send(&theirs, b"\n", &[egress.as_fd()]).unwrap();
        let agent = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let (network, _) = AgentNetwork::joined(ours, agent.local_addr().unwrap().port()).unwrap();
        std::thread::spawn(move || {
            while theirs.read_exact(&mut [0; 1]).is_ok() {
                let family = rustix::net::AddressFamily::INET;
                let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap();
                send(&theirs, b"\n", &[socket.as_fd()]).unwrap();
            }
        });
        std::thread::spawn(move || {
            for mut caller in agent.incoming().flatten() {
                let mut letter = [0; 1];
                caller.read_exact(&mut letter).unwrap();
                caller.write_all(&letter).unwrap();
            }
        });
        Target::Up(Arc::new(network))
    }

    fn forwarder() -> (InvokeForwarder, SocketAddr) {
        let callers = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let address = callers.local_addr().unwrap();
        (InvokeForwarder::start(callers.into(), None).unwrap(), address)
    }

    fn call(address: SocketAddr) -> StdTcpStream {
        let mut caller = StdTcpStream::connect(address).unwrap();
        caller.write_all(b"x").unwrap();
        caller
    }

    fn answer(mut caller: StdTcpStream) -> String {
        let mut answer = String::new();
        // A reset is no answer either.
        let _ = caller.read_to_string(&mut answer);
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_wait_for_an_agent_that_starts_and_not_for_one_that_is_away() {
        let (forwarder, address) = forwarder();
        let early = call(address);
        forwarder.lead(network());
        assert_eq!(answer(early), "x");
        forwarder.lead(Target::Starting);
        let early = call(address);
        forwarder.lead(Target::Absent);
        assert_eq!((answer(early), answer(call(address))), (String::new(), String::new()));
        forwarder.lead(network());
        assert_eq!(answer(call(address)), "x");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_who_have_connected_before_it_closes_are_answered_and_later_ones_are_refused() {
        let (forwarder, address) = forwarder();
        forwarder.lead(network());
        let early: Vec<_> = (0..20).map(|_| call(address)).collect();
        forwarder.close().await;
        assert_eq!(StdTcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(early.into_iter().all(|caller| answer(caller) == "x"));
    }

    /// A network whose launcher and agent are gone.
    fn crashed() -> Target {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let egress = StdTcpListener::bind("127.0.0.1:0").unwrap();
        send(&theirs, b"\n", &[egress.as_fd()]).unwrap();
        let (crashed, _) = AgentNetwork::joined(ours, 1).unwrap();
        drop(theirs);
        Target::Up(Arc::new(crashed))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_of_an_agent_that_has_just_crashed_reach_the_next_one() {
        let (forwarder, address) = forwarder();
        forwarder.lead(crashed());
        let early = call(address);
        forwarder.lead(network());
        assert_eq!(answer(early), "x");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_of_an_agent_that_is_up_and_accepts_no_connections_are_hung_up_on() {
        let (forwarder, address) = forwarder();
        forwarder.lead(crashed());
        assert_eq!(answer(call(address)), "");
    }
}
