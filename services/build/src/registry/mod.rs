//! The embedded OCI registry: pull, push, content discovery and content management of the distribution specification
//! 1.1, as skopeo, Docker and containerd speak it.
//!
//! | file | what |
//! | --- | --- |
//! | `route`, `name` | what a path means; repository names, tags, references |
//! | `auth` | whether a request has a key |
//! | `blobs` | blobs on disk, and which of them are in use |
//! | `uploads`, `upload_files`, `upload_api` | taking blobs in |
//! | `blob_api`, `manifest_api` | giving blobs and manifests out, taking manifests in, deleting |
//! | `list_api` | tags, repositories, referrers |
//! | `manifest` | reading a manifest |
//! | `store` | manifests, tags and links in the database, and what is collected of them |
//! | `sweep` | removing blobs that nothing needs |
//! | `response` | what answers of several calls have in common |
//! | `error` | errors as the specification writes them |
//!
//! A blob is on disk once, whoever pushed it, and readable only in the repositories that it was pushed to, mounted
//! into or published in.

mod auth;
mod blob_api;
mod blobs;
mod error;
mod list_api;
mod manifest;
mod manifest_api;
mod name;
mod response;
mod route;
pub mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod upload_api;
mod upload_files;
mod uploads;

use auth::authenticate;
pub use auth::{Holder, VerifyKey};
pub(crate) use blobs::storing;
pub use blobs::{Batch, BlobStore, BlobWriter, Lease, Space, StagedBlob};
pub use manifest::{MANIFEST_TYPES, MAX_MANIFEST_BYTES, Manifest, OCI_INDEX, OCI_MANIFEST};
pub use name::{Reference, RepoName, Tag};
pub use store::{ManifestStore, NewTag, PutOutcome, StoredManifest};
pub use sweep::{Swept, sweep};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use error::{ErrorCode, Refusal};
use hoistway_model::Error;
use http::{HeaderName, HeaderValue, Method, header, request::Parts};
use route::Target;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use store::Base;
use tokio::sync::Semaphore;
use uploads::{Limits, Uploads};

/// The number of blobs that are sent at a time to whoever has the API key, and to services: nobody's downloads keep an
/// agent from starting. Each has a file open.
const MAX_READS: usize = 192;
const MAX_SERVICE_READS: usize = 64;

/// Settings for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// The largest blob, in bytes.
    pub max_blob_bytes: u64,
    /// The number of uploads that are taken in at a time.
    pub max_concurrent_uploads: usize,
    /// The free disk space, in bytes, under which nothing more is taken in or built.
    pub min_free_bytes: u64,
    /// The time for which unreferenced blobs are kept, in seconds; it must be longer than any push or deploy takes.
    pub grace_seconds: u64,
    /// The time for which manifests without a tag are kept that nobody asks for and no agent uses, in days.
    pub untagged_days: u32,
}

impl RegistryConfig {
    /// The time for which unreferenced blobs are kept.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            max_blob_bytes: 8 << 30,
            max_concurrent_uploads: 64,
            min_free_bytes: 1 << 30,
            grace_seconds: 3600,
            untagged_days: 30,
        }
    }
}

/// Everything the registry works on. Clones share it.
#[derive(Clone)]
pub struct RegistryState(Arc<Inner>);

struct Inner {
    verify: VerifyKey,
    blobs: BlobStore,
    manifests: ManifestStore,
    base: Base,
    uploads: Arc<Uploads>,
    reads: Arc<Semaphore>,
    service_reads: Arc<Semaphore>,
}

impl RegistryState {
    /// Puts a registry together; `verify` tells whether a text is an API key or a service token. `base` is the image
    /// that builds begin with, which nobody may delete. Blocks: it looks for the uploads that an earlier process left.
    pub fn new(
        config: &RegistryConfig,
        blobs: BlobStore,
        manifests: ManifestStore,
        verify: VerifyKey,
        base: Base,
    ) -> hoistway_model::Result<Self> {
        let limits = Limits { max_blob_bytes: config.max_blob_bytes, max_concurrent: config.max_concurrent_uploads };
        Ok(Self(Arc::new(Inner {
            verify,
            uploads: Arc::new(Uploads::open(blobs.clone(), limits)?),
            blobs,
            manifests,
            base,
            reads: Arc::new(Semaphore::new(MAX_READS)),
            service_reads: Arc::new(Semaphore::new(MAX_SERVICE_READS)),
        })))
    }

    /// Removes uploads, and files that a request left half written, that nobody wrote to for this long; how many.
    pub async fn purge_uploads(&self, older_than: Duration) -> hoistway_model::Result<usize> {
        let forgotten = self.0.uploads.purge(older_than).await?;
        let blobs = self.0.blobs.clone();
        let purge = tokio::task::spawn_blocking(move || blobs.purge_staging(older_than));
        let removed = purge.await.map_err(|e| Error::internal("removing unfinished uploads", e))??;
        Ok(forgotten + removed)
    }
}

/// The registry's HTTP interface.
pub fn router(state: RegistryState) -> Router {
    Router::new()
        .route("/v2", any(ping))
        .route("/v2/", any(ping))
        .route("/v2/{*path}", any(serve))
        .fallback(nothing_here)
        .layer(axum::middleware::map_response(common_headers))
        .with_state(state)
}

async fn common_headers(mut response: Response) -> Response {
    const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
    let headers = response.headers_mut();
    headers.insert(VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn nothing_here() -> Refusal {
    Refusal::new(ErrorCode::Unsupported, "there is nothing at this path").status(404)
}

async fn ping(State(state): State<RegistryState>, request: Request) -> Result<Response, Refusal> {
    let (mut parts, _) = request.into_parts();
    authenticate(&state.0.verify, &mut parts)?;
    if !is_read(&parts.method) {
        return Err(not_allowed("GET, HEAD"));
    }
    Ok(axum::Json(serde_json::json!({})).into_response())
}

/// The parameters of every call; each uses the few that it knows.
#[derive(Debug, Default, Deserialize)]
struct Params {
    digest: Option<String>,
    mount: Option<String>,
    from: Option<String>,
    n: Option<String>,
    last: Option<String>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
}

async fn serve(
    State(state): State<RegistryState>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    authenticate(&state.0.verify, &mut parts)?;
    let Ok(Path(path)) = path else { return Err(Refusal::new(ErrorCode::NameInvalid, "the path is not text")) };
    let target = Target::parse(&path)?;
    if !target.methods().split(", ").any(|allowed| allowed == parts.method.as_str()) {
        return Err(not_allowed(target.methods()));
    }
    let Query(params) = Query::<Params>::try_from_uri(&parts.uri)
        .map_err(|e| Refusal::new(ErrorCode::Unsupported, e.body_text()).status(400))?;
    state.0.answer(target, params, parts, body).await
}

impl Inner {
    async fn answer(&self, target: Target, params: Params, parts: Parts, body: Body) -> Result<Response, Refusal> {
        match (target, &parts.method) {
            (Target::Catalog, _) => self.list_repos(&params).await,
            (Target::Tags(repo), _) => self.list_tags(&repo, &params).await,
            (Target::Referrers(repo, subject), _) => self.list_referrers(&repo, &subject, &params).await,
            (Target::Manifest(repo, reference), &Method::PUT) => {
                self.put_manifest(&repo, &reference, &parts, body).await
            }
            (Target::Manifest(repo, reference), &Method::DELETE) => self.delete_manifest(&repo, &reference).await,
            (Target::Manifest(repo, reference), _) => self.get_manifest(&repo, &reference, &parts).await,
            (Target::Blob(repo, digest), &Method::DELETE) => self.delete_blob(&repo, &digest).await,
            (Target::Blob(repo, digest), _) => self.get_blob(&repo, &digest, &parts).await,
            (Target::Uploads(repo), _) => self.begin_upload(repo, &params, &parts, body).await,
            (Target::Upload(repo, id), &Method::PATCH) => self.append_upload(repo, &id, &parts, body).await,
            (Target::Upload(repo, id), &Method::PUT) => self.finish_upload(repo, &id, &params, &parts, body).await,
            (Target::Upload(repo, id), &Method::DELETE) => self.cancel_upload(&repo, &id).await,
            (Target::Upload(repo, id), _) => self.upload_status(&repo, &id),
        }
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn not_allowed(methods: &'static str) -> Refusal {
    Refusal::new(ErrorCode::Unsupported, "the method is not supported here")
        .header(header::ALLOW, HeaderValue::from_static(methods))
}

/// Runs file work where blocking is allowed.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Refusal>
where
    T: Send + 'static,
    E: Into<Refusal> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(e) => Err(hoistway_model::Error::internal("working on a file", e).into()),
    }
}

/// Runs work that a client's going away must not cut in the middle.
async fn uninterrupted<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(e) => Err(hoistway_model::Error::internal("serving a registry request", e).into()),
    }
}
