//! Log lines on standard error, which can be delayed during other output on the same terminal.

use std::{
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The most bytes of delayed lines.
const MAX_HELD: usize = 64 * 1024;

/// The delayed lines; `None` while there is no delay.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<Vec<u8>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Delays log lines below warnings until it is dropped; none is lost. A warning, or a full buffer, flushes the delayed
/// lines.
#[derive(Debug)]
#[must_use = "lines are held back as long as it lives"]
pub struct HeldLines(());

/// Begins to delay log lines.
pub fn hold_lines() -> HeldLines {
    held().get_or_insert_default();
    HeldLines(())
}

impl Drop for HeldLines {
    fn drop(&mut self) {
        let lines = held().take().unwrap_or_default();
        // A closed standard error is not a failure.
        let _ = io::stderr().write_all(&lines);
    }
}

/// Makes a writer for each line.
#[derive(Debug)]
pub(super) struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = LineWriter;

    fn make_writer(&self) -> LineWriter {
        LineWriter { urgent: true }
    }

    fn make_writer_for(&self, meta: &Metadata<'_>) -> LineWriter {
        LineWriter { urgent: *meta.level() <= Level::WARN }
    }
}

/// Writes one line.
#[derive(Debug)]
pub(super) struct LineWriter {
    urgent: bool,
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_to(&mut held(), &mut io::stderr(), line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LineWriter {
    fn write_to(&self, held: &mut Option<Vec<u8>>, out: &mut impl Write, line: &[u8]) -> io::Result<usize> {
        if let Some(lines) = held {
            if !self.urgent && lines.len() + line.len() <= MAX_HELD {
                lines.extend_from_slice(line);
                return Ok(line.len());
            }
            out.write_all(lines)?;
            lines.clear();
        }
        out.write_all(line)?;
        Ok(line.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const INFO: LineWriter = LineWriter { urgent: false };
    const WARN: LineWriter = LineWriter { urgent: true };

    #[test]
    fn a_warning_brings_out_the_lines_that_were_held_back_before_it() {
        let (mut held, mut out) = (Some(Vec::new()), Vec::new());
        INFO.write_to(&mut held, &mut out, b"one\n").unwrap();
        assert!(out.is_empty());
        WARN.write_to(&mut held, &mut out, b"two\n").unwrap();
        assert_eq!(out, b"one\ntwo\n");
        INFO.write_to(&mut held, &mut out, b"three\n").unwrap();
        assert_eq!((out.as_slice(), held.as_deref()), (b"one\ntwo\n".as_slice(), Some(b"three\n".as_slice())));
        INFO.write_to(&mut None, &mut out, b"four\n").unwrap();
        assert!(out.ends_with(b"two\nfour\n"));
    }

    #[test]
    fn lines_that_are_held_back_are_bounded_and_none_is_lost() {
        let (mut held, mut out) = (Some(Vec::new()), Vec::new());
        let line = [b'x'; 1000];
        for _ in 0..100 {
            INFO.write_to(&mut held, &mut out, &line).unwrap();
            assert!(held.as_ref().unwrap().len() <= MAX_HELD);
        }
        assert_eq!(out.len() + held.unwrap().len(), 100 * line.len());
    }
}
