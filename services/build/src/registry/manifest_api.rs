//! Manifests and tags over HTTP.

use super::{
    CONTENT_DIGEST, Inner, Params,
    error::{ErrorCode, Refusal},
    header_value,
    manifest::{MAX_MANIFEST_BYTES, Manifest},
    name::{Reference, RepoName},
    store::{NewTag, PutOutcome},
    uninterrupted,
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// A page of tags when the client does not say how many it wants.
const TAGS_PER_PAGE: u64 = 10_000;
/// The time that a client has to send a manifest.
const BODY_TIME: Duration = Duration::from_secs(60);

impl Inner {
    /// `GET` and `HEAD` of a manifest.
    pub(super) async fn get_manifest(&self, repo: &RepoName, reference: &str) -> Result<Response, Refusal> {
        // What cannot be a tag is a tag that nobody has pushed; a digest that is none is an error in itself.
        let found = match reference.parse::<Reference>() {
            Ok(reference) => self.manifests.get_manifest(repo, &reference).await?,
            Err(e) if reference.contains(':') => return Err(Refusal::new(ErrorCode::DigestInvalid, e.message)),
            Err(_) => None,
        };
        let Some(manifest) = found else {
            let code = match self.manifests.repo_exists(repo).await? {
                true => ErrorCode::ManifestUnknown,
                false => ErrorCode::NameUnknown,
            };
            let message = match code {
                ErrorCode::NameUnknown => "there is no such repository",
                _ => "the repository does not have this manifest",
            };
            return Err(Refusal::new(code, message).detail(json!({ "name": repo.as_str(), "reference": reference })));
        };
        let etag = header_value(format!("\"{}\"", manifest.digest));
        let headers = [
            (header::CONTENT_TYPE, header_value(manifest.media_type)),
            (header::CONTENT_LENGTH, header_value(manifest.bytes.len())),
            (header::ETAG, etag),
            (CONTENT_DIGEST, header_value(manifest.digest)),
        ];
        Ok((headers, manifest.bytes).into_response())
    }

    /// `PUT` of a manifest.
    pub(super) async fn put_manifest(
        &self,
        repo: &RepoName,
        reference: &str,
        request: &Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        let invalid = |e: hoistway_model::Error| Refusal::new(ErrorCode::ManifestInvalid, e.message);
        let reference: Reference =
            reference.parse().map_err(|e: hoistway_model::Error| match reference.contains(':') {
                true => Refusal::new(ErrorCode::DigestInvalid, e.message),
                false => Refusal::new(ErrorCode::ManifestInvalid, e.message),
            })?;
        self.uploads.check_disk().await?;
        let _slot = self.uploads.slot()?;
        let bytes = read_body(body).await?;
        let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let manifest = Manifest::parse(content_type, bytes).map_err(invalid)?;
        let digest = manifest.digest();
        let tag = match reference {
            Reference::Tag(tag) => Some(NewTag { tag, immutable: false }),
            Reference::Digest(expected) if expected != digest => {
                return Err(Refusal::new(
                    ErrorCode::DigestInvalid,
                    format!("the manifest is {digest}, not {expected}"),
                )
                .detail(json!({ "digest": expected })));
            }
            Reference::Digest(_) => None,
        };
        let stored = {
            let (store, repo, tag) = (self.manifests.clone(), repo.clone(), tag.clone());
            uninterrupted(async move { Ok(store.put_manifest(&repo, &manifest, tag.as_ref()).await?) }).await?
        };
        match (stored, tag) {
            (PutOutcome::Stored, _) => {}
            (PutOutcome::Missing(digests), _) => {
                return Err(Refusal::new(
                    ErrorCode::ManifestBlobUnknown,
                    "what the manifest refers to is not in the repository",
                )
                .detail(json!({ "digests": digests })));
            }
            (PutOutcome::TagTaken, tag) => {
                let tag = tag.map(|t| t.tag.to_string()).unwrap_or_default();
                let message = format!("tag \"{tag}\" of \"{repo}\" names an agent's image and is never moved");
                return Err(Refusal::new(ErrorCode::Denied, message));
            }
        }
        let location = header_value(format!("/v2/{repo}/manifests/{digest}"));
        Ok((StatusCode::CREATED, [(header::LOCATION, location), (CONTENT_DIGEST, header_value(digest))])
            .into_response())
    }

    /// `GET` of a repository's tags.
    pub(super) async fn list_tags(&self, repo: &RepoName, params: &Params) -> Result<Response, Refusal> {
        let wrong = |_| Refusal::new(ErrorCode::Unsupported, "n is not a number").status(400);
        let asked: u64 = params.n.as_deref().map(str::parse).transpose().map_err(wrong)?.unwrap_or(TAGS_PER_PAGE);
        let limit = asked.min(TAGS_PER_PAGE);
        // One more than is shown tells whether there are more.
        let mut tags = self.manifests.list_tags(repo, limit + 1, params.last.as_deref()).await?;
        if tags.is_empty() && !self.manifests.repo_exists(repo).await? {
            return Err(Refusal::new(ErrorCode::NameUnknown, "there is no such repository")
                .detail(json!({ "name": repo.as_str() })));
        }
        let more = tags.len() as u64 > limit;
        tags.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut response = axum::Json(json!({ "name": repo.as_str(), "tags": tags })).into_response();
        if let (true, Some(last)) = (more, tags.last()) {
            // Tags need no escaping in a URL.
            let next = format!("</v2/{repo}/tags/list?n={limit}&last={last}>; rel=\"next\"");
            response.headers_mut().insert(header::LINK, header_value(next));
        }
        Ok(response)
    }
}

async fn read_body(body: Body) -> Result<bytes::Bytes, Refusal> {
    match timeout(BODY_TIME, Limited::new(body, MAX_MANIFEST_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            let message = format!("a manifest may have {MAX_MANIFEST_BYTES} bytes");
            Err(Refusal::new(ErrorCode::SizeInvalid, message).status(413))
        }
        Ok(Err(_)) => Err(Refusal::new(ErrorCode::ManifestInvalid, "the request ended before its body was complete")),
        Err(_) => Err(Refusal::new(ErrorCode::ManifestInvalid, "the client was too slow").status(408)),
    }
}
