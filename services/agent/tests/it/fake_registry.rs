//! A registry of this test, on loopback.

use crate::fake_image::Image;
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use hoistway_model::Digest;
use serde_json::json;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpSocket, task::JoinHandle};

#[derive(Default)]
struct Content {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
    /// The number of times that a blob was sent.
    sent: HashMap<String, usize>,
    token: Option<String>,
}

pub struct Registry {
    pub addr: SocketAddr,
    /// Keeps the port from other tests while nothing listens there.
    _reserved: TcpSocket,
    content: Arc<Mutex<Content>>,
    serving: Option<JoinHandle<()>>,
}

/// Returns a socket that is bound to an address, which several may share.
fn socket(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

impl Registry {
    pub async fn start(token: Option<&str>) -> Self {
        let mut registry = Self::down(token).await;
        registry.up().await;
        registry
    }

    /// One that has its address and does not answer there yet.
    pub async fn down(token: Option<&str>) -> Self {
        let reserved = socket("127.0.0.1:0".parse().unwrap());
        let addr = reserved.local_addr().unwrap();
        let content = Arc::new(Mutex::new(Content { token: token.map(str::to_owned), ..Content::default() }));
        Self { addr, _reserved: reserved, content, serving: None }
    }

    pub async fn up(&mut self) {
        let listener = socket(self.addr).listen(1024).unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&self.content));
        let routes = Router::new()
            .route("/v2/", axum::routing::get(|| async { "{}" }))
            .route("/v2/{*path}", axum::routing::any(answer_path))
            .with_state(Arc::clone(&self.content))
            .fallback_service(app);
        self.serving = Some(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
    }

    pub async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Digest {
        let mut content = self.content.lock().unwrap();
        for blob in image.layers.iter().map(|l| &l.blob).chain([&image.config]) {
            content.blobs.insert(format!("{repository}/blobs/{}", Digest::of(blob)), blob.clone());
        }
        for reference in [tag.to_owned(), image.digest().to_string()] {
            content.manifests.insert(format!("{repository}/manifests/{reference}"), image.manifest.clone());
        }
        image.digest()
    }

    /// Sends other bytes than a blob's from now on.
    pub fn spoil(&self, repository: &str, blob: &Digest) {
        let path = format!("{repository}/blobs/{blob}");
        self.content.lock().unwrap().blobs.insert(path, b"spoilt".to_vec());
    }

    pub fn sent(&self, repository: &str, blob: &Digest) -> usize {
        self.content.lock().unwrap().sent.get(&format!("{repository}/blobs/{blob}")).copied().unwrap_or(0)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn answer() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

async fn answer_path(
    State(content): State<Arc<Mutex<Content>>>,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let mut content = content.lock().unwrap();
    if let Some(token) = &content.token {
        let shown = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        if shown != Some(&format!("Bearer {token}")) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
    }
    if let Some(manifest) = content.manifests.get(&path) {
        let digest = Digest::of(manifest).to_string();
        let body = if method == Method::HEAD { Body::empty() } else { Body::from(manifest.clone()) };
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        return ([(header::CONTENT_TYPE, media_type), (DIGEST, digest.as_str())], body).into_response();
    }
    if let Some(blob) = content.blobs.get(&path).cloned() {
        *content.sent.entry(path).or_default() += 1;
        return blob.into_response();
    }
    let code = if path.contains("/blobs/") { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" };
    let body = json!({"errors": [{"code": code, "message": "not here"}]}).to_string();
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

const DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");
