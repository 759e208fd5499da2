//! Loopback ports that are chosen at the first start and stored, so that addresses stay the same from start to start.

use crate::{
    fs::{read_if_there, write_atomic},
    tls::ListenerTls,
    token::random,
};
use hoistway_model::{Code, Error, Result};
use std::{
    collections::BTreeMap,
    future::poll_fn,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    task::Poll,
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

/// Below the kernel's range of ephemeral ports, so that a stored port stays free between starts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
const ATTEMPTS: usize = 200;

/// The backlog of connections that wait to be accepted, as in the standard library.
const BACKLOG: i32 = 128;

/// The pause of accepting when the process has no descriptor left; waiting connections stay in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The ports of one data directory, in `DIR/ports.json`.
#[derive(Debug)]
pub struct Ports {
    file: PathBuf,
    kept: BTreeMap<String, u16>,
}

impl Ports {
    /// Reads `dir/ports.json`, if it exists.
    pub fn open(dir: &Path) -> Result<Self> {
        let file = dir.join("ports.json");
        let failed = |e: io::Error| Error::internal(&format!("reading {}", file.display()), e);
        let kept = match read_if_there(&file).map_err(failed)? {
            None => BTreeMap::new(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                let text = format!("{} is not an object of names and ports ({e}): mend or remove it", file.display());
                Error::new(Code::InvalidArgument, text)
            })?,
        };
        Ok(Self { file, kept })
    }

    /// Removes every stored port if one of them is taken now, so that others are chosen; true if it did.
    pub fn forget_if_taken(dir: &Path) -> Result<bool> {
        let ports = Self::open(dir)?;
        let taken = |port: &u16| {
            let tried = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port));
            tried.is_err_and(|e| e.kind() == ErrorKind::AddrInUse)
        };
        let forget = ports.kept.values().any(taken);
        if forget {
            let failed = |e: io::Error| Error::internal(&format!("removing {}", ports.file.display()), e);
            std::fs::remove_file(&ports.file).map_err(failed)?;
        }
        Ok(forget)
    }

    /// Returns the stored port of `name`, or chooses a free one and stores it.
    pub fn get_or_choose(&mut self, name: &str) -> Result<u16> {
        match self.kept.get(name) {
            Some(&port) => Ok(port),
            None => Ok(self.choose(name)?.port()),
        }
    }

    /// Listens on the port of `name` on loopback, and chooses it at the first start. Inside the runtime only.
    pub fn listen(&mut self, name: &str) -> Result<Listeners> {
        let Some(&port) = self.kept.get(name) else { return self.choose(name) };
        bind_loopback(port).map_err(|e| {
            let remedy = format!(
                "end the program that uses it, or remove \"{name}\" from {} to have another port chosen",
                self.file.display()
            );
            busy(&format!("port {port}, kept for {name},"), &remedy, e)
        })
    }

    fn choose(&mut self, name: &str) -> Result<Listeners> {
        for _ in 0..ATTEMPTS {
            let port = FIRST + u16::from_le_bytes(random()?) % COUNT;
            if self.kept.values().any(|&kept| kept == port) {
                continue;
            }
            let listeners = match bind_loopback(port) {
                Ok(listeners) => listeners,
                Err(e) if e.kind() == ErrorKind::AddrInUse => continue,
                Err(e) => return Err(Error::internal("listening on loopback", e)),
            };
            self.kept.insert(name.to_owned(), port);
            self.save()?;
            return Ok(listeners);
        }
        Err(Error::new(Code::ResourceExhausted, format!("no free port between {FIRST} and {}", FIRST + COUNT)))
    }

    fn save(&self) -> Result<()> {
        let failed = |e: io::Error| Error::internal(&format!("writing {}", self.file.display()), e);
        let mut text = serde_json::to_vec_pretty(&self.kept).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        write_atomic(&self.file, &text, 0o644).map_err(failed)
    }
}

/// Listens on 127.0.0.1 and `[::1]` at the same port, so that `localhost` works with either; on a machine without IPv6
/// on 127.0.0.1 alone. Port 0 takes a free one. Inside the runtime only.
pub fn listen_loopback(port: u16) -> Result<Listeners> {
    bind_loopback(port).map_err(|e| busy(&format!("port {port}"), "end the program that uses it, or choose another", e))
}

/// Listens on one address. Inside the runtime only.
pub fn listen(addr: SocketAddr) -> Result<Listeners> {
    bind(addr)
        .map(Listeners::from)
        .map_err(|e| busy(&addr.to_string(), "end the program that uses it, or choose another", e))
}

/// Listens on one address and, at the same port, on every loopback address of `localhost`: another program there would
/// receive requests meant for this one. Inside the runtime only.
pub fn listen_with_loopback(addr: SocketAddr) -> Result<Listeners> {
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let first = match addr.ip() {
        // Both are bound, and one is shown.
        ip if ip == v4 || ip == v6 => return listen_loopback(addr.port()),
        // Each family has a socket of its own, so that a conflict with another program is detected.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => bind_v6_only(addr),
        _ => bind(addr),
    };
    let first = first.map_err(|e| busy(&addr.to_string(), "end the program that uses it, or choose another", e))?;
    let port = first.local_addr().map_err(|e| Error::internal("listening", e))?.port();
    let beside = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![at(v6, port)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![at(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)],
        _ => vec![at(v4, port), at(v6, port)],
    };
    let mut all = vec![first];
    for addr in beside {
        match bind(addr) {
            Ok(listener) => all.push(listener),
            // A machine without IPv6.
            Err(e) if addr.is_ipv6() && e.kind() != ErrorKind::AddrInUse => {}
            Err(e) => {
                let remedy = format!(
                    "`localhost:{port}` has to be this program's, wherever else it listens; end the program that uses it, \
                     or choose another port"
                );
                return Err(busy(&addr.to_string(), &remedy, e));
            }
        }
    }
    Ok(all.into())
}

/// Listens on the configured address of a service, and writes the port chosen for port 0 back. 127.0.0.1 includes
/// [::1]: `localhost` must work with both IPv4 and IPv6. Inside the runtime only.
pub fn listen_as_configured(addr: &mut SocketAddr) -> Result<Listeners> {
    let listeners = match addr.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => listen_loopback(addr.port())?,
        _ => listen(*addr)?,
    };
    addr.set_port(listeners.port());
    Ok(listeners)
}

fn busy(what: &str, remedy: &str, e: io::Error) -> Error {
    match e.kind() {
        ErrorKind::AddrInUse => Error::new(Code::Conflict, format!("{what} is in use: {remedy}")),
        ErrorKind::PermissionDenied => {
            Error::new(Code::PermissionDenied, format!("{what} needs a right that this user does not have"))
        }
        ErrorKind::AddrNotAvailable => {
            Error::new(Code::InvalidArgument, format!("{what} is not an address of this machine"))
        }
        _ => Error::internal(&format!("listening on {}", what.trim_end_matches(',')), e),
    }
}

fn bind_loopback(port: u16) -> io::Result<Listeners> {
    // The kernel chooses port 0 for IPv4, and the port may be taken for IPv6: another one is tried then.
    for attempt in 1.. {
        let v4 = bind((Ipv4Addr::LOCALHOST, port).into())?;
        let chosen = v4.local_addr()?.port();
        match bind((Ipv6Addr::LOCALHOST, chosen).into()) {
            Ok(v6) => return Ok(vec![v4, v6].into()),
            Err(e) if e.kind() == ErrorKind::AddrInUse && port == 0 && attempt < ATTEMPTS => {}
            Err(e) if e.kind() == ErrorKind::AddrInUse => return Err(e),
            Err(_) => return Ok(v4.into()),
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

/// Binds one address. The standard library sets SO_REUSEADDR before it binds: closing connections do not block a
/// restart.
fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind_v6_only(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listening sockets that belong together.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    tls: Option<ListenerTls>,
}

impl Listeners {
    /// Returns the port of the first one.
    pub fn port(&self) -> u16 {
        self.addrs().first().map_or(0, SocketAddr::port)
    }

    /// Adds TLS, which the server of the connections applies.
    pub(crate) fn with_tls(self, tls: ListenerTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Returns the TLS of their connections, if they have it.
    pub fn tls(&self) -> Option<&ListenerTls> {
        self.tls.as_ref()
    }

    /// Returns their addresses; the first is the one to show.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Returns the next connection on any of them, with Nagle's algorithm off. Failures to accept are logged and
    /// ignored.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Ok((stream, peer)) => {
                    // Without this option, only latency suffers.
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                Err(e) if of_one_connection(&e) => {}
                Err(e) => {
                    tracing::warn!("accepting a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn poll_accept(&self, cx: &mut std::task::Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        for listener in &self.sockets {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        vec![listener].into()
    }
}

impl From<Vec<TcpListener>> for Listeners {
    fn from(listeners: Vec<TcpListener>) -> Self {
        Self { sockets: listeners, tls: None }
    }
}

fn of_one_connection(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_port_is_chosen_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = Ports::open(dir.path()).unwrap();
        let listeners = ports.listen("build").unwrap();
        let port = listeners.port();
        assert!((FIRST..FIRST + COUNT).contains(&port));
        assert_ne!(ports.get_or_choose("agent").unwrap(), port);
        drop(listeners);

        let mut again = Ports::open(dir.path()).unwrap();
        assert_eq!(again.get_or_choose("build").unwrap(), port);
        assert_eq!(again.listen("build").unwrap().port(), port);
    }

    #[tokio::test]
    async fn a_busy_port_is_one_clear_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = Ports::open(dir.path()).unwrap();
        let taken = ports.listen("build").unwrap();
        let e = ports.listen("build").unwrap_err();
        assert_eq!(e.code, Code::Conflict);
        assert_eq!(
            e.message,
            format!(
                "port {}, kept for build, is in use: end the program that uses it, or remove \"build\" from \
                 {}/ports.json to have another port chosen",
                taken.port(),
                dir.path().display()
            )
        );
        let e = listen_loopback(taken.port()).unwrap_err();
        assert!(e.message.starts_with(&format!("port {} is in use: ", taken.port())), "{e}");
    }

    #[tokio::test]
    async fn ports_that_somebody_has_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Ports::forget_if_taken(dir.path()).unwrap(), "there are none");
        let mut ports = Ports::open(dir.path()).unwrap();
        let agent = ports.get_or_choose("agent").unwrap();
        assert!(!Ports::forget_if_taken(dir.path()).unwrap());
        let _taken = ports.listen("build").unwrap();
        assert_eq!(Ports::open(dir.path()).unwrap().get_or_choose("agent").unwrap(), agent);
        assert!(Ports::forget_if_taken(dir.path()).unwrap());
        assert!(!dir.path().join("ports.json").exists());
    }

    #[tokio::test]
    async fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ports.json"), "[]").unwrap();
        assert!(Ports::open(dir.path()).unwrap_err().message.contains("ports.json"));
    }

    #[tokio::test]
    async fn localhost_is_held_wherever_else_is_listened() {
        for ip in ["127.0.0.2", "0.0.0.0", "::", "127.0.0.1", "::1"] {
            let addr = SocketAddr::new(ip.parse().unwrap(), 0);
            let listeners = listen_with_loopback(addr).unwrap();
            let port = listeners.port();
            for localhost in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()] {
                let (connected, (_, peer)) = tokio::join!(TcpStream::connect(localhost), listeners.accept());
                assert_eq!(connected.unwrap().local_addr().unwrap(), peer, "{ip}");
                assert_eq!(bind(localhost).unwrap_err().kind(), ErrorKind::AddrInUse, "{ip} {localhost}");
            }
        }
    }

    #[tokio::test]
    async fn who_has_localhost_already_is_told_of() {
        for (localhost, ips) in [("127.0.0.1:0", ["127.0.0.2", "::"]), ("[::1]:0", ["127.0.0.2", "0.0.0.0"])] {
            let taken = bind(localhost.parse().unwrap()).unwrap();
            let port = taken.local_addr().unwrap().port();
            for ip in ips {
                let e = listen_with_loopback(SocketAddr::new(ip.parse().unwrap(), port)).unwrap_err();
                assert_eq!(e.code, Code::Conflict, "{e}");
                assert!(e.message.contains(&format!(" is in use: `localhost:{port}` has to be this program's")), "{e}");
            }
        }
    }

    #[tokio::test]
    async fn every_address_of_localhost_is_accepted() {
        let listeners = listen_loopback(0).unwrap();
        for addr in listeners.addrs() {
            let (connected, (_, peer)) = tokio::join!(TcpStream::connect(addr), listeners.accept());
            assert_eq!(connected.unwrap().local_addr().unwrap(), peer);
        }
    }
}
