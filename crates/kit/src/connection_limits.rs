//! Open connections of a server, bounded in number and in idle time, so that clients cannot exhaust a server with
//! connections.
//!
//! A connection is unauthenticated (a stranger) until a valid credential arrives on it ([`Connection::mark_authenticated`]). At
//! the limit of these, the oldest one is closed for a new one, so that health checks and authenticated clients always
//! get in, however many connections a stranger holds. Authenticated (known) connections are never closed for others;
//! each holder of a credential has a bounded number of them.
//!
//! A peer that reads nothing for [`Limits::write`] loses its connection, and with it everything that its request held.

use crate::open_files;
use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// The most unsent bytes that the kernel buffers for each connection.
const UNSENT: u32 = 128 << 10;

/// The servers of this process with the names of their listeners, for its metrics.
static SERVERS: Mutex<Vec<NamedServer>> = Mutex::new(Vec::new());

/// A server's listener and its connections.
type NamedServer = (&'static str, Weak<Mutex<Open>>);

/// The limits on the number of open connections and on the time for which a peer may be unresponsive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Unauthenticated connections at a time.
    pub strangers: usize,
    /// Of those, from one address that is not one of this machine.
    pub strangers_each: usize,
    /// Authenticated connections at a time; further ones stay unauthenticated.
    pub known: usize,
    /// Of those, of one holder of a credential.
    pub known_each: usize,
    /// The longest time for which a peer may read nothing of the data sent to it.
    pub write: Duration,
}

impl Default for Limits {
    /// Returns the default limits: authenticated connections get a quarter of the descriptors of this process, at most
    /// 4,096.
    fn default() -> Self {
        let known = (open_files::limit() / 4).clamp(64, 4096);
        Self { strangers: 256, strangers_each: 64, known, known_each: known / 4, write: Duration::from_secs(30) }
    }
}

/// The connections of one server. Clones share them.
#[derive(Debug, Clone)]
pub struct Connections {
    limits: Limits,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// The number of the next connection: a lower number is an older connection.
    next: u64,
    strangers: BTreeMap<u64, Stranger>,
    /// The number of authenticated connections by their holder.
    known: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Stranger {
    peer: IpAddr,
    close: CancellationToken,
}

impl Connections {
    /// Starts without connections. `listener` names the server in metrics, which sum servers of the same name.
    pub fn new(listener: &'static str, limits: Limits) -> Self {
        let open = Arc::default();
        let mut servers = lock(&SERVERS);
        servers.retain(|(_, open)| open.strong_count() > 0);
        servers.push((listener, Arc::downgrade(&open)));
        Self { limits, open }
    }

    /// Registers a connection that was just accepted; at the limit, the oldest unauthenticated one is closed for it.
    pub fn take_in(&self, stream: TcpStream, peer: SocketAddr) -> Bounded {
        // Without this option, the connection only costs more memory.
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let (peer_ip, close) = (peer.ip().to_canonical(), CancellationToken::new());
        let mut open = lock(&self.open);
        let of_peer = |stranger: &Stranger| !peer_ip.is_loopback() && stranger.peer == peer_ip;
        let oldest = if open.strangers.values().filter(|s| of_peer(s)).count() >= self.limits.strangers_each {
            open.strangers.iter().find(|(_, stranger)| of_peer(stranger)).map(|(id, _)| *id)
        } else if open.strangers.len() >= self.limits.strangers {
            open.strangers.keys().next().copied()
        } else {
            None
        };
        if let Some(oldest) = oldest.and_then(|id| open.strangers.remove(&id)) {
            oldest.close.cancel();
        }
        let id = open.next;
        open.next += 1;
        open.strangers.insert(id, Stranger { peer: peer_ip, close: close.clone() });
        drop(open);
        let (local, connections) = (stream.local_addr().ok(), self.clone());
        let connection = Connection(Arc::new(Registered { id, peer, local, connections, holder: Mutex::default() }));
        Bounded {
            stream,
            connection,
            closed: Box::pin(close.cancelled_owned()),
            blocked: None,
            write: self.limits.write,
        }
    }

    /// Returns the numbers of unauthenticated and of authenticated connections.
    pub fn count(&self) -> (usize, usize) {
        lock(&self.open).count()
    }
}

impl Open {
    fn count(&self) -> (usize, usize) {
        (self.strangers.len(), self.known.values().sum())
    }
}

/// Returns the open connections of this process by their listener, as [`Connections::count`] does.
pub(crate) fn open_connections() -> BTreeMap<&'static str, (usize, usize)> {
    let servers = lock(&SERVERS).clone();
    let mut counts: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for (listener, open) in servers {
        let Some(open) = open.upgrade() else { continue };
        let (strangers, known) = lock(&open).count();
        let count = counts.entry(listener).or_default();
        *count = (count.0 + strangers, count.1 + known);
    }
    counts
}

/// A handle of a connection for the handlers of its requests; it is in the extensions of each.
#[derive(Clone)]
pub struct Connection(Arc<Registered>);

struct Registered {
    id: u64,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    connections: Connections,
    /// The holder of the credential shown on it.
    holder: Mutex<Option<Arc<str>>>,
}

impl Connection {
    /// Returns the address of the peer.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Returns the local address: the one that was dialled, unless it was translated on the way.
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.local
    }

    /// Marks the connection as authenticated by `holder`. The first call counts.
    pub fn mark_authenticated(&self, holder: &str) {
        let Registered { id, connections, holder: known_as, .. } = &*self.0;
        let mut known_as = lock(known_as);
        if known_as.is_some() {
            return;
        }
        let limits = connections.limits;
        let mut open = lock(&connections.open);
        let (all, own) = (open.known.values().sum::<usize>(), open.known.get(holder).copied().unwrap_or_default());
        if all >= limits.known || own >= limits.known_each || open.strangers.remove(id).is_none() {
            return;
        }
        let holder: Arc<str> = holder.into();
        *open.known.entry(holder.clone()).or_default() += 1;
        *known_as = Some(holder);
    }

    /// Releases its slot.
    fn leave(&self) {
        let Registered { id, connections, holder, .. } = &*self.0;
        let holder = lock(holder).take();
        let mut open = lock(&connections.open);
        open.strangers.remove(id);
        if let Some(holder) = holder
            && let Some(count) = open.known.get_mut(&holder)
        {
            *count -= 1;
            if *count == 0 {
                open.known.remove(&holder);
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0.peer).finish()
    }
}

/// The stream of a connection. It fails when the connection is closed for another one, or when its peer reads nothing.
#[derive(Debug)]
pub struct Bounded {
    stream: TcpStream,
    connection: Connection,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The timer since writes are blocked: the stream fails when it expires.
    blocked: Option<Pin<Box<Sleep>>>,
    write: Duration,
}

impl Bounded {
    /// Returns the handle for its requests.
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Returns the first byte that is not read yet, which stays unread.
    pub async fn peek(&mut self) -> io::Result<u8> {
        let mut byte = [0; 1];
        let peeked = tokio::select! {
            () = self.closed.as_mut() => return Err(io::ErrorKind::ConnectionAborted.into()),
            peeked = self.stream.peek(&mut byte) => peeked?,
        };
        if peeked == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(byte[0]) }
    }

    /// Tracks the result of a write: one that stays blocked fails in the end.
    fn watched<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(self.write)));
        match blocked.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        self.connection.leave();
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Bounded {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const FEW: Limits =
        Limits { strangers: 3, strangers_each: 2, known: 4, known_each: 3, write: Duration::from_secs(1) };

    async fn pair(listener: &TcpListener, connections: &Connections, peer: &str) -> (TcpStream, Bounded) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near, connections.take_in(far, SocketAddr::new(peer.parse().unwrap(), 1)))
    }

    async fn is_closed(connection: &mut Bounded) -> bool {
        let read = tokio::time::timeout(Duration::from_millis(50), connection.read_u8()).await;
        read.is_ok_and(|read| read.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionAborted))
    }

    #[tokio::test]
    async fn the_oldest_unauthenticated_connection_is_evicted_and_authenticated_ones_stay() {
        let (listener, connections) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), Connections::new("counted", FEW));
        let (_a, mut known) = pair(&listener, &connections, "127.0.0.1").await;
        known.connection().mark_authenticated("key");
        known.connection().mark_authenticated("another");
        let mut all = Vec::new();
        for _ in 0..5 {
            all.push(pair(&listener, &connections, "127.0.0.1").await);
        }
        assert_eq!(connections.count(), (3, 1));
        let other = Connections::new("counted", FEW);
        let _other = pair(&listener, &other, "127.0.0.1").await;
        assert_eq!(open_connections().get("counted"), Some(&(4, 1)));
        let mut closed = Vec::new();
        for (_, connection) in &mut all {
            closed.push(is_closed(connection).await);
        }
        assert_eq!(closed, [true, true, false, false, false]);
        assert!(!is_closed(&mut known).await);
        // A connection that is closed but not yet dropped has no slot any more.
        all[0].1.connection().mark_authenticated("key");
        assert_eq!(connections.count(), (3, 1));
        drop((known, all));
        assert_eq!(connections.count(), (0, 0));
    }

    #[tokio::test]
    async fn another_machine_has_a_share_and_so_has_the_holder_of_a_credential() {
        let (listener, connections) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Connections::new("test", FEW));
        let mut one = pair(&listener, &connections, "192.0.2.1").await.1;
        let mut other = pair(&listener, &connections, "192.0.2.2").await.1;
        let _second = pair(&listener, &connections, "192.0.2.1").await;
        let _third = pair(&listener, &connections, "::ffff:192.0.2.1").await;
        assert!(is_closed(&mut one).await && !is_closed(&mut other).await);

        let mut all = Vec::new();
        for holder in ["a", "a", "a", "a", "b", "b"] {
            let connection = pair(&listener, &connections, "127.0.0.1").await.1;
            connection.connection().mark_authenticated(holder);
            all.push(connection);
        }
        assert_eq!(connections.count().1, 4, "three of one, and one more of all");
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_loses_its_connection_and_a_slow_one_does_not() {
        let (listener, connections) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Connections::new("test", FEW));
        let (mut near, mut far) = pair(&listener, &connections, "127.0.0.1").await;
        let reader = tokio::spawn(async move {
            let mut piece = vec![0; 64 << 10];
            // Reads for longer than the limit, with pauses far below it.
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                near.read_exact(&mut piece).await.unwrap();
            }
            near
        });
        let bytes = vec![0; 8 << 20];
        let failed = async {
            loop {
                if let Err(e) = far.write_all(&bytes).await {
                    return e;
                }
            }
        };
        let failed = tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        assert!(reader.is_finished(), "it went on for as long as anything was taken");
    }
}
