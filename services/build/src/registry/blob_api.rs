//! Giving blobs out, straight from their files.

use super::{
    Holder, Inner, blocking,
    error::{ErrorCode, Refusal},
    name::RepoName,
    response::{CONTENT_DIGEST, deleted, header_value, is_known, not_modified},
    route::parse_digest,
    store::delete_blob,
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use serde_json::json;
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Large enough that a blob costs few reads, small enough for many readers at a time.
const READ_SIZE: usize = 128 << 10;

impl Inner {
    /// `DELETE` of a blob: the repository has it no more.
    pub(super) async fn delete_blob(&self, repo: &RepoName, digest: &str) -> Result<Response, Refusal> {
        let digest = parse_digest(digest)?;
        let txn = self.manifests.db().begin().await?;
        let deletion = delete_blob(&txn, repo, &digest).await?;
        let unknown = Refusal::new(ErrorCode::BlobUnknown, "the repository does not have this blob")
            .detail(json!({ "name": repo.as_str(), "digest": digest }));
        deleted(txn, deletion, unknown, "GET, HEAD").await
    }

    /// `GET` and `HEAD` of a blob.
    pub(super) async fn get_blob(&self, repo: &RepoName, digest: &str, request: &Parts) -> Result<Response, Refusal> {
        let digest = parse_digest(digest)?;
        let unknown = || {
            Refusal::new(ErrorCode::BlobUnknown, "the repository does not have this blob")
                .detail(json!({ "name": repo.as_str(), "digest": digest }))
        };
        if !self.manifests.has_blob(repo, &digest).await? {
            return Err(unknown());
        }
        let of_service = request.extensions.get() == Some(&Holder::Service);
        let reads = if of_service { &self.service_reads } else { &self.reads };
        let slot = reads.clone().try_acquire_owned().map_err(|_| Refusal::busy("too many downloads at a time"))?;
        let blobs = self.blobs.clone();
        let (file, size) = blocking(move || blobs.read(&digest)).await?.ok_or_else(unknown)?;

        let etag = header_value(format!("\"{digest}\""));
        if is_known(&request.headers, &etag) {
            return Ok(not_modified(etag));
        }
        let span = match requested_range(&request.headers, &etag, size) {
            Range::Whole => None,
            Range::Part { first, last } => Some((first, last)),
            Range::Nothing => {
                return Err(Refusal::new(ErrorCode::SizeInvalid, "the range is outside the blob")
                    .status(416)
                    .header(header::CONTENT_RANGE, header_value(format!("bytes */{size}"))));
            }
        };
        let (first, len) = span.map_or((0, size), |(first, last)| (first, last - first + 1));
        let body = if request.method == Method::HEAD {
            Body::empty()
        } else {
            let mut file = tokio::fs::File::from_std(file);
            if first > 0 {
                let seek = file.seek(SeekFrom::Start(first)).await;
                seek.map_err(|e| hoistway_model::Error::internal("reading a blob", e))?;
            }
            let stream = ReaderStream::with_capacity(file.take(len), READ_SIZE);
            // The slot is given back when the last byte is sent or the client is gone.
            Body::from_stream(stream.map(move |piece| {
                let _held = &slot;
                piece
            }))
        };
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, header_value(len));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::ETAG, etag);
        headers.insert(CONTENT_DIGEST, header_value(digest));
        if let Some((first, last)) = span {
            headers.insert(header::CONTENT_RANGE, header_value(format!("bytes {first}-{last}/{size}")));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { first: u64, last: u64 },
    Nothing,
}

/// One range of bytes, as a client asks for that resumes a download. Everything else that a `Range` may say is
/// answered with the whole blob, as HTTP allows.
fn requested_range(headers: &HeaderMap, etag: &HeaderValue, size: u64) -> Range {
    if headers.get(header::IF_RANGE).is_some_and(|wanted| wanted != etag) {
        return Range::Whole;
    }
    let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = text.and_then(|t| t.strip_prefix("bytes=")).and_then(|t| t.split_once('-')) else {
        return Range::Whole;
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let end = size.saturating_sub(1);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Range::Whole,
        (Some(first), _) if first >= size && (last.is_empty() || number(last).is_some()) => Range::Nothing,
        (Some(first), Some(last)) => Range::Part { first, last: last.min(end) },
        (Some(first), None) if last.is_empty() => Range::Part { first, last: end },
        (None, Some(count)) if first.is_empty() && (count == 0 || size == 0) => Range::Nothing,
        (None, Some(count)) if first.is_empty() => Range::Part { first: size.saturating_sub(count), last: end },
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_single_byte_range_is_parsed() {
        let etag = HeaderValue::from_static("\"e\"");
        let range = |text: &str, size| {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())]);
            requested_range(&headers, &etag, size)
        };
        for (text, expected) in [
            ("bytes=0-0", Range::Part { first: 0, last: 0 }),
            ("bytes=2-", Range::Part { first: 2, last: 9 }),
            ("bytes=2-99", Range::Part { first: 2, last: 9 }),
            ("bytes=-3", Range::Part { first: 7, last: 9 }),
            ("bytes=-99", Range::Part { first: 0, last: 9 }),
            ("bytes=10-", Range::Nothing),
            ("bytes=10-12", Range::Nothing),
            ("bytes=-0", Range::Nothing),
            ("bytes=3-2", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=-", Range::Whole),
            ("bytes=a-b", Range::Whole),
            ("bytes=+1-2", Range::Whole),
            ("lines=1-2", Range::Whole),
        ] {
            assert_eq!(range(text, 10), expected, "{text}");
        }
        assert_eq!(range("bytes=0-", 0), Range::Nothing);
        let stale = HeaderMap::from_iter([
            (header::RANGE, HeaderValue::from_static("bytes=1-2")),
            (header::IF_RANGE, HeaderValue::from_static("\"other\"")),
        ]);
        assert_eq!(requested_range(&stale, &etag, 10), Range::Whole);
    }
}
