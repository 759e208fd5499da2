//! The format of an answer, by its header.

use http::{HeaderMap, HeaderName, header};

/// The format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Events,
}

impl Format {
    /// The format that the header states. `asked` is whether a stream was requested.
    pub(super) fn of(headers: &HeaderMap, asked: bool) -> Self {
        let kind = header_text(headers, &header::CONTENT_TYPE).unwrap_or_default();
        match kind.split(';').next().unwrap_or_default().trim() {
            "text/event-stream" => Self::Events,
            // Some servers do not say what it is.
            "" | "text/plain" | "application/octet-stream" if asked => Self::Events,
            _ => Self::Json,
        }
    }
}

/// A header in lower case, without space around it.
pub(super) fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_header_says_what_comes() {
        for (kind, asked, expected) in [
            ("text/event-stream; charset=utf-8", false, Format::Events),
            ("Text/Event-Stream;charset=UTF-8", false, Format::Events),
            ("text/plain", true, Format::Events),
            ("text/plain", false, Format::Json),
            ("application/json", true, Format::Json),
        ] {
            assert_eq!(
                Format::of(
                    &HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(kind))]),
                    asked
                ),
                expected,
                "{kind}"
            );
        }
        assert_eq!(Format::of(&HeaderMap::new(), true), Format::Events);
    }
}
