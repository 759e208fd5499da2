//! Taking blobs in: in one request, in two, or piece by piece, and mounting what another repository has.

use super::{
    Inner, Params,
    blobs::BlobStore,
    blocking,
    error::{ErrorCode, Refusal},
    name::RepoName,
    response::{CONTENT_DIGEST, header_value},
    route::parse_digest,
    store::ManifestStore,
    uninterrupted,
    uploads::{Held, Upload},
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use hoistway_model::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Inner {
    /// `POST`: mounts a blob of another repository, takes a whole one in, or opens an upload.
    pub(super) async fn begin_upload(
        &self,
        repo: RepoName,
        params: &Params,
        request: &Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        if let Some(text) = &params.mount {
            let digest = parse_digest(text)?;
            if self.mount(&repo, &digest, params.from.as_deref()).await? {
                return Ok(created(&repo, &digest));
            }
        }
        if let Some(digest) = &params.digest {
            let digest = parse_digest(digest)?;
            self.check_length(&request.headers)?;
            let slot = self.uploads.slot()?;
            let (uploads, finisher) = (self.uploads.clone(), self.finisher());
            return uninterrupted(async move {
                let _slot = slot;
                let mut upload = uploads.create().await?;
                uploads.fill(&mut upload, body).await?;
                finisher.finish(repo, upload, digest).await
            })
            .await;
        }
        let id = self.uploads.open_session(&repo).await?;
        Ok(progress(StatusCode::ACCEPTED, &repo, &id.to_string(), 0))
    }

    /// `PATCH`: appends a piece.
    pub(super) async fn append_upload(
        &self,
        repo: RepoName,
        id: &str,
        request: &Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        let slot = self.uploads.slot()?;
        let held = self.hold(&repo, id, &request.headers)?;
        let (uploads, id) = (self.uploads.clone(), id.to_owned());
        uninterrupted(async move {
            let _slot = slot;
            let held = uploads.append(held, body).await?;
            let len = held.len();
            held.put_back();
            Ok(progress(StatusCode::ACCEPTED, &repo, &id, len))
        })
        .await
    }

    /// `PUT`: appends what is left and ends the upload as a blob.
    pub(super) async fn finish_upload(
        &self,
        repo: RepoName,
        id: &str,
        params: &Params,
        request: &Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        let digest = params.digest.as_deref();
        let digest = parse_digest(digest.ok_or_else(|| Refusal::new(ErrorCode::DigestInvalid, "digest is missing"))?)?;
        let slot = self.uploads.slot()?;
        let held = self.hold(&repo, id, &request.headers)?;
        let (uploads, finisher) = (self.uploads.clone(), self.finisher());
        uninterrupted(async move {
            let _slot = slot;
            let held = uploads.append(held, body).await?;
            let upload = held.into_upload().ok_or_else(|| Refusal::busy("the upload is being ended"))?;
            finisher.finish(repo, upload, digest).await
        })
        .await
    }

    /// `GET`: how far an upload got.
    pub(super) fn upload_status(&self, repo: &RepoName, id: &str) -> Result<Response, Refusal> {
        let held = self.uploads.hold(repo, id)?;
        let response = progress(StatusCode::NO_CONTENT, repo, id, held.len());
        held.put_back();
        Ok(response)
    }

    /// `DELETE`: gives an upload up.
    pub(super) async fn cancel_upload(&self, repo: &RepoName, id: &str) -> Result<Response, Refusal> {
        self.uploads.hold(repo, id)?.end().await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// The upload for one request, if the piece it brings is the next one.
    fn hold(&self, repo: &RepoName, id: &str, headers: &HeaderMap) -> Result<Held, Refusal> {
        self.check_length(headers)?;
        let held = self.uploads.hold(repo, id)?;
        let checked = check_piece(headers, held.len());
        match checked {
            Ok(()) => Ok(held),
            Err(refusal) => {
                let (at, location) = (range(held.len()), location(repo, id));
                held.put_back();
                Err(refusal.header(header::RANGE, at).header(header::LOCATION, location))
            }
        }
    }

    /// Refuses a body that says itself that it is too large, before any of it is read.
    fn check_length(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match content_length(headers) {
            Some(len) => self.uploads.check_size(len),
            None => Ok(()),
        }
    }

    /// Mounts a blob that the repository `from` has, or any if none is named; whether there was one.
    async fn mount(&self, repo: &RepoName, digest: &Digest, from: Option<&str>) -> Result<bool, Refusal> {
        match from.map(str::parse::<RepoName>).transpose() {
            Ok(from) => {
                let (blobs, digest) = (self.blobs.clone(), *digest);
                let there = blocking(move || Ok::<_, Refusal>(blobs.contains(&digest))).await?;
                Ok(there && self.manifests.mount_blob(repo, &digest, from.as_ref()).await?)
            }
            // There is no such repository, so it has no such blob.
            Err(_) => Ok(false),
        }
    }

    fn finisher(&self) -> UploadFinisher {
        UploadFinisher { blobs: self.blobs.clone(), manifests: self.manifests.clone() }
    }
}

/// Turns an upload into a blob of a repository, on its own.
struct UploadFinisher {
    blobs: BlobStore,
    manifests: ManifestStore,
}

impl UploadFinisher {
    async fn finish(self, repo: RepoName, upload: Upload, digest: Digest) -> Result<Response, Refusal> {
        let blobs = self.blobs;
        // Until the repository has it.
        let _lease = blobs.lease();
        blocking(move || {
            let mut batch = blobs.batch();
            batch.add(upload.finish(&digest)?);
            batch.commit().map_err(Refusal::from)
        })
        .await?;
        self.manifests.link_blob(&repo, &digest).await?;
        Ok(created(&repo, &digest))
    }
}

/// Compares a piece's `Content-Range` (`FIRST-LAST`, as the specification writes it, or as HTTP does) with what the
/// upload has. A piece that does not say goes to the end.
fn check_piece(headers: &HeaderMap, len: u64) -> Result<(), Refusal> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(()) };
    let wrong = |message| Refusal::new(ErrorCode::BlobUploadInvalid, message).status(416);
    let text = value.to_str().unwrap_or_default();
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split('/').next().unwrap_or_default();
    let bounds = text.split_once('-').and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
    let Some((first, last)) = bounds.filter(|(first, last)| first <= last) else {
        return Err(Refusal::new(ErrorCode::BlobUploadInvalid, "Content-Range is not FIRST-LAST"));
    };
    if first != len {
        return Err(wrong("the piece does not begin where the upload ends"));
    }
    if content_length(headers).is_some_and(|size| size != last - first + 1) {
        return Err(Refusal::new(ErrorCode::SizeInvalid, "Content-Range and Content-Length disagree"));
    }
    Ok(())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The answer of a request after which the upload goes on.
fn progress(status: StatusCode, repo: &RepoName, id: &str, len: u64) -> Response {
    let headers = [(header::LOCATION, location(repo, id)), (header::RANGE, range(len)), (UPLOAD_ID, header_value(id))];
    (status, headers).into_response()
}

fn location(repo: &RepoName, id: &str) -> HeaderValue {
    header_value(format!("/v2/{repo}/blobs/uploads/{id}"))
}

/// The range that was received, as `0-LAST`. An empty upload is `0-0` too: the form has no other way to say it, and
/// clients know.
fn range(len: u64) -> HeaderValue {
    header_value(format!("0-{}", len.saturating_sub(1)))
}

fn created(repo: &RepoName, digest: &Digest) -> Response {
    let location = header_value(format!("/v2/{repo}/blobs/{digest}"));
    (StatusCode::CREATED, [(header::LOCATION, location), (CONTENT_DIGEST, header_value(digest))]).into_response()
}
