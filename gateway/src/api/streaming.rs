//! The common parts of streamed answers: the headers that keep proxies from buffering them, and the comments that keep
//! proxies from closing silent ones.

use axum::response::sse::KeepAlive;
use http::{HeaderName, HeaderValue, header};
use std::time::Duration;

/// The longest silence of an event stream: proxies close streams that are silent for long.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// The heartbeat: a comment, which clients of Server-Sent Events ignore.
pub const COMMENT: &str = ": still here\n\n";

/// The same for streams that axum writes.
pub fn keep_alive() -> KeepAlive {
    KeepAlive::new().interval(HEARTBEAT).text("still here")
}

/// Returns the headers of a streamed answer. nginx and compatible proxies do not buffer an answer with
/// `X-Accel-Buffering: no`.
pub fn headers(kind: HeaderValue) -> [(HeaderName, HeaderValue); 4] {
    let [caching, buffering] = unbuffered();
    let sniffing = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    [(header::CONTENT_TYPE, kind), sniffing, caching, buffering]
}

/// Returns those of the headers that are for proxies.
pub fn unbuffered() -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}
