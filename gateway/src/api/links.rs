//! Addresses of the API in answers: a request under `/api/v1` gets addresses under `/api/v1`.

use super::pagination::OriginalUri;
use axum::extract::FromRequestParts;
use hoistway_model::{Error, Result};
use http::{HeaderValue, request::Parts};
use std::{convert::Infallible, fmt};

/// The prefix under which a request came, `/api` or `/api/v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiBase(&'static str);

impl ApiBase {
    fn of(path: &str) -> Self {
        Self(if path.starts_with("/api/v1/") { "/api/v1" } else { "/api" })
    }

    /// The address of `path`, which begins with a slash, as a header's value.
    pub fn address(self, path: impl fmt::Display) -> Result<HeaderValue> {
        Self::header(format!("{}{path}", self.0))
    }

    /// The value of a header `Link` that leads to the next page.
    pub fn next_page(self, path: impl fmt::Display) -> Result<HeaderValue> {
        Self::header(format!("<{}{path}>; rel=\"next\"", self.0))
    }

    fn header(text: String) -> Result<HeaderValue> {
        HeaderValue::try_from(text).map_err(|e| Error::internal("writing an address", e))
    }
}

impl<S: Sync> FromRequestParts<S> for ApiBase {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts.extensions.get::<OriginalUri>().map_or("", |OriginalUri(uri)| uri.path())))
    }
}
