//! Peers that send much, read nothing or only wait: `hoistway up` uses little memory, and other clients are answered.

use crate::{
    http,
    test_installation::{Stack, log_of},
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// The maximum peak memory of `up`, in MiB, including a debug build's own code.
const MAX_PEAK_MIB: u64 = 300;
const UNREAD: usize = 100;

const AGENT: &str = r#"
import os

def handler(message):
    if message == "large":
        return "x" * (4 << 20)
    if message == "log":
        for n in range(900):
            print(str(n) + "y" * 8000)
    if message == "lines":
        for n in range(16):
            os.write(1, b"\n" * (64 << 10))
    return message
"#;

/// Returns the peak memory of the process so far, in MiB.
fn peak(stack: &Stack) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stack.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Sends the head of a request with a key, and the beginning of its body.
fn send(stack: &Stack, key: &str, line: &str, length: usize, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&stack.at).unwrap();
    let head = format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

fn status(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    std::str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

/// Runs an action, and checks meanwhile that the gateway is healthy and answers another client.
fn others_are_answered<T>(stack: &Stack, key: &str, doing: impl FnOnce() -> T + Send) -> T
where
    T: Send,
{
    std::thread::scope(|scope| {
        let doing = scope.spawn(doing);
        let mut slowest = Duration::ZERO;
        for round in 0.. {
            let begun = Instant::now();
            assert_eq!(http::send(&stack.at, "GET", "/healthz", &[], b"").unwrap().status, 200);
            slowest = slowest.max(begun.elapsed());
            let bearer = format!("Bearer {key}");
            let headers = [("Authorization", bearer.as_str())];
            let body = br#"{"message": "hello"}"#;
            let answer = http::send(&stack.at, "POST", "/api/agents/small/invoke", &headers, body).unwrap();
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), log_of(&stack.dir));
            if round > 0 && doing.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The limit is many times the usual duration, and a fraction of the duration before this was fixed.
        assert!(slowest < Duration::from_secs(2), "health was answered after {slowest:?}");
        doing.join().unwrap()
    })
}

#[test]
fn peers_that_do_not_read_or_finish_use_little_memory_and_block_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    stack.deployed(json!({"agent_name": "large", "source_files": {"agent.py": AGENT}}));
    stack.deployed(json!({"agent_name": "small", "source_files": {"agent.py": AGENT}}));
    let made = |name: &str, scope: &str| {
        let body = json!({"name": name, "scopes": [scope]});
        stack.call("POST", "/api/keys", Some(&body)).json()["key"].as_str().unwrap().to_owned()
    };
    let (hostile, other, reader) = (made("hostile", "invoke"), made("other", "invoke"), made("reader", "read"));
    let small = |what: &str| assert!(peak(&stack) < MAX_PEAK_MIB, "{what}: {} MiB", peak(&stack));

    let message = |text: &str| format!("{{\"message\": \"{text}\"}}");
    let invoke = "POST /api/agents/large/invoke";
    let unread: Vec<TcpStream> = others_are_answered(&stack, &other, || {
        let body = message("large");
        let ask = |_| send(&stack, &hostile, invoke, body.len(), body.as_bytes());
        let mut asked: Vec<TcpStream> = (0..UNREAD).map(ask).collect();
        // The agent answers a limited number at a time; the others are asked to retry.
        let begun = asked.iter_mut().map(status).filter(|status| *status == 200).count();
        assert!(begun > 20, "{begun}");
        asked
    });
    small("long answers that nobody reads");
    drop(unread);

    let announced: Vec<TcpStream> = (0..8).map(|_| send(&stack, &hostile, invoke, 32 << 20, b"{")).collect();
    others_are_answered(&stack, &other, || std::thread::sleep(Duration::from_millis(200)));
    drop(announced);
    small("bodies that were only announced");

    let mut many = b"{\"message\": [".to_vec();
    many.extend(b"{},".repeat(5 << 20));
    many.extend(b"0]}");
    let refused: Vec<u16> = others_are_answered(&stack, &other, || {
        let send = || status(&mut send(&stack, &hostile, invoke, many.len(), &many));
        std::thread::scope(|scope| {
            let sent: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
            sent.into_iter().map(|sent| sent.join().unwrap()).collect()
        })
    });
    // Only the agent can judge its message. Several of these may need more than its memory limit.
    assert!(refused.iter().all(|status| [400, 502, 503].contains(status)) && refused.contains(&400), "{refused:?}");
    small("bodies of many values");

    let body = message("log");
    assert_eq!(status(&mut send(&stack, &hostile, invoke, body.len(), body.as_bytes())), 200);
    let unread: Vec<TcpStream> = others_are_answered(&stack, &other, || {
        (0..UNREAD).map(|_| send(&stack, &reader, "GET /api/agents/large/logs?tail=100000", 0, b"")).collect()
    });
    for mut stream in unread {
        assert_eq!(status(&mut stream), 200);
    }
    small("logs that nobody reads");

    let body = message("lines");
    let answered = others_are_answered(&stack, &other, || {
        status(&mut send(&stack, &hostile, invoke, body.len(), body.as_bytes()))
    });
    assert_eq!(answered, 200);
    small("millions of empty lines");

    for n in 0..800 {
        let tool =
            json!({"name": format!("t{n}"), "description": "d".repeat(16_000), "base_url": "https://t.example.com"});
        assert_eq!(stack.call("POST", "/api/tools", Some(&tool)).status, 201);
    }
    let mut unread: Vec<TcpStream> =
        (0..20).map(|_| send(&stack, &reader, "GET /api/tools?limit=1000", 0, b"")).collect();
    let refused = unread.iter_mut().map(status).filter(|status| *status == 429).count();
    assert!((1..20).contains(&refused), "{refused}");
    assert_eq!(stack.get("/api/tools?limit=1000").as_array().unwrap().len(), 800, "others have room for theirs");
    small("lists that nobody reads");
    assert!(stack.stop().success());
}

#[test]
fn large_bodies_that_fill_the_buffer_do_not_block_small_ones() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    stack.deployed(json!({"agent_name": "small", "source_files": {"agent.py": AGENT}}));
    let length = 32 << 20;
    let mut nearly_whole = b"{\"message\": \"".to_vec();
    nearly_whole.resize(length - 100, b'x');
    let mut held = Vec::new();
    for name in ["one", "two"] {
        let body = json!({"name": name, "scopes": ["invoke"]});
        let key = stack.call("POST", "/api/keys", Some(&body)).json()["key"].as_str().unwrap().to_owned();
        let invoke = "POST /api/agents/small/invoke";
        held.extend((0..2).map(|_| send(&stack, &key, invoke, length, &nearly_whole)));
    }
    let begun = Instant::now();
    others_are_answered(&stack, &stack.key, || std::thread::sleep(Duration::from_millis(200)));
    let key = json!({"name": "another", "scopes": ["read"]});
    assert_eq!(stack.call("POST", "/api/keys", Some(&key)).status, 201);
    assert!(begun.elapsed() < Duration::from_secs(8), "they waited for memory: {:?}", begun.elapsed());
    // A body that does not arrive is given up, and its room is released.
    assert!(held.iter_mut().map(status).all(|status| status == 400));
    assert!(stack.stop().success());
}

#[test]
fn connections_without_a_key_make_room_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let mut known = TcpStream::connect(&stack.at).unwrap();
    let ask = format!("GET /api/agents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", stack.key);
    known.write_all(ask.as_bytes()).unwrap();
    assert_eq!(status(&mut known), 200);
    for at in [&stack.at, &stack.registry] {
        let mut silent: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(at).unwrap()).collect();
        silent.iter_mut().skip(1).step_by(2).for_each(|stream| {
            // Writing to a connection that was closed already may fail.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: ");
        });
        assert_eq!(http::send(&stack.at, "GET", "/healthz", &[], b"").unwrap().status, 200);
        let open = std::fs::read_dir(format!("/proc/{}/fd", stack.pid())).unwrap().count();
        assert!(open < 700, "{open} descriptors are open");
    }
    let mut rest = [0; 4096];
    assert!(known.read(&mut rest).unwrap() > 0);
    known.write_all(ask.as_bytes()).unwrap();
    assert_eq!(status(&mut known), 200, "a connection with a key stays");
    assert!(stack.stop().success());
}
