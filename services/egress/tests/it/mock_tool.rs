//! A tool that tells what it got, with TLS of an authority of its own or without.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An authority that vouches for stand-ins.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl TestCa {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn acceptor(&self, host: &str, alpn: &[&[u8]]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A server in the place of a tool, and the requests that it received. Requests are answered by their path:
/// `/status/N`, `/redirect`, `/hang`, `/stream` (pieces that the test sends), `/canned` (an answer that the test sets),
/// `/failing` (failures that the test sets come first), `/token`, `/websocket` (bytes come back as they are); others are told back as JSON.
#[derive(Clone)]
pub struct MockTool {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    connections: AtomicUsize,
    seen: Mutex<Vec<Value>>,
    /// Pieces of the answer to `/stream`.
    pieces: Mutex<Option<mpsc::Receiver<Bytes>>>,
    /// The answer to paths below `/canned`.
    canned: Mutex<(u16, HeaderMap, String)>,
    /// Answers of `/token`, the last one again and again: a status and a body.
    tokens: Mutex<Vec<(u16, String)>>,
    /// The models that `/v1/models` lists. It also has `alias`.
    models: Mutex<Vec<String>>,
    /// The failures of the next requests of paths below `/failing`: a status with `Retry-After`, or the connection
    /// ends.
    failures: Mutex<VecDeque<Option<(u16, &'static str)>>>,
    /// The bearer token that paths below `/guarded` want.
    wanted: Mutex<String>,
}

impl MockTool {
    pub async fn plain() -> Self {
        Self::start(None).await
    }

    pub async fn tls(ca: &TestCa, host: &str) -> Self {
        Self::start(Some(ca.acceptor(host, &[b"h2", b"http/1.1"]))).await
    }

    pub async fn tls_http1(ca: &TestCa, host: &str) -> Self {
        Self::start(Some(ca.acceptor(host, &[b"http/1.1"]))).await
    }

    async fn start(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            connections: AtomicUsize::new(0),
            seen: Mutex::default(),
            pieces: Mutex::default(),
            canned: Mutex::default(),
            tokens: Mutex::default(),
            models: Mutex::default(),
            failures: Mutex::default(),
            wanted: Mutex::default(),
        };
        let tool_server = Self { address: listener.local_addr().unwrap(), state: Arc::new(state) };
        let accepting = tool_server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.state.connections.fetch_add(1, Ordering::SeqCst);
                let (tool_server, acceptor) = (accepting.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| tool_server.clone().answer(request));
                    match acceptor {
                        None => drop(
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await,
                        ),
                        Some(acceptor) => {
                            let Ok(tls) = acceptor.accept(stream).await else { return };
                            let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                            let io = TokioIo::new(tls);
                            if is_h2 {
                                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                            } else {
                                let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
                            }
                        }
                    }
                });
            }
        });
        tool_server
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Requests so far, those of `path` only.
    pub fn seen(&self, path: &str) -> Vec<Value> {
        self.state.seen.lock().unwrap().iter().filter(|seen| seen["path"] == path).cloned().collect()
    }

    /// The answer to the next `/stream`.
    pub fn stream(&self) -> mpsc::Sender<Bytes> {
        let (sender, receiver) = mpsc::channel(4);
        *self.state.pieces.lock().unwrap() = Some(receiver);
        sender
    }

    /// Sets the answer to paths below `/canned`.
    pub fn cans(&self, status: u16, headers: &[(&'static str, &'static str)], body: impl Into<String>) {
        let value = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        *self.state.canned.lock().unwrap() = (status, headers.iter().map(value).collect(), body.into());
    }

    pub fn tokens<const N: usize>(&self, answers: [(u16, Value); N]) {
        *self.state.tokens.lock().unwrap() = answers.into_iter().map(|(s, v)| (s, v.to_string())).rev().collect();
    }

    pub fn lists_models(&self, models: &[&str]) {
        *self.state.models.lock().unwrap() = models.iter().map(|&model| model.to_owned()).collect();
    }

    /// Sets what happens to the next requests of paths below `/failing`.
    pub fn fails<const N: usize>(&self, failures: [Option<(u16, &'static str)>; N]) {
        *self.state.failures.lock().unwrap() = failures.into();
    }

    pub fn wants(&self, token: &str) {
        *self.state.wanted.lock().unwrap() = format!("Bearer {token}");
    }

    async fn answer(self, mut request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
        // Model providers are called below their base URL, which says what they are to do.
        let path = request.uri().path();
        let ends = ["/chat/completions", "/messages", "/models"];
        let below = ends.into_iter().find_map(|end| path.strip_suffix(end));
        let path = if path == "/v1/models" { path } else { below.unwrap_or(path) }.to_owned();
        if path == "/hang" {
            std::future::pending::<()>().await;
        }
        if path == "/stream" {
            let pieces = self.state.pieces.lock().unwrap().take().unwrap();
            let pieces = futures_util::stream::unfold(pieces, |mut pieces| async move {
                Some((Ok(Frame::data(pieces.recv().await?)), pieces))
            });
            let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            return Ok(response);
        }
        let upgrading = (path == "/websocket").then(|| hyper::upgrade::on(&mut request));
        let told = self.tell(request).await;
        self.state.seen.lock().unwrap().push(told.clone());
        let mut response = text(told.to_string());
        if let Some(status) = path.strip_prefix("/status/") {
            *response.status_mut() = status.parse().unwrap();
            response.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
        }
        let failure = match path.starts_with("/failing") {
            true => self.state.failures.lock().unwrap().pop_front(),
            false => None,
        };
        match failure {
            Some(Some((status, retry_after))) => {
                *response.status_mut() = status.try_into().unwrap();
                response.headers_mut().insert("retry-after", HeaderValue::from_static(retry_after));
            }
            Some(None) => return Err(io::Error::other("the connection ends")),
            None => {}
        }
        if path.starts_with("/canned") {
            let (status, headers, body) = self.state.canned.lock().unwrap().clone();
            response = text(body);
            *response.status_mut() = status.try_into().unwrap();
            *response.headers_mut() = headers;
        }
        if let Some(upgrading) = upgrading {
            tokio::spawn(async move {
                let Ok(upgraded) = upgrading.await else { return };
                let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")] {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            response = response.map(|_| Full::default().boxed_unsync());
        }
        if path == "/redirect" {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert("location", HeaderValue::from_static("http://127.0.0.1:1/private"));
        }
        if path.starts_with("/guarded") && told["headers"]["authorization"] != **self.state.wanted.lock().unwrap() {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        if path == "/v1/models" {
            let models = self.state.models.lock().unwrap();
            let data: Vec<Value> = models.iter().map(|model| json!({"id": model, "object": "model"})).collect();
            response = text(json!({"object": "list", "data": data}).to_string());
        }
        if path.strip_prefix("/v1/models/").is_some_and(|model| model != "alias") {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        if path == "/token" {
            let mut tokens = self.state.tokens.lock().unwrap();
            let (status, body) = if tokens.len() > 1 { tokens.pop().unwrap() } else { tokens[0].clone() };
            response = text(body);
            *response.status_mut() = status.try_into().unwrap();
        }
        response.headers_mut().insert("alt-svc", HeaderValue::from_static("h3=\":443\""));
        Ok(response)
    }

    async fn tell(&self, request: Request<Incoming>) -> Value {
        let (parts, body) = request.into_parts();
        let mut headers = serde_json::Map::new();
        for (name, value) in &parts.headers {
            let value = value.to_str().unwrap();
            let all =
                headers.get(name.as_str()).map_or(value.to_owned(), |v| format!("{}, {value}", v.as_str().unwrap()));
            headers.insert(name.to_string(), all.into());
        }
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        json!({
            "method": parts.method.as_str(),
            "path": parts.uri.path(),
            "query": parts.uri.query(),
            "authority": parts.uri.authority().map(|authority| authority.as_str()),
            "version": if parts.version == Version::HTTP_2 { "2" } else { "1.1" },
            "headers": headers,
            "length": body.len(),
            "json": serde_json::from_slice::<Value>(&body).ok(),
        })
    }
}

fn text(body: String) -> Response<Body> {
    Response::new(Full::new(Bytes::from(body)).boxed_unsync())
}
