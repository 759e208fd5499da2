//! An answer as it passes: one JSON document, or Server-Sent Events with one each. What is read of it is kept, and the
//! event with the usage, which the agent did not ask for, is left out.

use super::{
    reading::{Reading, estimate},
    scanner::Scanner,
};
use bytes::{Bytes, BytesMut};
use hoistway_model::usage::UsageSums;
use http::{HeaderMap, header};

/// The longest event that may turn out to be the one that is left out. It is short.
const MAX_HELD: usize = 64 << 10;
/// The data of the event that ends streams of OpenAI.
const DONE: &[u8] = b"[DONE]";
const FIELD: &[u8] = b"data";

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Events,
    /// It is compressed, or another thing that cannot be read.
    Opaque,
}

impl Format {
    /// What the header says of an answer. `asked` is whether a stream was asked for.
    pub(super) fn of(headers: &HeaderMap, asked: bool) -> Self {
        let text = |name| headers.get(name).map(|value| value.as_bytes().to_ascii_lowercase());
        let kind = text(header::CONTENT_TYPE);
        match (text(header::CONTENT_ENCODING).as_deref(), kind) {
            (Some(encoding), _) if encoding != b"identity" => Self::Opaque,
            (_, Some(kind)) if kind.starts_with(b"text/event-stream") => Self::Events,
            (_, None) if asked => Self::Events,
            _ => Self::Json,
        }
    }
}

/// Where in a line of an event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many bytes of the name of the field, which is `data` so far.
    Name(usize),
    /// After the colon.
    Value,
    Data,
    Other,
}

#[derive(Debug)]
pub(super) struct AnswerReader {
    format: Format,
    scanner: Scanner,
    reading: Reading,
    /// Bytes of the answer.
    bytes: u64,
    line: Line,
    /// The first bytes of an event's data.
    start: Vec<u8>,
    /// Whether the event is there that is the last one.
    has_ended: bool,
    /// The event so far, where one of them is left out.
    held: Option<BytesMut>,
}

impl AnswerReader {
    /// `leave_out_usage` is whether the event with the usage alone is not for the agent.
    pub(super) fn new(format: Format, leave_out_usage: bool) -> Self {
        let held = (leave_out_usage && format == Format::Events).then(BytesMut::new);
        let (scanner, reading) = (Scanner::new(), Reading::default());
        let start = Vec::with_capacity(DONE.len());
        Self { format, scanner, reading, bytes: 0, line: Line::Name(0), start, has_ended: false, held }
    }

    /// Whether the agent gets something else than what the provider sent.
    pub(super) const fn changes(&self) -> bool {
        self.held.is_some()
    }

    /// Whether all has come that counts: of events the last one, of other answers nothing says so.
    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Reads a piece; what comes out is for the agent.
    pub(super) fn read(&mut self, piece: Bytes) -> Bytes {
        self.bytes += piece.len() as u64;
        match self.format {
            Format::Opaque => return piece,
            Format::Json => {
                let Self { scanner, reading, .. } = self;
                scanner.read(&piece, |found| reading.take(&found));
                return piece;
            }
            Format::Events => {}
        }
        let mut out = BytesMut::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            self.part_of_line(text);
            if let Some(held) = &mut self.held {
                held.extend_from_slice(part);
            }
            if is_whole && self.ends_event() {
                out.extend(self.event_ended());
            }
        }
        match &mut self.held {
            None => piece,
            Some(held) => {
                // It is too long to be the one that is left out.
                if held.len() > MAX_HELD {
                    out.extend(held.split());
                }
                out.freeze()
            }
        }
    }

    /// What is left for the agent when nothing more comes.
    pub(super) fn rest(&mut self) -> Bytes {
        self.held.as_mut().map(|held| held.split().freeze()).unwrap_or_default()
    }

    /// The tokens of the answer, with `input` as an estimate of the request's. `is_complete` is whether its end came.
    pub(super) fn sums(&self, input: u64, is_complete: bool) -> UsageSums {
        let is_complete = is_complete && (self.format != Format::Events || self.has_ended);
        let mut sums = self.reading.sums(input, is_complete);
        if self.format == Format::Opaque {
            sums.output_tokens = estimate(self.bytes);
        }
        sums
    }

    fn part_of_line(&mut self, mut text: &[u8]) {
        while let [byte, rest @ ..] = text {
            match self.line {
                Line::Name(read) => {
                    self.line = match byte {
                        b':' if read == FIELD.len() => Line::Value,
                        byte if FIELD.get(read) == Some(byte) => Line::Name(read + 1),
                        // A line of nothing but the first half of its end.
                        b'\r' if read == 0 && rest.is_empty() => Line::Name(0),
                        _ => Line::Other,
                    };
                    text = rest;
                }
                Line::Value => {
                    self.line = Line::Data;
                    text = if *byte == b' ' { rest } else { text };
                }
                Line::Data => {
                    let room = DONE.len() - self.start.len().min(DONE.len());
                    self.start.extend(text.iter().take(room));
                    let Self { scanner, reading, .. } = self;
                    scanner.read(text, |found| reading.take(&found));
                    return;
                }
                Line::Other => return,
            }
        }
    }

    /// A line has ended: whether it was the empty one after an event.
    fn ends_event(&mut self) -> bool {
        std::mem::replace(&mut self.line, Line::Name(0)) == Line::Name(0)
    }

    fn event_ended(&mut self) -> BytesMut {
        self.has_ended |= self.reading.is_last() || self.start == DONE;
        let leave_out = self.reading.is_usage_alone();
        self.reading.begin_document();
        self.scanner.begin_anew();
        self.start.clear();
        match &mut self.held {
            Some(held) if leave_out => {
                held.clear();
                BytesMut::new()
            }
            Some(held) => held.split(),
            None => BytesMut::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}],\"usage\":null}\r\n\r\n";
    const USAGE: &str = "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":2}}\n\n";
    const DONE_EVENT: &str = "data: [DONE]\n\n";

    /// What the agent gets, in pieces of `size`, and the reader.
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
    fn what_cannot_be_read_counts_by_its_bytes() {
        let mut reader = AnswerReader::new(Format::Opaque, true);
        reader.read(Bytes::from(vec![0; 400]));
        let sums = reader.sums(7, true);
        assert_eq!((sums.input_tokens, sums.output_tokens, sums.estimated_requests), (7, 100, 1));
    }

    #[test]
    fn the_header_says_what_comes() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(n, v)| (n.parse().unwrap_or(header::ACCEPT), http::HeaderValue::from_static(v)))
                .collect()
        };
        let events: HeaderMap = headers(&[("content-type", "text/event-stream; charset=utf-8")]);
        assert_eq!(Format::of(&events, false), Format::Events);
        assert_eq!(Format::of(&headers(&[("content-type", "application/json")]), true), Format::Json);
        assert_eq!(Format::of(&HeaderMap::new(), true), Format::Events);
        assert_eq!(Format::of(&headers(&[("content-encoding", "gzip")]), true), Format::Opaque);
    }
}
