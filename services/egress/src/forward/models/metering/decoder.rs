//! The content of an answer, read as it passes: one JSON document, or Server-Sent Events with one each.

use super::{format::Format, scanner::Scanner, usage_reader::Reading};
use crate::forward::models::sse::{Lines, Part};
use bytes::{Bytes, BytesMut};
use std::io::{self, Write};

/// The longest event that may turn out to be the one that is left out. It is short.
pub(super) const MAX_HELD: usize = 64 << 10;
/// The part of a compressed answer that is read, in bytes once it is not: so many times what came, at most [`PIECE`]
/// for each piece of it, and [`MAX_DECODED`] of all. Beyond that it is a bomb, which would keep a thread busy.
const RATIO: usize = 100;
const PIECE: usize = 2 << 20;
const MAX_DECODED: usize = 256 << 20;
/// The data of the event that ends streams of OpenAI.
const DONE: &[u8] = b"[DONE]";

/// The state of reading an answer's content.
#[derive(Debug)]
pub(super) struct Content {
    format: Format,
    pub(super) scanner: Scanner,
    pub(super) reading: Reading,
    lines: Lines,
    /// The first bytes of an event's data.
    start: Vec<u8>,
    /// Whether the event is there that is the last one.
    pub(super) has_ended: bool,
    /// The event so far, where one of them is left out.
    pub(super) held: Option<BytesMut>,
    /// Whether the event before was left out.
    left_out: bool,
    /// The number of bytes that may still be decoded, now and in all.
    decodable: usize,
    decodable_in_all: usize,
}

impl Content {
    pub(super) fn new(format: Format, leave_out_usage: bool) -> Self {
        Self {
            format,
            scanner: Scanner::new(),
            reading: Reading::default(),
            lines: Lines::default(),
            start: Vec::with_capacity(DONE.len()),
            has_ended: false,
            held: (leave_out_usage && format == Format::Events).then(BytesMut::new),
            left_out: false,
            decodable: PIECE,
            decodable_in_all: MAX_DECODED,
        }
    }

    /// A compressed piece of so many bytes comes next.
    pub(super) fn expect(&mut self, compressed: usize) {
        self.decodable = self.decodable.saturating_add(compressed.saturating_mul(RATIO)).min(PIECE);
    }

    pub(super) fn read(&mut self, piece: Bytes) -> Bytes {
        let mut out = BytesMut::new();
        self.look(&piece, &mut out);
        match &mut self.held {
            None => piece,
            Some(held) => {
                // It is too long to be the one that is left out.
                if held.len() > MAX_HELD {
                    out.extend(held.split());
                    self.left_out = false;
                }
                out.freeze()
            }
        }
    }

    /// Reads a piece. What it completes of the events for the agent comes to `out`.
    fn look(&mut self, piece: &[u8], out: &mut BytesMut) {
        if self.format == Format::Json {
            return self.scan(piece);
        }
        let mut rest = piece;
        while !rest.is_empty() {
            let (part, after) = self.lines.next(rest);
            let raw = &rest[..rest.len() - after.len()];
            rest = after;
            // The end of an event goes where the event went.
            let is_behind = part == Part::SecondEnd && self.held.as_ref().is_some_and(BytesMut::is_empty);
            match &mut self.held {
                Some(_) if is_behind && self.left_out => {}
                Some(_) if is_behind => out.extend_from_slice(raw),
                Some(held) => held.extend_from_slice(raw),
                None => {}
            }
            match part {
                Part::Data(data) => {
                    let room = DONE.len() + 1 - self.start.len().min(DONE.len() + 1);
                    self.start.extend(data.iter().take(room));
                    self.scan(data);
                }
                Part::DataEnd => self.scan(b"\n"),
                Part::EventEnd => self.event_ended(out),
                Part::SecondEnd | Part::Other => {}
            }
        }
    }

    fn scan(&mut self, text: &[u8]) {
        let Self { scanner, reading, .. } = self;
        scanner.read(text, |found| reading.take(&found));
    }

    fn event_ended(&mut self, out: &mut BytesMut) {
        self.has_ended |= self.reading.is_last() || self.start == DONE;
        self.left_out = self.reading.is_usage_alone();
        self.reading.begin_document();
        self.scanner.begin_anew();
        self.start.clear();
        match &mut self.held {
            Some(held) if self.left_out => held.clear(),
            Some(held) => out.extend(held.split()),
            None => {}
        }
    }

    pub(super) fn rest(&mut self) -> Bytes {
        let rest = self.held.as_mut().map(BytesMut::split).unwrap_or_default();
        if self.reading.is_usage_alone() { Bytes::new() } else { rest.freeze() }
    }

    /// Whether it is what it should be: a whole document, or events with one at least.
    pub(super) fn is_whole(&self) -> bool {
        match self.format {
            Format::Json => self.scanner.is_whole(),
            Format::Events => self.has_ended || self.scanner.has_begun(),
        }
    }

    /// Whether nothing that counts is missing, if the end has come.
    pub(super) fn is_usage_complete(&self) -> bool {
        match self.format {
            Format::Json => self.scanner.is_whole(),
            Format::Events => self.has_ended || self.reading.is_usage_final(),
        }
    }
}

impl Write for Content {
    fn write(&mut self, decoded: &[u8]) -> io::Result<usize> {
        let in_all = self.decodable_in_all.checked_sub(decoded.len());
        let (Some(now), Some(in_all)) = (self.decodable.checked_sub(decoded.len()), in_all) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        (self.decodable, self.decodable_in_all) = (now, in_all);
        self.look(decoded, &mut BytesMut::new());
        Ok(decoded.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
