//! What streamed answers have in common: the headers that keep proxies from holding them back, and the comments that keep
//! proxies from cutting silent ones.

use axum::response::sse::KeepAlive;
use http::{HeaderName, HeaderValue, header};
use std::time::Duration;

/// How long a stream of events is silent at most: proxies cut those that are silent for long.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// What is sent then: a comment, which no client of Server-Sent Events shows.
pub const COMMENT: &str = ": still here\n\n";

/// The same for streams that axum writes.
pub fn keep_alive() -> KeepAlive {
    KeepAlive::new().interval(HEARTBEAT).text("still here")
}

/// The headers of a streamed answer. nginx, and others after it, pass one on as it comes when they are asked to.
pub fn headers(kind: HeaderValue) -> [(HeaderName, HeaderValue); 4] {
    let [caching, buffering] = unbuffered();
    let sniffing = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    [(header::CONTENT_TYPE, kind), sniffing, caching, buffering]
}

/// Those of them that are for proxies.
pub fn unbuffered() -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}
