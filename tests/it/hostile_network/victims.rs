//! The targets of hostile agents on this machine, and the tools that they may call.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// A tool over plain HTTP that records everything it receives.
#[derive(Clone)]
pub struct Tool {
    pub address: SocketAddr,
    received: Arc<Mutex<String>>,
}

impl Tool {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tool = Self { address: listener.local_addr().unwrap(), received: Arc::default() };
        let serving = tool.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let tool = serving.clone();
                thread::spawn(move || tool.answer(stream));
            }
        });
        tool
    }

    /// Answers the first request, and reads on until the client disconnects.
    fn answer(&self, mut stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (mut head, mut answered, mut piece) = (String::new(), false, [0; 4096]);
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            let text = String::from_utf8_lossy(&piece[..length]).into_owned();
            self.received.lock().unwrap().push_str(&text);
            head.push_str(&text);
            if !answered && head.contains("\r\n\r\n") {
                answered = true;
                let target = head.split(' ').nth(1).unwrap_or_default();
                let redirect = target.strip_prefix("/redirect?");
                let location = redirect.map(|to| format!("Location: {to}\r\n")).unwrap_or_default();
                let status = if redirect.is_some() { "302 Found" } else { "200 OK" };
                let _ =
                    write!(stream, "HTTP/1.1 {status}\r\n{location}Content-Length: 4\r\nConnection: close\r\n\r\ntool");
            }
        }
    }

    /// Returns everything received so far.
    pub fn received(&self) -> String {
        self.received.lock().unwrap().clone()
    }
}

/// The targets that no hostile agent may reach.
pub struct Victims {
    /// A port on every address of this machine.
    pub port: u16,
    /// An address of this machine outside loopback, if it has one.
    pub machine: String,
    /// The name of an abstract Unix socket.
    pub abstract_name: String,
    /// The path of another Unix socket.
    pub unix: PathBuf,
}

impl Victims {
    pub fn start(dir: &Path) -> Self {
        let listener =
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        greet(listener);
        let tag = dir.file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let abstract_name = format!("hoistway-{tag}");
        let unix = dir.join("socket");
        let address = UnixAddr::from_abstract_name(&abstract_name).unwrap();
        for listener in [UnixListener::bind_addr(&address).unwrap(), UnixListener::bind(&unix).unwrap()] {
            thread::spawn(move || listener.incoming().for_each(drop));
        }
        // Nothing is sent: connecting only selects a route.
        let route = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("8.8.8.8:53")?;
            socket.local_addr()
        });
        let machine = route.map_or("127.0.0.1".to_owned(), |address| address.ip().to_string());
        Self { port, machine, abstract_name, unix }
    }
}

/// Answers each connection as an HTTP server.
pub fn greet(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nvictim");
        }
    });
}
