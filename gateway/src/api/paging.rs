//! Paging, the same for every list: `?limit=` and `?before=ID`, newest first, and a `Link` to the next page.

use super::query::Query;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use hoistway_model::{Error, Result};
use http::{HeaderValue, Uri, header};
use serde::Serialize;

/// How many entries a page has when nobody says.
const DEFAULT_LIMIT: u32 = 100;
/// How many it has at most.
const MAX_LIMIT: u32 = 1_000;

/// How many entries to show.
pub fn limit(query: &Query) -> Result<u32> {
    Ok(query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT))
}

/// The first `limit` of entries, of which one more was asked for: that one says that there is a next page. It begins
/// after the last entry shown, whose id `id` gives.
pub fn page<T, Out: Serialize>(
    uri: &Uri,
    limit: u32,
    mut entries: Vec<T>,
    id: impl Fn(&T) -> String,
    show: impl Fn(T) -> Out,
) -> Result<Response> {
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next = entries.last().filter(|_| more).map(|last| link(uri, &id(last)));
    let shown: Vec<Out> = entries.into_iter().map(show).collect();
    let mut response = Json(shown).into_response();
    if let Some(next) = next {
        let value = HeaderValue::try_from(next).map_err(|e| Error::internal("naming the next page", e))?;
        response.headers_mut().insert(header::LINK, value);
    }
    Ok(response)
}

fn link(uri: &Uri, before: &str) -> String {
    let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(given.filter(|(key, _)| key != "before"));
    query.append_pair("before", before);
    format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_next_page_keeps_what_was_asked_for() {
        let uri: Uri = "/api/builds?agent=a%26b&before=9&limit=2".parse().unwrap();
        let of = |entries: Vec<u32>| page(&uri, 2, entries, u32::to_string, |n| n).unwrap();
        let whole = of(vec![8, 7]);
        assert!(whole.headers().get(header::LINK).is_none());
        let more = of(vec![8, 7, 6]);
        let expected = "</api/builds?agent=a%26b&limit=2&before=7>; rel=\"next\"";
        assert_eq!(more.headers()[header::LINK], expected);
    }
}
