//! The lines of one build: bounded, and readable while they are written.

use hoistway_model::{Error, redact::Masker};
use std::sync::{Arc, Mutex, PoisonError};

/// How many lines are kept; of a longer log the first and the last ones.
const MAX_LINES: usize = 2_000;
/// The longest line, in characters.
const MAX_LINE: usize = 2_000;

/// A build's log. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct BuildLog(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    masker: Masker,
    lines: Vec<String>,
    dropped: usize,
}

impl BuildLog {
    /// An empty log that hides what `masker` knows.
    pub fn new(masker: Masker) -> Self {
        Self(Arc::new(Mutex::new(Lines { masker, ..Lines::default() })))
    }

    /// An error without what this log hides.
    pub fn masked(&self, error: Error) -> Error {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).masker.error(error)
    }

    /// Adds one or more lines.
    pub fn say(&self, text: impl AsRef<str>) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = log.masker.text(text.as_ref());
        for line in text.lines() {
            let line = match line.char_indices().nth(MAX_LINE) {
                Some((end, _)) => format!("{} …", &line[..end]),
                None => line.to_owned(),
            };
            if log.lines.len() == MAX_LINES {
                log.lines.remove(MAX_LINES / 2);
                log.dropped += 1;
            }
            log.lines.push(line);
        }
    }

    /// What is kept of it.
    pub fn lines(&self) -> Vec<String> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = log.lines.clone();
        if log.dropped > 0 {
            lines.insert(MAX_LINES / 2, format!("… {} lines left out …", log.dropped));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_long_log_keeps_both_ends() {
        let log = BuildLog::default();
        for i in 0..MAX_LINES + 10 {
            log.say(i.to_string());
        }
        let lines = log.lines();
        assert_eq!(lines.len(), MAX_LINES + 1);
        assert_eq!((lines[0].as_str(), lines[MAX_LINES].as_str()), ("0", "2009"));
        assert_eq!(lines[MAX_LINES / 2], "… 10 lines left out …");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let log = BuildLog::default();
        log.say("ä".repeat(MAX_LINE + 1));
        assert_eq!(log.lines()[0].chars().count(), MAX_LINE + 2);
    }
}
