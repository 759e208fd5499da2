//! Providers that speak the Messages API of Anthropic: their own clients' calls, and chat completions of the OpenAI
//! API.

mod chat;
mod request;
mod response;
mod stream;

pub(super) use chat::Anthropic;

use crate::forward::headers::remove_all_spellings;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The header of the API's key.
pub(super) const KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Its clients say in it what they speak, and its servers insist on it.
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// The version that egress speaks, and the one of clients that name none.
const SPOKEN: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Whether the sender of a request is a client of this API.
pub(super) fn is_client(headers: &HeaderMap) -> bool {
    headers.contains_key(VERSION)
}

/// Adds what every request needs.
pub(super) fn add_version(headers: &mut HeaderMap) {
    headers.entry(VERSION).or_insert(SPOKEN);
}

/// Removes whatever the agent sent in the place of a key, since some servers prefer the one and some the other header.
pub(super) fn remove_keys(headers: &mut HeaderMap) {
    for name in [&header::AUTHORIZATION, &KEY] {
        remove_all_spellings(headers, name);
    }
}

#[cfg(test)]
mod tests;
