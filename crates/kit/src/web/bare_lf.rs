//! Detects a lone LF at the end of a line in request heads. hyper accepts it (RFC 9112, 2.2, allows it), and a proxy in
//! front may not: the two would see different requests on one connection (request smuggling).

use crate::tls::ServerStream;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio_util::io::InspectReader;

/// The bytes of a line that are examined: the headers with the length of a body are short.
const LOOKED_AT: usize = 128;

/// A connection whose heads are examined as they arrive.
pub(super) type Watched = InspectReader<ServerStream, Box<dyn FnMut(&[u8]) + Send>>;

/// Examines a connection. The flag becomes true when a line of a head ends in a lone LF.
pub(super) fn watch(stream: ServerStream) -> (Watched, Arc<AtomicBool>) {
    let (mut requests, lone) = (Requests::default(), Arc::new(AtomicBool::new(false)));
    let found = Arc::clone(&lone);
    let look = move |bytes: &[u8]| {
        requests.read(bytes);
        if requests.lone {
            found.store(true, Ordering::Relaxed);
        }
    };
    (InspectReader::new(stream, Box::new(look)), lone)
}

/// A parser that finds the heads among the bytes of a connection. It checks nothing but line ends: the server refuses
/// input that it cannot parse, and no request follows that.
#[derive(Debug, Default)]
struct Requests {
    place: Place,
    /// The beginning of the current line, in lower case.
    line: Vec<u8>,
    after_cr: bool,
    /// The body as the head so far declares it.
    body: Body,
    /// Whether a line of a head ended in a lone LF.
    lone: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a request line.
    #[default]
    Start,
    /// After it.
    Head,
    /// The remaining bytes of a body or of a chunk.
    Bytes(u64),
    /// The line with a chunk's length, and the line end behind a chunk.
    ChunkLength,
    ChunkEnd,
    /// The trailers after the last chunk.
    Trailers,
    Unknown,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Body {
    #[default]
    None,
    Length(u64),
    Chunked,
}

impl Requests {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.place != Place::Unknown {
            if let Place::Bytes(left) = self.place {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes = &bytes[taken..];
                self.place = match left - taken as u64 {
                    0 if self.body == Body::Chunked => Place::ChunkEnd,
                    0 => self.next(),
                    left => Place::Bytes(left),
                };
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let text = &bytes[..end.unwrap_or(bytes.len())];
            let room = LOOKED_AT - self.line.len();
            self.line.extend(text.iter().take(room).map(u8::to_ascii_lowercase));
            self.after_cr = text.last().map_or(self.after_cr, |last| *last == b'\r');
            let Some(end) = end else { return };
            bytes = &bytes[end + 1..];
            self.place = self.line_ended();
            self.line.clear();
            self.after_cr = false;
        }
    }

    fn line_ended(&mut self) -> Place {
        self.lone |= !self.after_cr;
        let line = self.line.trim_ascii();
        match (self.place, line.is_empty()) {
            (Place::Start, true) => Place::Start,
            (Place::Start, false) => Place::Head,
            (Place::Head, true) => match self.body {
                Body::None | Body::Length(0) => self.next(),
                Body::Length(length) => Place::Bytes(length),
                Body::Chunked => Place::ChunkLength,
            },
            (Place::Head, false) => match (header(line), self.body) {
                (Some((b"transfer-encoding", value)), _) if value.ends_with(b"chunked") => {
                    self.body = Body::Chunked;
                    Place::Head
                }
                (Some((b"content-length", value)), Body::None | Body::Length(_)) => match number(value, 10) {
                    Some(length) => {
                        self.body = Body::Length(length);
                        Place::Head
                    }
                    None => Place::Unknown,
                },
                _ => Place::Head,
            },
            (Place::ChunkLength, _) => {
                let length = line.split(|byte| *byte == b';').next().unwrap_or_default();
                match number(length.trim_ascii(), 16) {
                    Some(0) => Place::Trailers,
                    Some(length) => Place::Bytes(length),
                    None => Place::Unknown,
                }
            }
            (Place::ChunkEnd, true) => Place::ChunkLength,
            (Place::Trailers, true) => self.next(),
            (Place::Trailers, false) => Place::Trailers,
            (Place::ChunkEnd, false) | (Place::Bytes(_) | Place::Unknown, _) => Place::Unknown,
        }
    }

    fn next(&mut self) -> Place {
        self.body = Body::None;
        Place::Start
    }
}

fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn number(text: &[u8], base: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    u64::from_str_radix(text, base).ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a lone LF is found, however the bytes are split.
    fn is_lone(text: &str) -> bool {
        let found: Vec<bool> = [1, 2, 3, 7, text.len()]
            .into_iter()
            .map(|size| {
                let mut requests = Requests::default();
                text.as_bytes().chunks(size).for_each(|piece| requests.read(piece));
                assert_ne!(requests.place, Place::Unknown, "{text}");
                requests.lone
            })
            .collect();
        assert!(found.iter().all(|lone| *lone == found[0]), "{text}");
        found[0]
    }

    #[test]
    fn a_lone_line_feed_is_found_in_every_head_and_in_no_body() {
        const NEXT: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        const BARE: &str = "GET / HTTP/1.1\nHost: a\r\n\r\n";
        for body in [
            "",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\nb\n\n",
            "POST / HTTP/1.1\r\nHost: a\r\ncontent-length:0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n5\r\n\n\nab\n\r\n0b;x=y\r\n\nGET / HTTP\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\n\n\r\n0\r\nX: y\r\n\r\n",
        ] {
            assert!(!is_lone(&format!("{body}{NEXT}")), "{body}");
            assert!(is_lone(&format!("{body}{BARE}")), "{body}");
        }
        let long = "x".repeat(1000);
        assert!(!is_lone(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")));
        for bare in [
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(is_lone(bare), "{bare:?}");
        }
        assert!(!is_lone("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
}
