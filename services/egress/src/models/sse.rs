//! Reading Server-Sent Events as they come, in pieces of any size.

use std::io;

/// The largest event, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// The data of the events of one stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// A line that has not come to its end.
    line: Vec<u8>,
    /// The data of an event that has not come to its end.
    data: Vec<u8>,
    /// Whether the last byte was a carriage return: a line feed after it belongs to the same end of a line.
    after_return: bool,
}

impl Events {
    /// Takes the next bytes; what `found` gets is the data of each event that they complete.
    pub(super) fn push<E: From<io::Error>>(
        &mut self,
        piece: &[u8],
        mut found: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|&byte| matches!(byte, b'\n' | b'\r'));
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            if self.line.len() + self.data.len() + line.len() > MAX_EVENT {
                return Err(io::Error::other("an event of the stream is too large").into());
            }
            self.line.extend_from_slice(line);
            let Some((&terminator, after)) = after.split_first() else { break };
            self.after_return = terminator == b'\r';
            rest = after;
            self.end_line(&mut found)?;
        }
        Ok(())
    }

    fn end_line<E>(&mut self, found: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return if data.is_empty() { Ok(()) } else { found(&data[..data.len() - 1]) };
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.data.push(b'\n');
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
