//! Manifests over HTTP.

use super::{
    Inner, blocking,
    error::{ErrorCode, Refusal},
    manifest::{MAX_MANIFEST_BYTES, Manifest},
    name::{Reference, RepoName},
    response::{CONTENT_DIGEST, deleted, header_value, is_known, not_modified},
    route::parse_digest,
    store::{Deletion, NewTag, PutOutcome, StoredManifest, delete_manifest, delete_tag, repo_exists},
    uninterrupted,
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use hoistway_model::Digest;
use http::{HeaderName, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// The time that a client has to send a manifest.
const BODY_TIME: Duration = Duration::from_secs(60);

/// Says that the registry has taken note of a manifest's subject, so that clients need not keep a list themselves.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

impl Inner {
    /// `GET` and `HEAD` of a manifest.
    pub(super) async fn get_manifest(
        &self,
        repo: &RepoName,
        reference: &str,
        request: &Parts,
    ) -> Result<Response, Refusal> {
        let manifest = self.find_manifest(repo, reference).await?;
        let etag = header_value(format!("\"{}\"", manifest.digest));
        if is_known(&request.headers, &etag) {
            return Ok(not_modified(etag));
        }
        let headers = [
            (header::CONTENT_TYPE, header_value(manifest.media_type)),
            (header::CONTENT_LENGTH, header_value(manifest.bytes.len())),
            (header::ETAG, etag),
            (CONTENT_DIGEST, header_value(manifest.digest)),
        ];
        Ok((headers, manifest.bytes).into_response())
    }

    async fn find_manifest(&self, repo: &RepoName, reference: &str) -> Result<StoredManifest, Refusal> {
        // A text that cannot be a tag is a tag that nobody has pushed; a digest that is none is an error in itself.
        let found = match reference.contains(':') {
            true => self.manifests.get_manifest(repo, &Reference::Digest(parse_digest(reference)?)).await?,
            false => match reference.parse::<Reference>() {
                Ok(tag) => self.manifests.get_manifest(repo, &tag).await?,
                Err(_) => None,
            },
        };
        match found {
            Some(found) => Ok(found),
            None => Err(self.unknown_manifest(repo, reference).await?),
        }
    }

    /// Says whether the repository or only the manifest is not there.
    async fn unknown_manifest(&self, repo: &RepoName, reference: &str) -> Result<Refusal, Refusal> {
        let (code, message) = match repo_exists(self.manifests.db().read(), repo).await? {
            true => (ErrorCode::ManifestUnknown, "the repository does not have this manifest"),
            false => (ErrorCode::NameUnknown, "there is no such repository"),
        };
        Ok(Refusal::new(code, message).detail(json!({ "name": repo.as_str(), "reference": reference })))
    }

    /// `DELETE` of a tag, which leaves the manifest, or of a manifest with all its tags.
    pub(super) async fn delete_manifest(&self, repo: &RepoName, reference: &str) -> Result<Response, Refusal> {
        let unknown = self.unknown_manifest(repo, reference).await?;
        let digest = reference.contains(':').then(|| parse_digest(reference)).transpose()?;
        let txn = self.manifests.db().begin().await?;
        let deletion = match digest {
            Some(digest) => delete_manifest(&txn, repo, &digest, &self.base).await?,
            None => match reference.parse() {
                Ok(tag) => delete_tag(&txn, repo, &tag, &self.base).await?,
                Err(_) => Deletion::Unknown,
            },
        };
        deleted(txn, deletion, unknown, "GET, HEAD, PUT").await
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
        let reference = match reference.contains(':') {
            true => Reference::Digest(parse_digest(reference)?),
            false => reference.parse().map_err(invalid)?,
        };
        self.uploads.check_space().await?;
        let _slot = self.uploads.slot()?;
        let bytes = read_body(body).await?;
        let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let manifest = Manifest::parse(content_type, bytes).map_err(invalid)?;
        let (digest, subject) = (manifest.digest(), manifest.subject().copied());
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
        self.check_files(&manifest).await?;
        let stored = {
            let (store, repo, tag) = (self.manifests.clone(), repo.clone(), tag.clone());
            uninterrupted(async move { Ok(store.put_manifest(&repo, &manifest, tag.as_ref()).await?) }).await?
        };
        match (stored, tag) {
            (PutOutcome::Stored, _) => {}
            (PutOutcome::Missing(digests), _) => return Err(missing(&digests)),
            (PutOutcome::WrongSizes(digests), _) => return Err(wrong_sizes(&digests)),
            (PutOutcome::TagTaken, tag) => {
                let tag = tag.map(|t| t.tag.to_string()).unwrap_or_default();
                let message = format!("tag \"{tag}\" of \"{repo}\" names an agent's image and is never moved");
                return Err(Refusal::new(ErrorCode::Denied, message));
            }
        }
        let location = header_value(format!("/v2/{repo}/manifests/{digest}"));
        let headers = [(header::LOCATION, location), (CONTENT_DIGEST, header_value(digest))];
        let mut response = (StatusCode::CREATED, headers).into_response();
        if let Some(subject) = subject {
            response.headers_mut().insert(SUBJECT, header_value(subject));
        }
        Ok(response)
    }
}

impl Inner {
    /// Refuses a manifest whose blobs have no file, as it may be in a data directory that was put back from copies of
    /// different moments: the client then pushes them again. One whose blobs have other sizes than it says would be
    /// refused by whoever pulls it.
    async fn check_files(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let blobs = self.blobs.clone();
        let needed: Vec<_> = manifest.blobs().iter().map(|digest| (*digest, manifest.size_of(digest))).collect();
        let (gone, wrong) = blocking(move || {
            let (mut gone, mut wrong) = (Vec::new(), Vec::new());
            for (digest, said) in needed {
                match blobs.size(&digest)? {
                    None => gone.push(digest),
                    Some(size) if Some(size) != said => wrong.push(digest),
                    Some(_) => {}
                }
            }
            Ok::<_, Refusal>((gone, wrong))
        })
        .await?;
        match (gone.is_empty(), wrong.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => Err(missing(&gone)),
            (true, false) => Err(wrong_sizes(&wrong)),
        }
    }
}

fn wrong_sizes(digests: &[Digest]) -> Refusal {
    Refusal::new(ErrorCode::ManifestInvalid, "what the manifest refers to has another size than the manifest says")
        .detail(json!({ "digests": digests }))
}

fn missing(digests: &[Digest]) -> Refusal {
    Refusal::new(ErrorCode::ManifestBlobUnknown, "what the manifest refers to is not in the repository")
        .detail(json!({ "digests": digests }))
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
