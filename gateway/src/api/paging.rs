//! Pages of a list: `?limit=` and `?before=ID`, newest first, and a `Link` to the next page while there is one.

use super::query::Query;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use hoistway_model::Result;
use http::{HeaderValue, Uri, header};
use serde::Serialize;

/// How many entries a page has when nobody says, and at most.
const DEFAULT: u32 = 100;
const MOST: u32 = 1_000;

/// What the client asked for: the whole of it, while a nested route sees the rest of the path only.
#[derive(Debug, Clone)]
pub struct OriginalUri(pub Uri);

/// A page that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    limit: u32,
}

impl Page {
    /// Reads `limit`.
    pub fn parse(query: &Query) -> Result<Self> {
        Ok(Self { limit: query.number("limit", 1..=MOST)?.unwrap_or(DEFAULT) })
    }

    /// How many to look up: one more than the page has, which tells whether there is another page.
    pub fn look_up(self) -> u32 {
        self.limit + 1
    }

    /// The answer: the page of `found`, and where the next one is.
    pub fn answer<T: Serialize>(self, asked: &OriginalUri, mut found: Vec<T>, id: impl Fn(&T) -> &str) -> Response {
        let more = found.len() > self.limit as usize;
        found.truncate(self.limit as usize);
        let next = found.last().filter(|_| more).and_then(|last| next(asked, id(last)));
        let mut response = Json(found).into_response();
        if let Some(next) = next {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

/// The same request, but for what comes after `last`.
fn next(OriginalUri(uri): &OriginalUri, last: &str) -> Option<HeaderValue> {
    let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(given.filter(|(key, _)| key != "before")).append_pair("before", last);
    HeaderValue::try_from(format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish())).ok()
}
