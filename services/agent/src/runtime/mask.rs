//! Hiding secrets in what agents write.

use hoistway_model::{Secret, redact::MASK};

/// Shorter values ("1", "true", "dev") are not masked: hiding them would only make logs unreadable.
const MIN_LEN: usize = 6;

/// Replaces known secrets by [`MASK`]. A secret of several lines is also known by each of them.
#[derive(Default)]
pub struct Masker {
    /// The secrets by their first byte, so that a text is searched in one pass.
    by_first: std::collections::HashMap<u8, Vec<Box<[u8]>>>,
    longest: usize,
}

impl Masker {
    /// Knows these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut masker = Self::default();
        for secret in secrets {
            let text = secret.expose();
            let lines = text.split(['\n', '\r']).map(str::trim);
            for part in std::iter::once(text).chain(std::iter::once(text.trim())).chain(lines) {
                masker.add(part.as_bytes());
            }
        }
        for known in masker.by_first.values_mut() {
            known.sort_by_key(|part| std::cmp::Reverse(part.len()));
        }
        masker
    }

    fn add(&mut self, part: &[u8]) {
        if let Some(&first) = part.first()
            && part.len() >= MIN_LEN
        {
            let known = self.by_first.entry(first).or_default();
            if known.iter().all(|k| **k != *part) {
                known.push(part.into());
                self.longest = self.longest.max(part.len());
            }
        }
    }

    /// The length of the longest text that is hidden.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// The text without secrets.
    pub fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.prefix(text.as_bytes(), text.len())).into_owned()
    }

    /// The first `limit` bytes of `text` without secrets. The rest is looked at too, so a secret that lies across the
    /// limit is hidden.
    pub(crate) fn prefix(&self, text: &[u8], limit: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(limit.min(text.len()));
        // Up to where the text is known to be secret: overlapping secrets are one masked stretch.
        let mut hidden = 0;
        for (at, &byte) in text.iter().enumerate().take(limit) {
            let rest = &text[at..];
            let found = self.by_first.get(&byte).and_then(|known| known.iter().find(|part| rest.starts_with(part)));
            if let Some(part) = found {
                if at >= hidden {
                    out.extend_from_slice(MASK.as_bytes());
                }
                hidden = hidden.max(at + part.len());
            }
            if at >= hidden {
                out.push(byte);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn masker(secrets: &[&str]) -> Masker {
        Masker::new(&secrets.iter().map(|s| Secret::new(*s)).collect::<Vec<_>>())
    }

    #[test]
    fn every_occurrence_goes_and_the_rest_stays() {
        let m = masker(&["hunter22", "1", "hunter22-long"]);
        assert_eq!(m.text("a hunter22, hunter22-long: 1"), "a ********, ********: 1");
        assert_eq!(m.text("ünïcode hunter2"), "ünïcode hunter2");
    }

    #[test]
    fn overlapping_secrets_leave_nothing() {
        assert_eq!(masker(&["abcdefgh", "efghijkl"]).text("<abcdefghijkl>"), "<********>");
        assert_eq!(masker(&["ababab"]).text("xabababab!"), "x********!");
    }

    #[test]
    fn a_secret_of_several_lines_is_known_by_each() {
        let m = masker(&["-----BEGIN-----\n  c2VjcmV0\r\nxyz\n"]);
        assert_eq!(m.text("c2VjcmV0 xyz"), "******** xyz");
    }

    #[test]
    fn a_secret_across_the_limit_is_hidden() {
        let m = masker(&["hunter22"]);
        assert_eq!(m.prefix(b"123 hunter22 and more", 8), b"123 ********");
        assert_eq!(m.prefix(b"123 hunter22 and more", 3), b"123");
    }
}
