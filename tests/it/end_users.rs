//! Real agents behind an identity provider: the user passed to an agent comes only from claims signed by the issuer.

use crate::{
    http::{self, Answer},
    prerequisites,
    test_installation::{HOISTWAY, Stack, log_of},
    tool_calls,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Command,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

const REPORTS_USER: &str = "def handler(request, context):\n    \
    return {'response': [request.get('user_id'), context.session.get('user_id')]}\n";
const USER_SCRIPT: &str = "import os\nprint(os.environ['AGENT_USER_ID'])\n";

/// Calls a tool with several clients, each of which claims that another user is calling.
const TOOL_CALLS: &str = r#"
import asyncio, concurrent.futures, json, os, urllib.request
import aiohttp, httpx, httpx2, requests

URL = "https://api.stripe.com/v1/charges"
FORGED = {"X-End-User-ID": "root", "X-Hoistway-End-User": "root"}
session, client, successor = requests.Session(), httpx.Client(), httpx2.Client()
pool = concurrent.futures.ThreadPoolExecutor(4)

def with_urllib():
    with urllib.request.urlopen(URL) as answer:
        return json.load(answer)

async def handler(message):
    async with httpx2.AsyncClient() as newer:
        with_newer = (await newer.get(URL)).json()
    async with httpx.AsyncClient() as later, aiohttp.ClientSession(trust_env=True) as trusting:
        async with trusting.get(URL) as answer:
            with_aiohttp = await answer.json()
        with_async = (await later.get(URL)).json()
    answers = {
        "requests": await asyncio.to_thread(lambda: session.get(URL).json()),
        "httpx": client.get(URL).json(),
        "httpx, async": with_async,
        "httpx2": successor.get(URL).json(),
        "httpx2, async": with_newer,
        "aiohttp": with_aiohttp,
        "urllib, pool": pool.submit(with_urllib).result(),
        "forged": session.get(URL, headers={"X-End-User-ID": "root"}).json(),
        "forged twice": requests.get(URL, headers=FORGED).json(),
    }
    return {"response": {name: answer.get("user") for name, answer in answers.items()}}
"#;

/// Calls a model at the address in its code, without a tool or a variable of the platform.
const MODEL_CALL: &str = r#"
import json, urllib.request

def handler(message):
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": message}]}
    request = urllib.request.Request("https://api.openai.com/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
"#;

/// An issuer of tokens, with one key, on a port of its own.
pub struct Issuer {
    url: String,
    key: Ed25519KeyPair,
}

impl Issuer {
    pub fn start() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // The thread ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = BufReader::new(stream.try_clone().unwrap());
                assert!(request.lines().map_while(Result::ok).any(|line| line.is_empty()));
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close", keys.len());
                let _ = write!(stream, "{head}\r\n\r\n{keys}");
            }
        });
        Self { url, key }
    }

    pub fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims =
            json!({"iss": self.url, "aud": ["agents"], "email": user, "email_verified": true, "exp": now + 600});
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(json!({"alg": "EdDSA", "kid": "k"})), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    pub fn provider(&self) -> Value {
        let issuer = json!({"issuer": self.url, "jwksUri": format!("{}/keys", self.url), "audiences": ["agents"]});
        json!({"name": "sso", "spec": {"host": "agents.example.com", "userIDClaim": "email", "identityProvider": issuer}})
    }
}

/// Invokes an agent for a user with a token and no API key, who claims to be another user.
pub fn invoke(stack: &Stack, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), ("X-End-User-ID", "root")];
    let body = json!({"message": "x", "user_id": "root"}).to_string();
    http::send(&stack.at, "POST", path, &headers, body.as_bytes()).unwrap()
}

#[test]
fn agents_receive_the_verified_user_of_an_invoke() {
    let dir = tempfile::tempdir().unwrap();
    let (stack, issuer) = (Stack::start(dir.path()), Issuer::start());
    let made = stack.call("POST", "/api/identity-providers", Some(&issuer.provider()));
    assert_eq!(made.status, 201, "{}", made.text());
    let guarded = |name: &str, source: &str| json!({"agent_name": name, "source_files": {"agent.py": source}, "identity_provider": "sso"});
    stack.deployed(guarded("told", REPORTS_USER));
    stack.deployed(guarded("script", USER_SCRIPT));
    let response = |stack: &Stack, agent: &str, user: &str| {
        let answer = invoke(stack, &format!("/api/agents/{agent}/invoke"), &issuer.token(user));
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), log_of(dir.path()));
        answer.json()["response"].clone()
    };
    let user = "jürgen@example.com";
    assert_eq!(response(&stack, "told", user), json!([user, user]));
    assert_eq!(response(&stack, "script", user), user);
    let streamed = invoke(&stack, "/api/agents/told/invoke/stream", &issuer.token("b@example.com"));
    assert!(streamed.status == 200 && streamed.text().contains("b@example.com"), "{}", streamed.text());
    assert!(!streamed.text().contains("root"));
    let file = dir.path().join("token");
    std::fs::write(&file, issuer.token("c@example.com") + "\n").unwrap();
    let mut command = Command::new(HOISTWAY);
    command.args(["invoke", "script", "x", "--user-token-file"]).arg(&file);
    command.env("RUNAGENTS_ENDPOINT", format!("http://{}", stack.at)).env("RUNAGENTS_API_KEY", &stack.key);
    let out = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "c@example.com\n", "{}", String::from_utf8_lossy(&out.stderr));

    let forged = Issuer { url: issuer.url.clone(), ..Issuer::start() };
    let refused = invoke(&stack, "/api/agents/told/invoke", &forged.token(user));
    assert_eq!((refused.status, refused.json()["error"].as_str()), (401, Some("the token's signature is wrong")));
    assert_eq!(stack.invoke("told", "x").status, 401, "the key that opens everything does not say who asks");

    // Without the provider the agent accepts keys and receives no user; a rollback restores the provider.
    let open = stack.call("PUT", "/api/agents/told/config", Some(&json!({"identity_provider": ""})));
    assert_eq!(open.status, 200, "{}", open.text());
    let body = json!({"message": "x", "user_id": "root"});
    let answer = stack.call("POST", "/api/agents/told/invoke", Some(&body));
    assert_eq!(answer.json()["response"], json!([null, null]), "{}", answer.text());
    assert_eq!(invoke(&stack, "/api/agents/told/invoke", &issuer.token(user)).status, 401);
    let back = stack.call("POST", "/api/agents/told/rollback", None);
    assert_eq!(back.status, 201, "{}", back.text());
    assert_eq!(stack.invoke("told", "x").status, 401);
    assert_eq!(response(&stack, "told", user), json!([user, user]));

    // This also holds after a restart, before the issuer's keys have been fetched.
    assert!(stack.stop().success());
    let stack = Stack::start(dir.path());
    stack.wait_for_phase("told", "Running");
    assert_eq!(response(&stack, "told", user), json!([user, user]));
    let in_use = stack.call("DELETE", "/api/identity-providers/sso", None);
    assert_eq!(in_use.status, 409, "{}", in_use.text());
    assert!(stack.stop().success());
}

#[test]
fn tool_calls_carry_the_user_of_their_own_invoke() {
    let dir = tempfile::tempdir().unwrap();
    let (stack, issuer) = (tool_calls::start(dir.path(), &[]), Issuer::start());
    assert_eq!(stack.call("POST", "/api/identity-providers", Some(&issuer.provider())).status, 201);
    let body = json!({
        "agent_name": "calls",
        "source_files": {"agent.py": TOOL_CALLS},
        "tools_to_create": [tool_calls::stripe()],
        "required_tools": ["stripe-api"],
        "requirements": "aiohttp\nhttpx\nhttpx2\nrequests",
        "identity_provider": "sso",
    });
    let deployed = stack.call("POST", "/api/deploy?timeout=600", Some(&body));
    assert_eq!(deployed.status, 201, "{}\n{}", deployed.text(), log_of(dir.path()));
    tool_calls::give_key(&stack);

    thread::scope(|scope| {
        for user in ["ada@example.com", "bob@example.com", "cyd@example.com"] {
            let (stack, issuer) = (&stack, &issuer);
            scope.spawn(move || {
                for _ in 0..5 {
                    let answer = invoke(stack, "/api/agents/calls/invoke", &issuer.token(user));
                    let told = answer.json()["response"].clone();
                    for (client, whom) in told.as_object().unwrap_or_else(|| panic!("{}", answer.text())) {
                        // Two contradicting headers are both ignored.
                        let expected = if client == "forged twice" { Value::Null } else { user.into() };
                        assert_eq!(*whom, expected, "{client}: {told}");
                    }
                }
            });
        }
    });
    assert!(!stack.get("/api/agents/calls/logs").to_string().contains("hwi_"));
    assert!(stack.stop().success());
}

#[test]
fn a_model_that_is_called_at_its_public_address_is_counted_for_the_user() {
    let flags = ["--network", "closed"];
    if !prerequisites::sandbox(&flags) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.args(flags);
    });
    let issuer = Issuer::start();
    assert_eq!(stack.call("POST", "/api/identity-providers", Some(&issuer.provider())).status, 201);
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    stack.deployed(json!({
        "agent_name": "asks",
        "source_files": {"agent.py": MODEL_CALL},
        "llm_configs": [{"provider": "openai", "model": "gpt-4o-mini"}],
        "identity_provider": "sso",
    }));
    let answer = invoke(&stack, "/api/agents/asks/invoke", &issuer.token("ada@example.com"));
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), log_of(dir.path()));
    let usage = stack.get("/api/usage?agent=asks&group_by=user");
    assert_eq!(usage["usage"][0]["user"], "ada@example.com", "{usage}");
    assert!(stack.stop().success());
}
