//! Reading Server-Sent Events as they come, in pieces of any size. Lines end with a line feed, a carriage return or
//! both, and a byte order mark may stand before the first.

use std::io;

/// The largest event, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// A byte order mark, which some streams begin with.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// The name of the field that is read.
const FIELD: &[u8] = b"data";

/// A part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Some of the value of a line of data.
    Data(&'a [u8]),
    /// The end of a line of data.
    DataEnd,
    /// The empty line after an event.
    EventEnd,
    /// The line feed after the carriage return that ended the line before.
    SecondEnd,
    /// Of another field, or of a comment.
    Other,
}

/// Where in a line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So many bytes of the mark are there.
    Mark(usize),
    /// So many bytes of the field's name are there.
    Name(usize),
    /// After the colon.
    Colon,
    Data,
    Other,
}

/// The lines of one stream. Nothing of them is kept.
#[derive(Debug)]
pub(super) struct Lines {
    at: At,
    after_return: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { at: At::Mark(0), after_return: false }
    }
}

impl Lines {
    /// The part with which `piece` begins, which must not be empty, and what comes after it.
    pub(super) fn next<'a>(&mut self, piece: &'a [u8]) -> (Part<'a>, &'a [u8]) {
        if std::mem::take(&mut self.after_return) && piece.first() == Some(&b'\n') {
            return (Part::SecondEnd, &piece[1..]);
        }
        let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(piece.len());
        if end == 0 {
            self.after_return = piece.first() == Some(&b'\r');
            let part = match std::mem::replace(&mut self.at, At::Name(0)) {
                At::Mark(0 | 3) | At::Name(0) => Part::EventEnd,
                At::Colon | At::Data => Part::DataEnd,
                At::Mark(_) | At::Name(_) | At::Other => Part::Other,
            };
            return (part, piece.get(1..).unwrap_or_default());
        }
        let (line, after) = piece.split_at(end);
        let data = &line[self.head(line)..];
        match data.is_empty() {
            true => (Part::Other, after),
            false => (Part::Data(data), after),
        }
    }

    /// The number of bytes of a line that come before its data; all of them, where it has none so far.
    fn head(&mut self, line: &[u8]) -> usize {
        for (index, &byte) in line.iter().enumerate() {
            self.at = match self.at {
                At::Mark(read) if MARK.get(read) == Some(&byte) => At::Mark(read + 1),
                At::Mark(0 | 3) | At::Name(0) if byte == FIELD[0] => At::Name(1),
                At::Name(read) if FIELD.get(read) == Some(&byte) => At::Name(read + 1),
                At::Name(read) if read == FIELD.len() && byte == b':' => At::Colon,
                At::Colon if byte == b' ' => At::Data,
                At::Colon | At::Data => {
                    self.at = At::Data;
                    return index;
                }
                At::Mark(_) | At::Name(_) | At::Other => {
                    self.at = At::Other;
                    return line.len();
                }
            };
        }
        line.len()
    }
}

/// The data of the events of one stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    lines: Lines,
    /// The data of an event that has not come to its end.
    data: Vec<u8>,
}

impl Events {
    /// Takes the next bytes; what `found` gets is the data of each event that they complete.
    pub(super) fn push<E: From<io::Error>>(
        &mut self,
        piece: &[u8],
        mut found: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = piece;
        while !rest.is_empty() {
            let (part, after) = self.lines.next(rest);
            rest = after;
            match part {
                Part::Data(data) => self.data.extend_from_slice(data),
                Part::DataEnd => self.data.push(b'\n'),
                Part::EventEnd => {
                    let data = std::mem::take(&mut self.data);
                    if let Some(data) = data.strip_suffix(b"\n") {
                        found(data)?;
                    }
                }
                Part::SecondEnd | Part::Other => {}
            }
            if self.data.len() >= MAX_EVENT {
                return Err(io::Error::other("an event of the stream is too large").into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(pieces: &[&[u8]]) -> io::Result<Vec<String>> {
        let (mut events, mut all) = (Events::default(), Vec::new());
        for piece in pieces {
            events.push(piece, |data| {
                all.push(String::from_utf8_lossy(data).into_owned());
                Ok::<_, io::Error>(())
            })?;
        }
        Ok(all)
    }

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        for stream in [
            &b"event: a\ndata: 1\n\n: comment\ndata:2\ndata: 3\n\n\n\nid: 7\n\ndata\n\ndata: 4"[..],
            b"event: a\r\ndata: 1\r\n\r\n: comment\r\ndata:2\r\ndata: 3\r\n\r\n\r\n\r\nid: 7\r\n\r\ndata: 4",
            b"event: a\rdata: 1\r\rdata:2\rdata: 3\r\rdata: 4",
            b"\xef\xbb\xbfdata: 1\n\ndata:2\rdata: 3\n\n",
            b"\xef\xbb\xbf\ndatab: 0\ndat: 0\n\xef\xbb\xbfdata: 0\ndata: 1\n\ndata:2\rdata: 3\n\n",
        ] {
            assert_eq!(read(&[stream]).unwrap(), ["1", "2\n3"], "an event without its end is none");
            for cut in 0..stream.len() {
                let (first, second) = stream.split_at(cut);
                assert_eq!(read(&[first, second]).unwrap(), ["1", "2\n3"], "{cut}");
            }
        }
    }

    #[test]
    fn an_event_without_end_is_not_kept() {
        let piece = [b'x'; 1 << 16];
        let mut events = Events::default();
        let mut push = |piece: &[u8]| events.push(piece, |_| Ok::<_, io::Error>(()));
        push(b"data: ").unwrap();
        let pushed = (0..).take_while(|_| push(&piece).is_ok()).count();
        assert!((pushed + 1) * piece.len() >= MAX_EVENT && pushed * piece.len() < MAX_EVENT);
        let line = b"data: 1\n";
        let pushed = (0..).take_while(|_| push(line).is_ok()).count();
        assert!(pushed < MAX_EVENT, "lines of one event count together");
    }
}
