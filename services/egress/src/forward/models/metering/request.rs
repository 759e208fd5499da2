//! A request for a model, before it goes on: what it asks for, and the change without which a stream of the OpenAI API
//! would not say its usage.

use super::{
    scanner::{Found, Key, Scanner},
    usage_reader::{estimate, is_text},
};
use bytes::{Bytes, BytesMut};

/// Larger requests are read off the async runtime.
const READ_INLINE: usize = 256 << 10;

/// A request as it goes on.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) body: Bytes,
    /// Whether it asks for a stream.
    pub(super) streams: bool,
    /// Whether the agent did not ask for the usage that the stream will have.
    pub(super) leave_out_usage: bool,
    /// The estimate of the tokens in its text.
    pub(super) input: u64,
}

impl Prepared {
    /// Reads a request. `has_stream_options` is whether its API is one where streams say their usage if they are asked.
    pub(super) async fn new(body: Bytes, has_stream_options: bool) -> Self {
        if body.len() <= READ_INLINE {
            return prepare(body, has_stream_options);
        }
        let whole = body.clone();
        let preparing = tokio::task::spawn_blocking(move || prepare(body, has_stream_options)).await;
        preparing.unwrap_or_else(|e| {
            tracing::error!("reading a request for a model failed: {e}");
            let input = estimate(whole.len() as u64);
            Self { body: whole, streams: false, leave_out_usage: false, input }
        })
    }
}

/// Where the request asks for the usage, or could.
#[derive(Debug, Clone, Copy, Default)]
enum Options {
    #[default]
    Absent,
    /// `null` at this offset.
    Null(usize),
    /// An object whose members begin at this offset.
    Object(usize),
    /// The usage is requested, or not, by the literal at this offset.
    Said { at: usize, first: u8 },
}

fn prepare(body: Bytes, has_stream_options: bool) -> Prepared {
    let (mut root, mut streams, mut options, mut text) = (0, false, Options::Absent, 0_u64);
    let offset = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    Scanner::new().read(&body, |found| match found {
        Found::Open { path: [], at } => root = offset(at) + 1,
        Found::Literal { path: [Key::Stream], first, .. } => streams = first == b't',
        Found::Open { path: [Key::StreamOptions], at } => options = Options::Object(offset(at) + 1),
        Found::Literal { path: [Key::StreamOptions], first: b'n', at } => options = Options::Null(offset(at)),
        Found::Literal { path: [Key::StreamOptions, Key::IncludeUsage], first, at } => {
            options = Options::Said { at: offset(at), first };
        }
        Found::Text { path, bytes, .. } if is_text(path) => text += bytes,
        _ => {}
    });
    let input = estimate(text);
    if !streams || !has_stream_options {
        return Prepared { body, streams, leave_out_usage: false, input };
    }
    let changed = match options {
        Options::Said { first: b't', .. } => return Prepared { body, streams, leave_out_usage: false, input },
        Options::Said { at, first } => replace(&body, at, word(first), "true"),
        Options::Null(at) => replace(&body, at, word(b'n'), "{\"include_usage\":true}"),
        Options::Object(at) => add_member(&body, at, "\"include_usage\":true"),
        Options::Absent => add_member(&body, root, "\"stream_options\":{\"include_usage\":true}"),
    };
    Prepared { body: changed, streams, leave_out_usage: true, input }
}

/// The length of the literal that begins so.
const fn word(first: u8) -> usize {
    if first == b'f' { "false".len() } else { "null".len() }
}

/// Puts a member before the others of the object whose members begin at `at`.
fn add_member(body: &Bytes, at: usize, member: &str) -> Bytes {
    let is_empty = body.get(at..).unwrap_or_default().trim_ascii_start().starts_with(b"}");
    let comma = if is_empty { "" } else { "," };
    replace(body, at, 0, &format!("{member}{comma}"))
}

fn replace(body: &Bytes, at: usize, length: usize, by: &str) -> Bytes {
    let (before, after) = body.split_at(at.min(body.len()));
    let mut changed = BytesMut::with_capacity(body.len() + by.len());
    changed.extend_from_slice(before);
    changed.extend_from_slice(by.as_bytes());
    changed.extend_from_slice(after.get(length..).unwrap_or_default());
    changed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_made_to_say_their_usage_and_nothing_else_is_changed() {
        for (body, expected) in [
            (r#" {"stream": true}"#, Some(r#" {"stream_options":{"include_usage":true},"stream": true}"#)),
            (
                r#"{"stream_options": {}, "stream": true}"#,
                Some(r#"{"stream_options": {"include_usage":true}, "stream": true}"#),
            ),
            (
                r#"{"stream_options": { "x": 1}, "stream": true}"#,
                Some(r#"{"stream_options": {"include_usage":true, "x": 1}, "stream": true}"#),
            ),
            (
                r#"{"stream_options": {"include_usage" :false,"x":1}, "stream": true}"#,
                Some(r#"{"stream_options": {"include_usage" :true,"x":1}, "stream": true}"#),
            ),
            (
                r#"{"stream_options": {"include_usage":null}, "stream": true}"#,
                Some(r#"{"stream_options": {"include_usage":true}, "stream": true}"#),
            ),
            (
                r#"{"stream":true,"stream_options":null}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
            ),
            (r#"{"stream":true,"stream_options":{"include_usage":true}}"#, None),
            (r#"{"stream":false}"#, None),
            (r#"{"metadata":{"stream":true}}"#, None),
        ] {
            let prepared = prepare(Bytes::from(body), true);
            assert_eq!(prepared.body, expected.unwrap_or(body), "{body}");
            assert_eq!(prepared.leave_out_usage, expected.is_some(), "{body}");
            assert_eq!(prepare(Bytes::from(body), false).body, body);
        }
    }

    #[test]
    fn tokens_are_estimated_by_the_text_and_not_by_pictures() {
        let body = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"12345678"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAA"}}]}]}"#;
        assert_eq!(prepare(Bytes::from(body), true).input, 2);
        assert_eq!(prepare(Bytes::from(r#"{"input":["1234","5678"]}"#), false).input, 2);
    }
}
