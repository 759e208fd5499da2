//! `localhost` belongs to this installation: other programs on the machine neither take its port nor receive its key.

use crate::{
    cli::User,
    test_installation::{HOISTWAY, Stack},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};
use tempfile::tempdir;

/// An impostor's handling of a connection.
type Act = fn(TcpStream, &str, &Mutex<Vec<u8>>);

/// A listening program that is not Hoistway.
struct Impostor {
    at: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Impostor {
    /// Runs `act` with each connection and the installation's address.
    fn new(stack: &Stack, act: Act) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (at, heard, real) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<u8>>>::default(), stack.at.clone());
        let hearing = heard.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hearing, real) = (hearing.clone(), real.clone());
                thread::spawn(move || act(stream, &real, &hearing));
            }
        });
        Self { at, heard }
    }
}

/// Reads requests and answers each.
fn answer(stream: TcpStream, heard: &Mutex<Vec<u8>>, answer: impl Fn(&str) -> String) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut stream, mut head) = (stream, String::new());
    while reader.read_line(&mut head).is_ok_and(|length| length > 0) {
        if head.ends_with("\r\n\r\n") {
            heard.lock().unwrap().extend_from_slice(head.as_bytes());
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let _ = stream.write_all(answer(&target).as_bytes());
            head.clear();
        }
    }
}

fn answers_with_false_proof(stream: TcpStream, _: &str, heard: &Mutex<Vec<u8>>) {
    let body = r#"{"proof":"7t0p3rsmsYn9dYl2WbK0vJw4cVQ0m1zI2cO2aQF1u2k"}"#;
    answer(stream, heard, |_| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
}

fn redirects(stream: TcpStream, real: &str, heard: &Mutex<Vec<u8>>) {
    answer(stream, heard, |target| {
        format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{real}{target}\r\nContent-Length: 0\r\n\r\n")
    });
}

fn relays(mut stream: TcpStream, real: &str, heard: &Mutex<Vec<u8>>) {
    let mut there = TcpStream::connect(real).unwrap();
    let (mut back, mut from) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut from, &mut back));
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        heard.lock().unwrap().extend_from_slice(&piece[..length]);
        if there.write_all(&piece[..length]).is_err() {
            break;
        }
    }
}

#[test]
fn the_key_in_the_data_directory_goes_to_its_own_installation_only() {
    let dir = tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let user = User { stack: &stack, home: dir.path() };
    let list = |endpoint: &str| {
        let mut command = user.command(&["agents", "--endpoint", endpoint]);
        command.env_remove("RUNAGENTS_ENDPOINT").env_remove("RUNAGENTS_API_KEY");
        command.env("HOISTWAY_DATA_DIR", dir.path().join("data")).output().unwrap()
    };
    let port = stack.at.rsplit(':').next().unwrap();
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let out = list(&format!("http://{host}:{port}"));
        assert!(out.status.success(), "{host}: {}", String::from_utf8_lossy(&out.stderr));
    }
    for act in [answers_with_false_proof as Act, redirects, relays] {
        let impostor = Impostor::new(&stack, act);
        let out = list(&format!("http://localhost:{}", impostor.at.port()));
        let (said, heard) = (String::from_utf8(out.stderr).unwrap(), impostor.heard.lock().unwrap());
        let heard = String::from_utf8_lossy(&heard);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("is not this user's Hoistway: its API key is not sent there"), "{said}");
        assert!(heard.starts_with("GET /identity?nonce="), "{heard}");
        assert!(!heard.contains(&stack.key) && !heard.to_lowercase().contains("authorization"), "{heard}");
    }
}

#[test]
fn localhost_is_bound_with_every_address_and_a_start_without_it_fails() {
    let dir = tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut up = Command::new(HOISTWAY);
    up.args(["up", "--listen", &format!("127.0.0.2:{port}"), "--data-dir"]).arg(dir.path().join("data"));
    let out = up.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success(), "{said}");
    assert!(
        said.contains(&format!("127.0.0.1:{port} is in use: `localhost:{port}` has to be this program's")),
        "{said}"
    );

    let mut up = Command::new(HOISTWAY);
    up.args(["up", "--listen", "127.0.0.2:0", "--data-dir"]).arg(dir.path().join("data"));
    let stack = Stack::spawn(dir.path(), up);
    let port = stack.at.rsplit(':').next().unwrap();
    for ip in ["127.0.0.1", "[::1]"] {
        let taken = TcpListener::bind(format!("{ip}:{port}"));
        assert!(taken.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse), "{ip}");
    }
}
