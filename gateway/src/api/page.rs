//! Lists that are ordered by name: `?limit=` and `?after=NAME`.

use super::query::Query;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use hoistway_model::{Name, Result};
use http::{HeaderValue, header};
use serde::Serialize;

/// The most that one answer lists, and what it lists when nobody says how much.
const MAX_LIMIT: u32 = 1_000;

/// A part of a list, with a link to the next one if there is more.
#[derive(Debug)]
pub struct ByName<T> {
    items: Vec<T>,
    next: Option<HeaderValue>,
}

impl<T> ByName<T> {
    /// The part of `all`, which is ordered by name, that the request asks for, each in its public form.
    pub fn of<R>(query: &Query, all: Vec<R>, name: impl Fn(&R) -> &Name, show: impl Fn(R) -> T) -> Result<Self> {
        let limit = query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(MAX_LIMIT) as usize;
        let after = query.name("after")?;
        let from = after.map_or(0, |after| all.partition_point(|item| *name(item) <= after));
        let last = all.len() > from + limit;
        // Relative to the request, which may be under /api or /api/v1.
        let next = last.then(|| format!("<?limit={limit}&after={}>; rel=\"next\"", name(&all[from + limit - 1])));
        Ok(Self {
            items: all.into_iter().skip(from).take(limit).map(show).collect(),
            next: next.and_then(|link| HeaderValue::from_str(&link).ok()),
        })
    }
}

impl<T: Serialize> IntoResponse for ByName<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        if let Some(next) = self.next {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}
