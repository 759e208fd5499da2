//! Secret strings that are never shown by accident, and masking of secrets in texts.

use crate::Error;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    fmt,
};

/// The replacement of a secret.
pub const MASK: &str = "********";

/// The beginning of a key in PEM format.
const KEY_FILE: &str = "-----BEGIN ";

/// The bytes of secrets, shortest first, that are masked in every form. Keys and key files are far below it; with more,
/// texts would be searched for too many forms.
const IN_ALL_FORMS: usize = 16 << 10;

/// A secret text. `Debug` shows a mask; there is no `Display`; access is explicit by [`Secret::expose`].
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself. Each use is a place where a secret may leak.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Replaces known secrets by [`MASK`]. A secret of several lines is also matched by each line, and each of them in the
/// forms in which programs print texts: as JSON, also within JSON, as Python's `repr` and `ascii`, of its bytes too,
/// encoded for a URL or repaired in one, and as HTML; very long ones are not matched in the rarer of these. Of one in
/// the form `:password@` only the part between these two is replaced, so that the URL around it stays readable.
///
/// Values of fewer than four characters are not masked, and neither are lines that are plain words and numbers of up to
/// five ("true", "info", "8080"): hiding them would hide nothing and make logs unreadable.
#[derive(Debug, Default)]
pub struct Masker {
    /// The secrets by their first byte, so that a text is searched in one pass.
    by_first: HashMap<u8, Vec<Box<[u8]>>>,
    longest: usize,
}

impl Masker {
    /// Prepares the masking of these secrets. Large ones take a while.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut masker = Self::default();
        let mut secrets: Vec<&str> = secrets.into_iter().map(Secret::expose).collect();
        secrets.sort_unstable_by_key(|text| text.len());
        let (mut parts, mut bytes) = (HashSet::new(), 0);
        for text in secrets {
            bytes += text.len();
            let forms = if bytes <= IN_ALL_FORMS { all_forms } else { usual_forms };
            // A key with line ends written as `\n` is used with real ones.
            let unescaped = if text.contains(KEY_FILE) { text.replace("\\n", "\n") } else { String::new() };
            let lines = text.split(['\n', '\r']).chain(unescaped.split('\n'));
            let lines = lines.map(str::trim).filter(|line| is_worth_hiding(line));
            let whole = [text, text.trim()].into_iter().filter(|text| is_in_url(text.as_bytes()) || is_long(text));
            for part in whole.chain(lines) {
                parts.extend(forms(part));
            }
        }
        for part in parts {
            masker.longest = masker.longest.max(part.len());
            if let Some(&first) = part.as_bytes().first() {
                masker.by_first.entry(first).or_default().push(part.into_bytes().into());
            }
        }
        for known in masker.by_first.values_mut() {
            known.sort_by_key(|part| std::cmp::Reverse(part.len()));
        }
        masker
    }

    /// Masks the public part of an error.
    pub fn error(&self, mut error: Error) -> Error {
        error.message = self.text(&error.message);
        for line in &mut error.details {
            *line = self.text(line);
        }
        error
    }

    /// Returns the length of the longest text that is hidden, in bytes.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Returns the length of the beginning of an incomplete text that may be shown before the rest arrives. It includes
    /// nothing of a secret that may have begun, and does not end within a complete one.
    pub fn settled(&self, text: &[u8]) -> usize {
        let known = |at: usize| self.by_first.get(&text[at]).into_iter().flatten();
        let window = |end: usize| end.saturating_sub(self.longest)..end;
        let begun = |&at: &usize| known(at).any(|part| part.len() > text.len() - at && part.starts_with(&text[at..]));
        let mut end = window(text.len()).find(begun).unwrap_or(text.len());
        let across =
            |at: usize, end: usize| known(at).any(|part| at + part.len() > end && text[at..].starts_with(part));
        while let Some(at) = window(end).find(|&at| across(at, end)) {
            end = at;
        }
        end
    }

    /// Masks a text.
    pub fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.prefix(text.as_bytes(), text.len())).into_owned()
    }

    /// Masks the first `limit` bytes of `text`. The rest is examined too, so that a secret across the limit is hidden.
    pub fn prefix(&self, text: &[u8], limit: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(limit.min(text.len()));
        // The end of the secret text so far: overlapping secrets become one mask.
        let mut hidden = 0;
        for (at, &byte) in text.iter().enumerate().take(limit) {
            let rest = &text[at..];
            let found = self.by_first.get(&byte).and_then(|known| known.iter().find(|part| rest.starts_with(part)));
            if let Some(part) = found {
                let in_url = usize::from(is_in_url(part));
                if at >= hidden {
                    out.extend_from_slice(&part[..in_url]);
                    out.extend_from_slice(MASK.as_bytes());
                }
                hidden = hidden.max(at + part.len() - in_url);
            }
            if at >= hidden {
                out.push(byte);
            }
        }
        out
    }
}

fn is_long(text: &str) -> bool {
    text.chars().nth(3).is_some()
}

/// Whether masking a value is useful.
pub(crate) fn is_worth_hiding(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase()) || text.bytes().all(|b| b.is_ascii_digit());
    is_long(text) && !(plain && text.len() < 6)
}

/// Whether it is a password with the delimiters around it in a URL.
fn is_in_url(text: &[u8]) -> bool {
    matches!(text, [b':', _, .., b'@'])
}

/// The characters encoded in a URL: all but the unreserved ones of RFC 3986.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same for Python's `quote`.
const IN_PATHS: &AsciiSet = &UNRESERVED.remove(b'/');
/// The same for JavaScript's `encodeURIComponent`.
const IN_SCRIPTS: &AsciiSet = &UNRESERVED.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');
/// The same for the repair of a whole URL, as in `requests`: characters with a meaning in URLs stay.
const IN_QUERIES: &AsciiSet = &IN_SCRIPTS
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'?')
    .remove(b'@');
/// The same if each `%` of the URL seems to begin an escape.
const IN_ENCODED_QUERIES: &AsciiSet = &IN_QUERIES.remove(b'%');
/// The same for `requests.utils.requote_uri` alone.
const IN_URLS: &AsciiSet = &IN_ENCODED_QUERIES.remove(b'#').remove(b'[').remove(b']');

/// Escapes a non-ASCII character.
type Escape = fn(char, &mut String);

/// JSON writes characters beyond the basic plane as two units, Python as one number.
const JSON: Escape = |c, out| {
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
};
const PYTHON: Escape = |c, out| {
    out.push_str(&match u32::from(c) {
        n @ 0..=0xff => format!("\\x{n:02x}"),
        n @ 0..=0xffff => format!("\\u{n:04x}"),
        n => format!("\\U{n:08x}"),
    });
};
const BYTES: Escape = |c, out| {
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        out.push_str(&format!("\\x{byte:02x}"));
    }
};

fn escaped(text: &str, quote: Option<char>, ascii: Option<Escape>) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if Some(c) == quote => out.extend(['\\', c]),
            c if !c.is_ascii() => match ascii {
                Some(write) => write(c, &mut out),
                None => out.push(c),
            },
            c => out.push(c),
        }
    }
    out
}

const QUOTES: [Option<char>; 3] = [None, Some('"'), Some('\'')];

/// Returns a text as it is and in the forms in which programs print it.
fn usual_forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_owned()];
    for quote in QUOTES {
        forms.extend([None, Some(JSON), Some(PYTHON)].map(|ascii| escaped(text, quote, ascii)));
    }
    forms
}

/// Returns the same and the rarer escaped forms.
fn all_forms(text: &str) -> Vec<String> {
    let mut forms = usual_forms(text);
    forms.extend(QUOTES.map(|quote| escaped(text, quote, Some(BYTES))));
    forms.extend([None, Some(JSON)].map(|ascii| escaped(&escaped(text, Some('"'), ascii), Some('"'), None)));
    for kept in [UNRESERVED, IN_PATHS, IN_SCRIPTS] {
        let encoded = utf8_percent_encode(text, kept).to_string();
        forms.extend([encoded.replace("%20", "+"), encoded]);
    }
    forms.extend([IN_QUERIES, IN_ENCODED_QUERIES, IN_URLS].map(|kept| utf8_percent_encode(text, kept).to_string()));
    let html = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Python's `html.escape` and Jinja write quotes differently.
    forms.extend(
        [("&quot;", "&#x27;"), ("&#34;", "&#39;")]
            .map(|(double, single)| html.replace('"', double).replace('\'', single)),
    );
    forms.push(html);
    forms
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn debug_shows_the_mask() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), format!("Some({MASK})"));
    }

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
        let m = masker(&[r"-----BEGIN KEY-----\nMIIEvQIBADAN\nc2VjcmV0\n-----END KEY-----\n"]);
        assert_eq!(m.text("MIIEvQIBADAN\nc2VjcmV0\n"), "********\n********\n");
    }

    #[test]
    fn a_secret_across_the_limit_is_hidden() {
        let m = masker(&["hunter22"]);
        assert_eq!(m.prefix(b"123 hunter22 and more", 8), b"123 ********");
        assert_eq!(m.prefix(b"123 hunter22 and more", 3), b"123");
    }

    #[test]
    fn a_possible_beginning_of_a_secret_is_held_back() {
        let m = masker(&["abcdefgh", "efghijkl", "abcdefgh-long"]);
        for (text, settled) in [
            ("", 0),
            ("plain", 5),
            ("x abc", 2),
            ("x abcd abc", 7),
            ("x abcde!", 8),
            // Complete, but it may become the longer one, or be overlapped by another.
            ("x abcdefgh", 2),
            ("x abcdefgh!", 11),
            ("x abcdefghij", 2),
            ("x efghijkl", 10),
            ("abcdefgh-lon", 0),
        ] {
            assert_eq!(m.settled(text.as_bytes()), settled, "{text}");
        }
        assert_eq!(masker(&[]).settled(b"plain"), 5);
    }

    #[test]
    fn escaped_forms_are_hidden_too() {
        let m = masker(&["geh\u{e9}im \"x\"\\", "a\u{1f600}b\u{1f600}"]);
        for shown in [r#""gehéim \"x\"\\""#, r#"'gehéim "x"\\'"#, r#""geh\u00e9im \"x\"\\""#, r#"'geh\xe9im "x"\\'"#]
        {
            let hidden = m.text(shown);
            assert!(!hidden.contains("im"), "{shown} became {hidden}");
        }
        for shown in
            [r#"b'geh\xc3\xa9im "x"\\'"#, r#""{\"p\": \"geh\\u00e9im \\\"x\\\"\\\\\"}""#, "?k=geh%C3%A9im+%22x%22%5C"]
        {
            let hidden = m.text(shown);
            assert!(!hidden.contains("im"), "{shown} became {hidden}");
        }
        let m2 = masker(&["Zm9v/YmFy+cXV4=="]);
        assert_eq!(m2.text("?a=Zm9v%2FYmFy%2BcXV4%3D%3D&b=Zm9v/YmFy%2BcXV4%3D%3D"), "?a=********&b=********");
        assert_eq!(m.text(r"a\ud83d\ude00b\ud83d\ude00 a\U0001f600b\U0001f600"), "******** ********");
    }

    #[test]
    fn what_programs_make_of_a_secret_in_a_url_or_a_page_is_hidden() {
        for (secret, shown) in [
            // The forms in errors of `requests` and `requote_uri`.
            ("sunny day+1/2", "/x?api_key=sunny%20day+1/2&b=1"),
            ("a[b] c%zz", "/x?api_key=a%5Bb%5D%20c%25zz&b=1"),
            ("a%20b c", "/x?api_key=a%20b%20c&b=1"),
            ("a[b]# c%20", "/x?api_key=a[b]#%20c%20&b=1"),
            ("geh\u{e9}im~!$&'()*;=:@,?", "/x?api_key=geh%C3%A9im~!$&'()*;=:@,?&b=1"),
            ("a<b>&\"c'", "/x?api_key=a&lt;b&gt;&amp;&quot;c&#x27;&b=1"),
            ("a<b>&\"c'", "/x?api_key=a&lt;b&gt;&amp;&#34;c&#39;&b=1"),
            ("a<b>&\"c'", "/x?api_key=a&lt;b&gt;&amp;\"c'&b=1"),
        ] {
            assert_eq!(masker(&[secret]).text(shown), "/x?api_key=********&b=1", "{shown}");
        }
    }

    #[test]
    fn each_line_of_a_large_secret_is_known_once_and_short_secrets_beside_it_in_all_forms() {
        let value = (0..12_500).map(|n| format!("a+/{n:05}\n")).collect::<String>();
        let m = masker(&[&value, &value, "Zm9v/YmFy+cXV4=="]);
        assert_eq!(m.text("a+/00000 a+/12499 Zm9v%2FYmFy%2BcXV4%3D%3D"), "******** ******** ********");
        // The lines, the value as it is, trimmed and both with escaped line ends.
        let known = |first: u8| m.by_first.get(&first).map_or(0, Vec::len);
        assert_eq!(known(b'a'), 12_500 + 4);
    }

    #[test]
    fn short_texts_and_lines_of_plain_words_are_no_secrets() {
        let m = masker(&["abcd5", "abc", "tiger", " ", "{\ninfo\n8080\nsecret\n}"]);
        assert_eq!(m.text("{ info 8080 abcd5 abc tiger secret }"), "{ info 8080 ******** abc ******** ******** }");
    }

    #[test]
    fn around_a_password_in_a_url_the_url_stays() {
        let m = masker(&[":pw@", ":postgres@"]);
        assert_eq!(m.text("redis://:pw@host has pw"), "redis://:********@host has pw");
        let url = "postgres://postgres:postgres@db";
        assert_eq!(m.text(url), "postgres://postgres:********@db");
        assert_eq!(m.prefix(url.as_bytes(), 21), b"postgres://postgres:********");
        assert_eq!(masker(&[":pw@", "pw@host"]).text("//:pw@host/x"), "//:********/x");
    }
}
