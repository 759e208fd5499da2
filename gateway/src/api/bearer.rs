//! The header `Authorization`.

use http::{HeaderMap, header};

/// Returns the tokens after `Bearer` in all headers of this name.
pub fn bearers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| bearer(value.to_str().ok()?))
}

/// Returns the token of one such value.
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.trim().split_once(' ')?;
    Some(key.trim()).filter(|key| scheme.eq_ignore_ascii_case("bearer") && !key.is_empty())
}
