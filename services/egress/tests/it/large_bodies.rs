//! Bodies that are larger than the memory which egress may take for them.

use crate::{
    egress_process::EgressProcess,
    test_egress::{SOON, basic},
};
use futures_util::future::join_all;
use hoistway_model::RevisionId;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// The size of each body.
const SIZE: u64 = 1 << 30;
/// The memory that egress may have taken in addition at any time, for both.
const GROWTH_KIB: u64 = 32 << 10;
/// The memory that large requests for models may take together.
const SHARE_KIB: u64 = 512 << 10;
const PIECE: usize = 64 << 10;

/// Writes a body of `size` bytes, which is never there as a whole.
async fn write_body(stream: &mut (impl AsyncWriteExt + Unpin), size: u64) {
    let piece = vec![7; PIECE];
    let mut left = size;
    while left > 0 {
        let length = left.min(PIECE as u64) as usize;
        stream.write_all(&piece[..length]).await.unwrap();
        left -= length as u64;
    }
}

/// Reads a head and returns its first line and the length that it announces.
async fn read_head(stream: &mut BufReader<TcpStream>) -> (String, u64) {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await.unwrap();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if line.trim().is_empty() {
            return (first, length);
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
}

/// Reads a body to its end and returns how long it was.
async fn read_body(stream: &mut BufReader<TcpStream>, length: u64) -> u64 {
    tokio::io::copy_buf(&mut BufReader::with_capacity(PIECE, stream.take(length)), &mut tokio::io::sink())
        .await
        .unwrap()
}

/// A tool that reads what it is sent and answers with as many bytes as the path says.
async fn tool() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (first, length) = read_head(&mut stream).await;
                assert_eq!(read_body(&mut stream, length).await, length);
                let size = first.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                write_body(&mut stream, size).await;
            });
        }
    });
    port
}

/// Sends `up` bytes and has `down` sent back.
async fn exchange(program: &EgressProcess, up: u64, down: u64) {
    let stream = TcpStream::connect(&program.address).await.unwrap();
    let mut stream = BufReader::with_capacity(PIECE, stream);
    let auth = basic(&program.token);
    let head = format!("POST /tools/api/{down} HTTP/1.1\r\nHost: egress\r\nProxy-Authorization: {auth}\r\n");
    stream.write_all(format!("{head}Content-Length: {up}\r\n\r\n").as_bytes()).await.unwrap();
    write_body(&mut stream, up).await;
    let (first, length) = read_head(&mut stream).await;
    assert!(first.starts_with("HTTP/1.1 200 ") && length == down, "{first} {length}");
    assert_eq!(read_body(&mut stream, length).await, down);
}

/// A provider of the Messages API that reads what it is sent and answers.
async fn provider() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (_, length) = read_head(&mut stream).await;
                assert_eq!(read_body(&mut stream, length).await, length);
                let body = r#"{"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}"#;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
                stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
            });
        }
    });
    port
}

/// Asks about an image of so many bytes, and returns the status of the answer.
async fn ask(program: &EgressProcess, size: u64) -> u16 {
    let mut stream = BufReader::new(TcpStream::connect(&program.address).await.unwrap());
    let start = r#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"#;
    let end = r#""}}]}]}"#;
    let length = start.len() as u64 + size + end.len() as u64;
    let auth = basic(&program.token);
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: egress\r\nProxy-Authorization: {auth}\r\n");
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{start}").as_bytes()).await.unwrap();
    let piece = vec![b'A'; PIECE];
    let mut left = size;
    while left > 0 {
        let length = left.min(PIECE as u64) as usize;
        stream.write_all(&piece[..length]).await.expect("the whole body is taken");
        left -= length as u64;
    }
    stream.write_all(end.as_bytes()).await.unwrap();
    let (first, length) = read_head(&mut stream).await;
    assert_eq!(read_body(&mut stream, length).await, length, "{first}");
    first.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn translations_of_many_large_requests_stay_within_their_share_and_give_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("http://localhost:{}/v1", provider().await);
    let policies = json!({"agents": [{"agent": "a", "revision": RevisionId::mint(), "tools": [], "models": [
        {"model": "m", "provider": "p", "endpoint": endpoint, "api": "anthropic", "allow_private": true},
    ]}]});
    let program = EgressProcess::start(dir.path(), &policies, &[]).await;
    assert_eq!(timeout(SOON, ask(&program, 1)).await.unwrap(), 200);
    let before = peak_memory(program.pid());
    let statuses = timeout(SOON * 2, join_all((0..20).map(|_| ask(&program, 30 << 20)))).await.unwrap();
    let answered = statuses.iter().filter(|status| **status == 200).count();
    assert!(answered >= 12 && statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    let (peak, after) = (peak_memory(program.pid()), memory(program.pid(), "VmRSS:"));
    eprintln!("memory: {before} KiB before, {peak} KiB at most, {after} KiB afterwards");
    assert!(peak - before < SHARE_KIB, "{before} KiB before, {peak} KiB at most");
    assert!(after < before + GROWTH_KIB, "{before} KiB before, {after} KiB afterwards");
    // Who sends all of a request that is refused sees the answer.
    assert_eq!(timeout(SOON, ask(&program, 40 << 20)).await.unwrap(), 413);
    program.stop().await;
}

/// The most memory that a process has had, in KiB.
fn peak_memory(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// A line of the process's status, in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_stream_in_both_directions_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let policies = json!({"agents": [{"agent": "a", "revision": RevisionId::mint(), "tools": [
        {"name": "api", "base_url": format!("http://localhost:{}", tool().await), "allow_private": true},
    ]}]});
    let size = SIZE.to_string();
    let limits = [("HOISTWAY_EGRESS_LIMITS__REQUEST_SIZE", &*size), ("HOISTWAY_EGRESS_LIMITS__RESPONSE_SIZE", &*size)];
    let program = EgressProcess::start(dir.path(), &policies, &limits).await;
    timeout(SOON, exchange(&program, 1, 1)).await.unwrap();
    let before = peak_memory(program.pid());
    timeout(SOON, exchange(&program, 0, SIZE)).await.unwrap();
    timeout(SOON, exchange(&program, SIZE, 1)).await.unwrap();
    let after = peak_memory(program.pid());
    eprintln!("peak memory: {before} KiB before, {after} KiB after");
    assert!(after - before < GROWTH_KIB, "{before} KiB before, {after} KiB after");
    program.stop().await;
}
