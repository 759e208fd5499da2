//! The registry on a real port, with a real database and real files.
#![allow(clippy::unwrap_used)]

mod access;
mod clients;
mod collect;
mod kill;
mod migration;
mod pull;
mod push;
mod resume;
mod specification;

use super::{
    BlobStore, Holder, ManifestStore, OCI_MANIFEST, RegistryConfig, RegistryState, Space, router,
    store::{self, Base},
};
use crate::tests::database;
use bytes::Bytes;
use hoistway_kit::db::Db;
use hoistway_model::Digest;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::{TcpListener, TcpStream};

/// The API key that the tests' registry knows.
const KEY: &str = "hw_the-key-of-these-tests";

/// The token of another service.
const TOKEN: &str = "the-token-of-services";

fn verify(text: &str) -> Option<Holder> {
    [(KEY, Holder::Operator), (TOKEN, Holder::Service)].into_iter().find(|(key, _)| *key == text).map(|(_, who)| who)
}

/// A registry as its clients see it.
#[derive(Debug, Clone, Copy)]
struct Peer {
    addr: SocketAddr,
}

/// A running registry; it ends with the test's runtime.
struct Registry {
    peer: Peer,
    state: RegistryState,
    blobs: BlobStore,
    db: Db,
    server: tokio::task::JoinHandle<()>,
    dir: Dir,
}

/// Where a registry is, and what removes it afterwards.
struct Dir {
    path: PathBuf,
    _removed_after: Option<tempfile::TempDir>,
}

impl Dir {
    fn path(&self) -> &Path {
        &self.path
    }
}

impl From<PathBuf> for Dir {
    /// One that outlives this process.
    fn from(path: PathBuf) -> Self {
        Self { path, _removed_after: None }
    }
}

impl From<tempfile::TempDir> for Dir {
    fn from(dir: tempfile::TempDir) -> Self {
        Self { path: dir.path().to_owned(), _removed_after: Some(dir) }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The status and the code of the first error, for comparing in one line.
    fn verdict(&self) -> (u16, String) {
        let code = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        (self.status.as_u16(), code["errors"][0]["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl std::ops::Deref for Registry {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl Registry {
    async fn start() -> Self {
        Self::with(RegistryConfig { min_free_bytes: 0, ..RegistryConfig::default() }).await
    }

    async fn with(config: RegistryConfig) -> Self {
        Self::on(tempfile::tempdir().unwrap(), config, None).await
    }

    /// On a directory that an earlier one may have used.
    async fn on(dir: impl Into<Dir>, config: RegistryConfig, base: Base) -> Self {
        let dir = dir.into();
        let db = Db::open(&database(dir.path()).await, crate::migrations::ALL).await.unwrap();
        let blobs = BlobStore::open(&dir.path().join("registry"), Space::keep_free(config.min_free_bytes)).unwrap();
        let manifests = ManifestStore::new(db.clone(), config.grace());
        let state = RegistryState::new(&config, blobs.clone(), manifests, Arc::new(verify), base).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = router(state.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { peer: Peer { addr }, state, blobs, db, server, dir }
    }

    /// Another one on the same directory, without any farewell of this one.
    async fn killed_and_started_again(self) -> Self {
        self.server.abort();
        Self::on(self.dir, RegistryConfig { min_free_bytes: 0, ..RegistryConfig::default() }, None).await
    }
}

impl Peer {
    /// A request with exactly these headers, and `Host` unless it is among them.
    async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.try_raw(method, path, headers, body.into()).await.unwrap()
    }

    /// The same with a registry that may go away.
    async fn try_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.addr).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", self.addr.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, body) = sender.send_request(request.body(Full::new(body))?).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// A request with the key.
    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let bearer = format!("Bearer {KEY}");
        let headers = [&[("authorization", bearer.as_str())], headers].concat();
        self.raw(method, path, &headers, body).await
    }

    /// A read with the key.
    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    /// Opens an upload; its path.
    async fn open_upload(&self, repo: &str) -> String {
        let answer = self.call("POST", &format!("/v2/{repo}/blobs/uploads/"), &[], "").await;
        assert_eq!(answer.status, 202);
        answer.header("location").to_owned()
    }

    /// Pushes a blob in one request.
    async fn push_blob(&self, repo: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        let answer = self.call("POST", &path, &[], bytes.to_vec()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    /// Pushes an image of one layer; its manifest.
    async fn push_image(&self, repo: &str, tag: &str, content: &str) -> Vec<u8> {
        let (config, layer) = (self.push_blob(repo, b"{}").await, self.push_blob(repo, content.as_bytes()).await);
        let manifest = image(&config, &layer, content.len());
        let answer = self.put_manifest(repo, tag, &manifest).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        manifest
    }

    async fn put_manifest(&self, repo: &str, reference: &str, manifest: &[u8]) -> Answer {
        let path = format!("/v2/{repo}/manifests/{reference}");
        self.call("PUT", &path, &[("content-type", OCI_MANIFEST)], manifest.to_vec()).await
    }
}

/// A manifest with one layer.
fn image(config: &Digest, layer: &Digest, size: usize) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}],
    });
    manifest.to_string().into_bytes()
}
