//! A runner of an agent that answers with a script.

use crate::{fakes::name, test_gateway::TestGateway};
use hoistway_model::{
    RevisionId, Secret,
    agent::{Route, RouteEvent, Target},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

/// A runner that answers every connection with `script`, piece by piece; `None` waits for the test.
pub struct Runner {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<String>>>,
    pub seen: watch::Sender<usize>,
    pub go_on: watch::Sender<bool>,
    /// Its answer about the stack of an invoke; `None`: it has none.
    pub stack: Arc<Mutex<Option<String>>>,
    /// Whether a caller has disconnected before its answer.
    left: watch::Sender<bool>,
}

pub type Script = Vec<Option<String>>;

impl Runner {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, seen, go_on) = (Arc::default(), watch::Sender::new(0), watch::Sender::new(false));
        let runner = Self { address, requests, seen, go_on, stack: Arc::default(), left: watch::Sender::new(false) };
        let (requests, seen, go_on) = (runner.requests.clone(), runner.seen.clone(), runner.go_on.clone());
        let (stack, left) = (Arc::clone(&runner.stack), runner.left.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, seen, go_on) = (Arc::clone(&requests), seen.clone(), go_on.subscribe());
                let end = (Arc::clone(&stack), left.clone());
                tokio::spawn(serve(stream, script.clone(), requests, seen, go_on, end));
            }
        });
        runner
    }

    pub fn route(&self) -> Route {
        route(Some(self.address.to_string()))
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Script,
    requests: Arc<Mutex<Vec<String>>>,
    seen: watch::Sender<usize>,
    mut go_on: watch::Receiver<bool>,
    (stack, left): (Arc<Mutex<Option<String>>>, watch::Sender<bool>),
) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let is_whole = |request: &[u8]| match request.starts_with(b"GET /stack ") {
        true => request.ends_with(b"\r\n\r\n"),
        false => request.ends_with(b"}"),
    };
    while !is_whole(&request) {
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0);
        request.extend_from_slice(&buffer[..n]);
    }
    let asks_for_stack = request.starts_with(b"GET /stack ");
    requests.lock().unwrap().push(String::from_utf8(request).unwrap());
    if !asks_for_stack {
        seen.send_modify(|n| *n += 1);
    }
    if asks_for_stack {
        // An invoke that was already abandoned would have no stack.
        let gone = timeout(Duration::from_millis(200), left.subscribe().wait_for(|left| *left)).await.is_ok();
        assert!(!gone, "the invoke is held meanwhile");
    }
    let script = match asks_for_stack {
        true => match stack.lock().unwrap().clone() {
            Some(body) => answer("200 OK", &body),
            None => answer("404 Not Found", r#"{"error": "there is no /stack here", "code": "not_found"}"#),
        },
        false => script,
    };
    for piece in script {
        match piece {
            Some(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            None => {
                let is_gone = tokio::select! {
                    _ = go_on.wait_for(|go| *go) => false,
                    _ = stream.read(&mut buffer) => true,
                };
                if is_gone {
                    left.send_replace(true);
                    drop(go_on.wait_for(|go| *go).await);
                }
            }
        }
    }
}

pub fn answer(status: &str, body: &str) -> Script {
    let length = body.len();
    vec![Some(format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"))]
}

pub fn route(address: Option<String>) -> Route {
    let target =
        address.map(|address| Target { revision: RevisionId::mint(), address, token: Secret::new("invoke-token") });
    Route {
        agent: name("a"),
        ready: target.is_some(),
        target,
        message: String::new(),
        needs_caller_identity: false,
        identity_provider: None,
        idle: false,
        idle_after: None,
    }
}

pub async fn changed(gateway: &TestGateway, route: Route) -> u64 {
    let mut changes = gateway.state.routes.changes();
    let version = gateway.agents.route(RouteEvent::Changed(Box::new(route)));
    changes.changed().await.unwrap();
    version
}
