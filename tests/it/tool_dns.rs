//! Agents in a network of their own reach their tools by name, with clients that do not read proxy variables.

use crate::{
    prerequisites,
    python_server::AUTHORITY,
    test_installation::{Stack, log_of},
    tool_calls::{HOST, answer, charges, give_key, serve, stand_in, stripe},
};
use serde_json::json;
use std::time::{Duration, Instant};

/// Calls the URLs of its message with a client that ignores proxy variables.
const CLIENTS: &str = r#"
import asyncio, json, socket, ssl, time
from urllib.parse import urlsplit
import aiohttp

async def fetch(url):
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
        return await answer.json()

def read(url):
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    connection = socket.create_connection((parts.hostname, parts.port or (443 if is_tls else 80)), 20)
    if is_tls:
        connection = ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode())
    return json.loads(connection.makefile("rb").read().partition(b"\r\n\r\n")[2])

def handler(message):
    client, url = message.split()
    began = time.monotonic()
    try:
        return {"response": asyncio.run(fetch(url)) if client == "aiohttp" else read(url)}
    except (OSError, aiohttp.ClientConnectorError) as error:
        error = getattr(error, "os_error", error)
        return {"response": [type(error).__name__, time.monotonic() - began < 1]}
"#;

#[test]
fn clients_that_ignore_proxy_variables_call_tools_by_name_in_a_closed_network() {
    let flags = ["--sandbox", "namespaces", "--network", "closed"];
    if !prerequisites::sandbox(&flags) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tls, plain) = (stand_in(dir.path()), serve(answer));
    let stack = Stack::start_with(dir.path(), |command| {
        let resolve = [
            format!("{HOST}:443={tls}"),
            format!("plain.example:8080={plain}"),
            format!("moved.example:443={plain}"),
            format!("other.example:443={tls}"),
        ];
        command.args(flags);
        command.env("HOISTWAY_EGRESS_RESOLVE", json!(resolve).to_string());
        command.env("HOISTWAY_EGRESS_EXTRA_CA_FILE", dir.path().join(AUTHORITY));
    });
    let other = json!({"name": "other", "base_url": "https://other.example"});
    assert_eq!(stack.call("POST", "/api/tools", Some(&other)).status, 201);
    let body = json!({
        "agent_name": "clients",
        "source_files": {"agent.py": CLIENTS},
        "tools_to_create": [stripe(), {"name": "plain", "base_url": "http://plain.example:8080"}],
        "required_tools": ["stripe-api", "plain"],
        "requirements": "aiohttp",
    });
    let deployed = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(deployed.status, 201, "{}\n{}", deployed.text(), log_of(dir.path()));
    give_key(&stack);

    let free = json!({"path": "/free", "authorization": null});
    let nowhere = json!(["gaierror", true]);
    for client in ["aiohttp", "socket"] {
        let ask = |url: &str| stack.answer("clients", &format!("{client} {url}"));
        assert_eq!(ask(&format!("https://{HOST}/v1/charges")), charges(), "{client}");
        assert_eq!(ask("http://plain.example:8080/free"), free, "{client}");
        // Another agent's tool, and a host that is no tool, have no address.
        assert_eq!(ask("https://other.example/"), nowhere, "{client}");
        assert_eq!(ask("https://no-tool.example/"), nowhere, "{client}");
    }

    // A moved tool is found at its new address, with TLS or without.
    let moved = json!({"name": "plain", "base_url": "http://moved.example:443"});
    let answer = stack.call("PUT", "/api/tools/plain", Some(&moved));
    assert_eq!(answer.status, 200, "{}", answer.text());
    // The agent's instance is replaced by one that has the new name after the answer.
    let until = Instant::now() + Duration::from_secs(60);
    while stack.answer("clients", "aiohttp http://moved.example:443/free") != free {
        assert!(Instant::now() < until, "{}", log_of(dir.path()));
    }
    assert_eq!(stack.answer("clients", "socket http://plain.example:8080/free"), nowhere);
    assert_eq!(stack.answer("clients", &format!("socket https://{HOST}/v1/charges")), charges());
}
