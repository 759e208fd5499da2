//! Egress in the stack: the permissions of an agent's token, and the times from which changes apply.

use crate::{
    http::{self, Answer},
    test_installation::{Stack, says},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use hoistway_client::{EgressClient, ToolCredentialsClient, Transport};
use hoistway_kit::{egress_auth::EgressKey, token::ServiceToken};
use hoistway_model::{
    Code, EgressService, Secret, ToolCredentials,
    egress::{Call, CallQuery},
    watch::Update,
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

/// The platform's limit for a change to take effect.
const ONE_SECOND: Duration = Duration::from_secs(1);

/// Starts a tool that answers with the key that it receives.
fn tool() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut key = String::new();
            let head = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in head.map_while(Result::ok).take_while(|line| !line.is_empty()) {
                if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("x-key")) {
                    key = value.trim().to_owned();
                }
            }
            let length = key.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{key}");
        }
    });
    port
}

/// Returns the port of a part of the stack.
pub fn port(stack: &Stack, name: &str) -> u16 {
    let ports: Value = serde_json::from_slice(&std::fs::read(stack.dir.join("data/ports.json")).unwrap()).unwrap();
    ports[name].as_u64().unwrap().try_into().unwrap()
}

/// Returns the token of an agent's current revision.
pub fn token(stack: &Stack, agent: &str) -> Secret {
    let revisions = stack.get(&format!("/api/agents/{agent}/revisions"));
    let revision = revisions[0]["id"].as_str().unwrap_or_else(|| panic!("{revisions}"));
    let key = EgressKey::load_or_create(&stack.dir.join("data/egress-key")).unwrap();
    key.mint(revision.parse().unwrap())
}

fn call(stack: &Stack, token: &Secret) -> Answer {
    let auth = format!("Basic {}", STANDARD.encode(format!("agent:{}", token.expose())));
    let at = format!("127.0.0.1:{}", port(stack, "egress"));
    http::send(&at, "GET", "/tools/probe/x", &[("Proxy-Authorization", &auth)], b"").unwrap()
}

/// Returns the recorded calls, including those from before a restart.
pub fn calls(stack: &Stack) -> Vec<Call> {
    let token = ServiceToken::load_or_create(&stack.dir.join("data/service-token")).unwrap();
    let uri = format!("http://127.0.0.1:{}", port(stack, "egress-grpc"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let egress = EgressClient::new(Transport::connect("egress", &uri, &token).unwrap());
        egress.calls(CallQuery { limit: 1000, ..CallQuery::default() }).await.unwrap()
    })
}

/// Calls the tool until it answers as expected, which must be within a second.
fn wait_for_answer(stack: &Stack, token: &Secret, wanted: (u16, &str)) {
    let until = Instant::now() + ONE_SECOND;
    loop {
        let answer = call(stack, token);
        let said = if answer.status == 200 { answer.text() } else { answer.json()["reason"].to_string() };
        if (answer.status, said.trim_matches('"')) == wanted {
            return;
        }
        assert!(
            Instant::now() < until,
            "{wanted:?} was not there in time: {} {}; revisions: {}",
            answer.status,
            answer.text(),
            stack.get("/api/agents/caller/revisions"),
        );
    }
}

#[test]
fn an_agents_token_allows_its_tools_while_the_agent_exists() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    assert!(stack.screen.contains(", egress 127.0.0.1:"), "{}", stack.screen);
    let deploy = |tools: &[&str]| {
        let body = json!({"agent_name": "caller", "source_files": says("hello"), "required_tools": tools});
        let answer = stack.deploy(body);
        assert_eq!(answer.status, 201, "{}", answer.text());
    };
    deploy(&["probe"]);
    let first = token(&stack, "caller");
    // The tool is not registered yet.
    wait_for_answer(&stack, &first, (403, "tool_not_allowed"));
    let body = json!({
        "name": "probe",
        "spec": {"connection": {
            "baseUrl": format!("http://127.0.0.1:{}", tool()),
            "authentication": {"type": "APIKey", "apiKeyConfig": {"in": "Header", "name": "X-Key"}},
        }},
    });
    assert_eq!(stack.call("POST", "/api/tools", Some(&body)).status, 201);
    wait_for_answer(&stack, &first, (502, "credential_missing"));
    for key in ["sk-first", "sk-second"] {
        let stored = stack.call("PUT", "/api/tools/probe/credentials", Some(&json!({"api_key": key})));
        assert_eq!(stored.status, 200, "{}", stored.text());
        wait_for_answer(&stack, &first, (200, key));
    }

    deploy(&[]);
    let second = token(&stack, "caller");
    wait_for_answer(&stack, &second, (403, "tool_not_allowed"));
    deploy(&["probe"]);
    let third = token(&stack, "caller");
    wait_for_answer(&stack, &third, (200, "sk-second"));

    // A restart does not change this.
    stack.stop();
    let stack = Stack::start(dir.path());
    wait_for_answer(&stack, &third, (200, "sk-second"));
    assert_eq!(stack.call("DELETE", "/api/agents/caller", None).status, 200);
    wait_for_answer(&stack, &third, (401, "identity_unknown"));

    // The record of a call is stored soon after its answer.
    let until = Instant::now() + ONE_SECOND;
    let is_last = |call: &Call| call.agent.is_none() && call.status == Some(401);
    let calls = loop {
        let calls = calls(&stack);
        if calls.iter().any(is_last) {
            break calls;
        }
        assert!(Instant::now() < until, "{calls:?}");
    };
    let has = |outcome: (Option<u16>, Option<&str>)| {
        let of_agent = |call: &&Call| call.agent.as_ref().is_some_and(|agent| agent.as_str() == "caller");
        calls.iter().filter(of_agent).any(|call| (call.status, call.refused.as_deref()) == outcome)
    };
    assert!(has((Some(200), None)) && has((Some(502), Some("credential_missing"))), "{calls:?}");
    stack.stop();
    // Neither keys nor tokens are in any file on disk, including the log and the databases.
    for secret in ["sk-first", "sk-second", first.expose(), third.expose()] {
        let found = std::process::Command::new("grep").args(["-rlaF", secret]).arg(dir.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

#[test]
fn credentials_are_readable_with_the_identity_of_egress_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let body = json!({"name": "keyed", "base_url": "https://keyed.example", "auth_type": "APIKey", "credentials": {"api_key": "sk-keyed"}});
    let made = stack.call("POST", "/api/tools", Some(&body));
    assert_eq!(made.status, 201, "{}", made.text());
    let file = |name: &str| dir.path().join("data").join(name);
    for name in ["egress-token", "egress-key", "egress/ca-key.pem"] {
        assert_eq!(std::fs::metadata(file(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let uri = format!("http://127.0.0.1:{}", port(&stack, "tool-registry"));
    let read = async |token: &ServiceToken| {
        let client = ToolCredentialsClient::new(Transport::connect("tool-registry", &uri, token).unwrap());
        match client.watch_tools().await?.next().await.unwrap()? {
            Update::Set(_, tool) => Ok(tool.credentials["api_key"].expose().to_owned()),
            other => panic!("{other:?}"),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let token = |name: &str| ServiceToken::load_or_create(&file(name)).unwrap();
        assert_eq!(read(&token("egress-token")).await.unwrap(), "sk-keyed");
        let refused = async |token: ServiceToken| {
            let refused: Result<String, hoistway_model::Error> = read(&token).await;
            refused.unwrap_err().code
        };
        assert_eq!(refused(token("service-token")).await, Code::PermissionDenied);
        assert_eq!(refused(ServiceToken::generate().unwrap()).await, Code::Unauthenticated);
    });
}
