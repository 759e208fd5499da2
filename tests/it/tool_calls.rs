//! Agents call their tools with ordinary clients, and a stand-in for the tool's host reports the requests.

use crate::{
    prerequisites,
    python_server::{AUTHORITY, certify},
    test_installation::{Stack, log_of},
};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
};

pub const HOST: &str = "api.stripe.com";
pub const KEY: &str = "sk-of-the-test-5b21";

/// The agent of the reference's first example, unchanged.
const EXAMPLE: &str = "import requests\nimport openai\n\nclient = openai.OpenAI()\n\ndef run():\n    response = requests.get(\"https://api.stripe.com/v1/charges\")\n    return response.json()\n\nif __name__ == \"__main__\":\n    run()";

/// Calls the URLs of its message with several clients, with proxies and without.
const CLIENTS: &str = r#"
import glob, json, os, urllib.error, urllib.request
import httpx, requests

def attempt(call):
    try:
        return call()
    except urllib.error.HTTPError as e:
        return [e.code, json.loads(e.read())["error"]]
    except Exception as e:
        return str(e)

def read(url, *handlers):
    with urllib.request.build_opener(*handlers).open(url, timeout=20) as answer:
        return json.load(answer)

def memory():
    seen = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as file: seen.append(file.read())
        except OSError: pass
    return b"\n".join(seen).decode(errors="replace")

def handler(message):
    if message == "environment":
        return {"response": [dict(os.environ), memory()]}
    url = "https://api.stripe.com/v1/charges"
    return {"response": {
        "requests": attempt(lambda: requests.get(url, timeout=20).json()),
        "httpx": attempt(lambda: httpx.get(url, timeout=20).json()),
        "urllib": attempt(lambda: read(url)),
        "tool_url": attempt(lambda: read(os.environ["TOOL_URL_STRIPE_API"] + "/v1/charges")),
        "direct": attempt(lambda: read(os.environ["TOOL_URL_STRIPE_API"] + "/v1/charges", urllib.request.ProxyHandler({}))),
        "not_required": attempt(lambda: read("https://other.example/")),
        "no_tool": attempt(lambda: read(message)),
    }}
"#;

/// Starts a host with TLS, and writes the certificate of its own authority to a file.
pub fn stand_in(dir: &Path) -> SocketAddr {
    let (leaf, key) = certify(dir, &[HOST]);
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let config = Arc::new(config);
    serve(move |stream| {
        let tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        answer(tls);
    })
}

pub fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    address
}

/// Answers one request with its path, its key, and its user if it has one.
pub fn answer(stream: impl Read + Write) {
    let mut stream = BufReader::new(stream);
    let lines = stream.by_ref().lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
    let field = |wanted: &str| {
        let mut fields = head.iter().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let mut body = json!({"path": path, "authorization": field("authorization")});
    if let Some(user) = field("x-end-user-id") {
        body["user"] = user.into();
    }
    let body = body.to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
    let stream = stream.get_mut();
    let _ = write!(stream, "{head}Connection: close\r\n\r\n{body}").and_then(|()| stream.flush());
}

pub fn start(dir: &Path, flags: &[&str]) -> Stack {
    let address = stand_in(dir);
    Stack::start_with(dir, |command| {
        command.args(flags);
        command.env(
            "HOISTWAY_EGRESS_RESOLVE",
            json!([format!("{HOST}:443={address}"), "other.example:443=127.0.0.1:1"]).to_string(),
        );
        command.env("HOISTWAY_EGRESS_EXTRA_CA_FILE", dir.join(AUTHORITY));
    })
}

pub fn give_key(stack: &Stack) {
    let stored = stack.call("PUT", "/api/tools/stripe-api/credentials", Some(&json!({"api_key": KEY})));
    assert_eq!(stored.status, 200, "{}", stored.text());
}

/// Returns the stand-in's answer when the key was added on the way.
pub fn charges() -> Value {
    json!({"path": "/v1/charges", "authorization": format!("Bearer {KEY}")})
}

pub fn stripe() -> Value {
    json!({"name": "stripe-api", "description": "Stripe payments API", "base_url": "https://api.stripe.com", "auth_type": "APIKey"})
}

#[test]
fn the_references_first_example_calls_its_tool_with_a_key_that_it_never_sees() {
    let dir = tempfile::tempdir().unwrap();
    let stack = start(dir.path(), &[]);
    let body = json!({
        "agent_name": "payment-agent",
        "source_files": {"agent.py": EXAMPLE},
        "system_prompt": "You are a payment processing assistant.",
        "tools_to_create": [stripe()],
        "required_tools": ["stripe-api"],
        "llm_configs": [{"role": "chat", "provider": "openai", "model": "gpt-4o-mini"}],
        "entry_point": "agent.py",
        "requirements": "openai>=1.0\nrequests",
    });
    let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(dir.path()));
    give_key(&stack);
    assert_eq!(stack.answer("payment-agent", "x"), charges());
}

#[test]
fn every_client_is_led_through_egress_in_every_sandbox() {
    let rows: [(&[&str], bool); 4] = [
        (&["--network", "open"], true),
        (&["--sandbox", "none"], true),
        (&["--sandbox", "landlock", "--network", "closed"], false),
        (&["--sandbox", "namespaces", "--network", "closed"], false),
    ];
    let plain = serve(answer);
    for (flags, is_open) in rows {
        if !prerequisites::sandbox(flags) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let stack = start(dir.path(), flags);
        let other = json!({"name": "other", "base_url": "https://other.example"});
        assert_eq!(stack.call("POST", "/api/tools", Some(&other)).status, 201);
        let body = json!({
            "agent_name": "clients",
            "source_files": {"agent.py": CLIENTS},
            "tools_to_create": [stripe()],
            "required_tools": ["stripe-api"],
            "requirements": "httpx\nrequests",
        });
        let answer = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
        assert_eq!(answer.status, 201, "{flags:?}: {}\n{}", answer.text(), log_of(dir.path()));
        give_key(&stack);

        let said = stack.answer("clients", &format!("http://{plain}/free"));
        for client in ["requests", "httpx", "urllib", "tool_url"] {
            assert_eq!(said[client], charges(), "{flags:?}, {client}: {said}");
        }
        if is_open {
            assert_eq!(said["no_tool"], json!({"path": "/free", "authorization": null}), "{flags:?}: {said}");
        } else {
            let refused = json!([
                403,
                format!("no tool is registered for http://{plain}: register one there and add it to required_tools")
            ]);
            if flags.contains(&"namespaces") {
                // In a network of its own, loopback is the agent's, where no server listens.
                assert!(said["no_tool"].as_str().unwrap().contains("Connection refused"), "{said}");
            } else {
                assert_eq!(said["no_tool"], refused, "{flags:?}: {said}");
            }
            let refused = said["not_required"].as_str().unwrap();
            let text = "https://other.example is the tool \"other\", which this agent does not require: add it to required_tools";
            assert!(refused.contains(&format!("403 {text}")), "{flags:?}: {said}");
            // The message is also in the log, where users look first.
            let mut log = stack.chunks("GET", "/api/agents/clients/logs?follow=true&stream=platform", None);
            let log = log.text_until(text);
            assert!(log.contains("egress answered 403 to CONNECT https://other.example: "), "{log}");
        }
        if flags.contains(&"namespaces") {
            // No other agent is in that network, so no token is needed.
            assert_eq!(said["direct"], charges(), "{said}");
        }
        let environment = stack.answer("clients", "environment");
        assert!(environment[0]["HTTPS_PROXY"].is_string() && !environment.to_string().contains(KEY), "{flags:?}");
        let shown = stack.get("/api/agents/clients").to_string();
        assert!(!shown.contains("hwe_") && !shown.contains(KEY), "{shown}");
        stack.stop();
        let found = std::process::Command::new("grep").args(["-rlaF", KEY]).arg(dir.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}
