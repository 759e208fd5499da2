//! Lists over HTTP: tags, repositories, and what refers to a manifest, page by page.

use super::{
    Inner, OCI_INDEX, Params,
    error::{ErrorCode, Refusal},
    name::RepoName,
    response::header_value,
    route::parse_digest,
    store::{Referrer, list_referrers, list_repos, list_tags, repo_exists},
};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};

/// A page when the client does not say how many entries it wants, and the most that it gets.
const PER_PAGE: u64 = 10_000;
/// Referrers of one page at most.
const REFERRERS_PER_PAGE: usize = 500;
/// Referrers that are read at a time; each may be as large as a manifest.
const REFERRERS_AT_ONCE: u64 = 8;
/// A page of referrers ends behind the one that makes it as large as this.
const REFERRERS_BYTES: usize = 2 << 20;
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Inner {
    /// `GET` of a repository's tags.
    pub(super) async fn list_tags(&self, repo: &RepoName, params: &Params) -> Result<Response, Refusal> {
        let limit = page_size(params)?;
        let read = self.manifests.db().read();
        // One more than is shown tells whether there are more.
        let tags = list_tags(read, repo, limit + 1, params.last.as_deref()).await?;
        if tags.is_empty() && !repo_exists(read, repo).await? {
            return Err(Refusal::new(ErrorCode::NameUnknown, "there is no such repository")
                .detail(json!({ "name": repo.as_str() })));
        }
        let (tags, next) = page(tags, limit, &format!("/v2/{repo}/tags/list"));
        Ok((next, axum::Json(json!({ "name": repo.as_str(), "tags": tags }))).into_response())
    }

    /// `GET` of all repositories.
    pub(super) async fn list_repos(&self, params: &Params) -> Result<Response, Refusal> {
        let limit = page_size(params)?;
        let repos = list_repos(self.manifests.db().read(), limit + 1, params.last.as_deref()).await?;
        let (repos, next) = page(repos, limit, "/v2/_catalog");
        Ok((next, axum::Json(json!({ "repositories": repos }))).into_response())
    }

    /// `GET` of the manifests whose subject a manifest is. It need not be there, and neither need the repository.
    pub(super) async fn list_referrers(
        &self,
        repo: &RepoName,
        subject: &str,
        params: &Params,
    ) -> Result<Response, Refusal> {
        let subject = parse_digest(subject)?;
        let wanted = params.artifact_type.as_deref().filter(|wanted| !wanted.is_empty());
        let mut last = params.last.clone();
        let (mut entries, mut bytes, mut more) = (Vec::new(), 0, true);
        while more && entries.len() < REFERRERS_PER_PAGE && bytes < REFERRERS_BYTES {
            let read = self.manifests.db().read();
            let found = list_referrers(read, repo, &subject, wanted, last.as_deref(), REFERRERS_AT_ONCE).await?;
            more = found.len() as u64 == REFERRERS_AT_ONCE;
            for referrer in found {
                last = Some(referrer.digest.to_string());
                let entry = descriptor(referrer);
                bytes += entry.to_string().len();
                entries.push(entry);
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        let mut response = (([(header::CONTENT_TYPE, OCI_INDEX)]), index.to_string()).into_response();
        let headers = response.headers_mut();
        if wanted.is_some() {
            headers.insert(FILTERS, HeaderValue::from_static("artifactType"));
        }
        if let (true, Some(last)) = (more, last) {
            let filter = wanted.map(|w| format!("&artifactType={}", escaped(w))).unwrap_or_default();
            let next = format!("</v2/{repo}/referrers/{subject}?last={last}{filter}>; rel=\"next\"");
            headers.insert(header::LINK, header_value(next));
        }
        Ok(response)
    }
}

/// A manifest as an index lists it, with what it says about itself.
fn descriptor(referrer: Referrer) -> Value {
    let Referrer { digest, media_type, artifact_type, bytes } = referrer;
    let mut entry = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    if let Some(kind) = artifact_type {
        entry["artifactType"] = kind.into();
    }
    let annotations =
        serde_json::from_slice::<Value>(&bytes).ok().and_then(|mut m| m.get_mut("annotations")?.take().into());
    if let Some(Value::Object(annotations)) = annotations {
        entry["annotations"] = Value::Object(annotations);
    }
    entry
}

fn page_size(params: &Params) -> Result<u64, Refusal> {
    let wrong = |_| Refusal::new(ErrorCode::Unsupported, "n is not a number").status(400);
    Ok(params.n.as_deref().map(str::parse).transpose().map_err(wrong)?.unwrap_or(PER_PAGE).min(PER_PAGE))
}

/// The entries of a page, and the header that leads to the next one if there is more.
fn page(mut entries: Vec<String>, limit: u64, path: &str) -> (Vec<String>, Option<[(HeaderName, HeaderValue); 1]>) {
    let more = entries.len() as u64 > limit;
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = entries.last().filter(|_| more).map(|last| {
        let next = format!("<{path}?n={limit}&last={}>; rel=\"next\"", escaped(last));
        [(header::LINK, header_value(next))]
    });
    (entries, next)
}

/// A value as it is written in a query.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
