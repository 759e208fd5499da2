//! An answer as it passes, encoded or not. What is read of it is kept, and the event with the usage, which the agent
//! did not ask for, is left out.

use super::{
    decoder::Content,
    format::{Format, header_text},
    usage_reader::Reading,
};
use bytes::Bytes;
use flate2::write::{GzDecoder, ZlibDecoder};
use hoistway_model::usage::UsageSums;
use http::{HeaderMap, header};
use std::io::{self, Write};

/// A reader for each content encoding.
#[derive(Debug)]
enum Source {
    Plain(Box<Content>),
    /// Providers are asked not to compress, and some do.
    Gzip(Box<GzDecoder<Content>>),
    Deflate(Box<ZlibDecoder<Content>>),
    /// An encoding that cannot be read.
    Unknown,
}

#[derive(Debug)]
pub(super) struct AnswerReader {
    source: Source,
    /// Whether it could not be decoded, or not to its end.
    has_failed: bool,
}

impl AnswerReader {
    /// `leave_out_usage` is whether the event with the usage alone is not for the agent.
    pub(super) fn new(format: Format, leave_out_usage: bool) -> Self {
        Self { source: Source::Plain(Box::new(Content::new(format, leave_out_usage))), has_failed: false }
    }

    /// Reads an answer with this header. `asked` is whether a stream was requested. Of what is compressed no event can
    /// be left out.
    pub(super) fn of(headers: &HeaderMap, asked: bool, leave_out_usage: bool) -> Self {
        let format = Format::of(headers, asked);
        let source = match header_text(headers, &header::CONTENT_ENCODING).as_deref() {
            None | Some("" | "identity") => return Self::new(format, leave_out_usage),
            Some("gzip" | "x-gzip") => Source::Gzip(Box::new(GzDecoder::new(Content::new(format, false)))),
            Some("deflate") => Source::Deflate(Box::new(ZlibDecoder::new(Content::new(format, false)))),
            Some(_) => Source::Unknown,
        };
        Self { source, has_failed: false }
    }

    fn content(&self) -> Option<&Content> {
        match &self.source {
            Source::Plain(content) => Some(content),
            Source::Gzip(decoder) => Some(decoder.get_ref()),
            Source::Deflate(decoder) => Some(decoder.get_ref()),
            Source::Unknown => None,
        }
    }

    /// Whether the agent gets something else than what the provider sent.
    pub(super) fn changes(&self) -> bool {
        self.content().is_some_and(|content| content.held.is_some())
    }

    /// Whether all has come that counts: of events the last one, of other answers nothing says so.
    pub(super) fn has_ended(&self) -> bool {
        self.content().is_some_and(|content| content.has_ended)
    }

    /// Reads a piece; what comes out is for the agent.
    pub(super) fn read(&mut self, piece: Bytes) -> Bytes {
        if self.has_failed {
            return piece;
        }
        let decoded = match &mut self.source {
            Source::Plain(content) => return content.read(piece),
            Source::Gzip(decoder) => {
                decoder.get_mut().expect(piece.len());
                decoder.write_all(&piece).and_then(|()| decoder.flush())
            }
            Source::Deflate(decoder) => {
                decoder.get_mut().expect(piece.len());
                decoder.write_all(&piece).and_then(|()| decoder.flush())
            }
            Source::Unknown => return piece,
        };
        match decoded {
            Ok(()) => {}
            // A bomb, or an answer that repeats itself: it may be what it should be, and is not read to its end.
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => self.source = Source::Unknown,
            Err(_) => self.has_failed = true,
        }
        piece
    }

    /// The rest for the agent when nothing more comes.
    pub(super) fn rest(&mut self) -> Bytes {
        match &mut self.source {
            Source::Plain(content) => content.rest(),
            Source::Gzip(_) | Source::Deflate(_) | Source::Unknown => Bytes::new(),
        }
    }

    /// Whether what came to its end is no answer of a model: another thing than JSON or events, or only a part of it.
    pub(super) fn is_invalid(&self) -> bool {
        self.has_failed || self.content().is_some_and(|content| !content.is_whole())
    }

    /// The type of the error in it; empty where it is not named.
    pub(super) fn error(&self) -> Option<&str> {
        self.content().and_then(|content| content.reading.error())
    }

    /// Whether nothing of an answer came.
    pub(super) fn is_empty(&self) -> bool {
        self.content().is_some_and(|content| !content.scanner.has_begun())
    }

    /// The tokens of the answer, with `input` as an estimate of the request's. `is_complete` is whether its end came.
    pub(super) fn sums(&self, input: u64, is_complete: bool) -> UsageSums {
        match self.content() {
            Some(content) => {
                content.reading.sums(input, is_complete && !self.has_failed && content.is_usage_complete())
            }
            None => Reading::default().sums(input, false),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::decoder::MAX_HELD, *};

    const PIECE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}],\"usage\":null}\r\n\r\n";
    const USAGE: &str = "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":2}}\n\n";
    const DONE_EVENT: &str = "data: [DONE]\n\n";

    /// The bytes for the agent, in pieces of `size`, and the reader.
    fn read(text: &str, size: usize, leave_out: bool) -> (String, AnswerReader) {
        let mut reader = AnswerReader::new(Format::Events, leave_out);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            out.extend(reader.read(Bytes::copy_from_slice(piece)));
        }
        out.extend(reader.rest());
        (String::from_utf8_lossy(&out).into_owned(), reader)
    }

    #[test]
    fn the_event_that_the_agent_did_not_ask_for_is_left_out_and_counted() {
        let text = [": a comment\n\n", PIECE, "event: x\ndata: [\"a\"]\n\n", USAGE, DONE_EVENT].concat();
        for size in [1, 2, 7, 50, 1000] {
            let (out, reader) = read(&text, size, true);
            assert_eq!(out, text.replace(USAGE, ""), "pieces of {size}");
            let sums = reader.sums(99, true);
            assert_eq!((sums.input_tokens, sums.output_tokens, sums.estimated_requests), (10, 2, 0));
            assert_eq!(read(&text, size, false).0, text);
        }
    }

    #[test]
    fn whole_events_pass_at_once_and_long_ones_before_they_end() {
        let mut reader = AnswerReader::new(Format::Events, true);
        assert_eq!(reader.read(Bytes::from(PIECE)), PIECE);
        let long = format!("data: {}", "x".repeat(MAX_HELD));
        assert_eq!(reader.read(Bytes::from(long.clone())), long);
        assert_eq!(reader.read(Bytes::from("data: a\n")), "");
        assert_eq!(reader.rest(), "data: a\n");
    }

    #[test]
    fn a_stream_without_its_last_event_is_an_estimate() {
        let (_, reader) = read(&PIECE.repeat(2), 1000, true);
        assert!(!reader.has_ended());
        let sums = reader.sums(99, true);
        assert_eq!((sums.input_tokens, sums.output_tokens, sums.estimated_requests), (99, 4, 1));
        let (_, reader) = read(&[PIECE, DONE_EVENT].concat(), 3, true);
        assert!(reader.has_ended());
        let (_, reader) = read("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", 3, false);
        assert!(reader.has_ended());
    }

    #[test]
    fn usage_that_was_said_last_needs_no_last_event() {
        for (text, expected) in [
            ([PIECE, USAGE].concat(), (10, 2, 0)),
            ([PIECE, USAGE.trim_end()].concat(), (10, 2, 0)),
            ([USAGE, PIECE].concat(), (10, 2, 1)),
        ] {
            let (out, reader) = read(&text, 7, true);
            assert_eq!(out, PIECE);
            let sums = reader.sums(99, true);
            assert_eq!((sums.input_tokens, sums.output_tokens, sums.estimated_requests), expected, "{text}");
        }
    }

    #[test]
    fn lines_may_end_in_every_way_that_the_format_allows() {
        let text = [PIECE, "data: {\"choices\":[]}\n\n", USAGE, DONE_EVENT].concat().replace("\r\n", "\n");
        for end in ["\n", "\r\n", "\r"] {
            let (sent, expected) = (text.replace('\n', end), text.replace(USAGE, "").replace('\n', end));
            for size in [1, 2, 3, 50, 1000] {
                let (out, reader) = read(&sent, size, true);
                assert_eq!(out, expected, "pieces of {size}, lines ending in {end:?}");
                assert_eq!((reader.sums(99, true).input_tokens, reader.has_ended()), (10, true));
                assert_eq!(read(&format!("\u{feff}{sent}"), size, true).0, format!("\u{feff}{expected}"));
            }
        }
    }

    #[test]
    fn compressed_answers_are_decoded_and_counted() {
        let json = r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":10,"completion_tokens":2}}"#;
        let gzip = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        for (kind, text) in [("application/json", json.to_owned()), ("text/event-stream", [PIECE, USAGE].concat())] {
            let headers = headers(&[("content-type", kind), ("content-encoding", "GZip")]);
            let mut reader = AnswerReader::of(&headers, true, true);
            for piece in gzip(&text).chunks(5) {
                assert_eq!(reader.read(Bytes::copy_from_slice(piece)), piece);
            }
            let sums = reader.sums(99, true);
            assert_eq!((sums.input_tokens, sums.output_tokens, sums.estimated_requests), (10, 2, 0), "{kind}");
            assert!(!reader.is_invalid());
        }
        let headers = headers(&[("content-encoding", "gzip")]);
        let mut reader = AnswerReader::of(&headers, false, false);
        reader.read(Bytes::from("no gzip"));
        assert!(reader.is_invalid());
    }

    #[test]
    fn of_what_unpacks_to_very_much_little_is_read() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        for _ in 0..64 {
            encoder.write_all(&[b' '; 1 << 20]).unwrap();
        }
        let bomb = Bytes::from(encoder.finish().unwrap());
        let mut reader = AnswerReader::of(&headers(&[("content-encoding", "gzip")]), false, false);
        let mut pieces = 0;
        while !matches!(reader.source, Source::Unknown) {
            let piece = bomb.slice(pieces * 1000..(pieces + 1) * 1000);
            assert_eq!(reader.read(piece.clone()), piece);
            pieces += 1;
        }
        assert!(pieces <= 4, "{pieces} pieces of 1,000 bytes were decoded");
        let sums = reader.sums(7, true);
        assert_eq!((sums.input_tokens, sums.estimated_requests), (7, 1));
    }

    #[test]
    fn an_undecodable_answer_counts_the_request_only() {
        let mut reader = AnswerReader::of(&headers(&[("content-encoding", "br")]), true, true);
        reader.read(Bytes::from(vec![0; 400]));
        let sums = reader.sums(7, true);
        assert_eq!((sums.input_tokens, sums.output_tokens, sums.estimated_requests), (7, 0, 1));
        assert!(!reader.is_invalid(), "nobody knows");
    }

    #[test]
    fn invalid_answers_are_detected() {
        let invalid = |kind: &'static str, asked, text: &'static str| {
            let mut reader = AnswerReader::of(&headers(&[("content-type", kind)]), asked, asked);
            reader.read(Bytes::from(text));
            (reader.is_invalid(), reader.is_empty())
        };
        assert_eq!(invalid("text/html", true, "<html>{}</html>"), (true, false));
        assert_eq!(invalid("text/html", false, "<html></html>"), (true, true));
        assert_eq!(invalid("text/event-stream", true, "<html></html>"), (true, true));
        assert_eq!(invalid("application/json", false, "{\"choices\":["), (true, false));
        assert_eq!(invalid("application/json", true, "{\"choices\":[]}\n"), (false, false));
        assert_eq!(invalid("text/event-stream", true, "data: [DONE]\n\n"), (false, false));
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &'static str)| {
            (name.parse::<http::HeaderName>().unwrap(), http::HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }
}
