//! Reads JSON as its bytes pass, in constant memory, and reports the values at their paths. Nothing is held back or
//! kept, and nothing is checked: what is no JSON tells something or nothing.

/// The depth to which members are reported by name; what lies deeper is passed over.
const DEPTH: usize = 8;
/// The longest name, and the longest text that is reported whole.
const SHORT: usize = 32;

/// The name of a member, as far as anybody asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// An element of a list.
    Element,
    Other,
    Usage,
    Response,
    Message,
    Choices,
    Delta,
    Error,
    Type,
    Stream,
    StreamOptions,
    IncludeUsage,
    PromptTokens,
    CompletionTokens,
    InputTokens,
    OutputTokens,
    InputDetails,
    CachedTokens,
    CacheReadTokens,
    CacheCreationTokens,
    TotalTokens,
    /// One of the members that hold what a model reads or writes.
    Text,
}

impl Key {
    fn of(name: &[u8]) -> Self {
        match name {
            b"usage" => Self::Usage,
            b"response" => Self::Response,
            b"message" => Self::Message,
            b"choices" => Self::Choices,
            b"delta" => Self::Delta,
            b"error" => Self::Error,
            b"type" => Self::Type,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"include_usage" => Self::IncludeUsage,
            b"prompt_tokens" => Self::PromptTokens,
            b"completion_tokens" => Self::CompletionTokens,
            b"input_tokens" => Self::InputTokens,
            b"output_tokens" => Self::OutputTokens,
            b"prompt_tokens_details" | b"input_tokens_details" => Self::InputDetails,
            b"cached_tokens" => Self::CachedTokens,
            b"cache_read_input_tokens" => Self::CacheReadTokens,
            b"total_tokens" => Self::TotalTokens,
            b"cache_creation_input_tokens" => Self::CacheCreationTokens,
            b"content" | b"text" | b"input" | b"prompt" | b"instructions" | b"system" | b"arguments"
            | b"description" | b"output" | b"reasoning" | b"reasoning_content" | b"thinking" | b"partial_json"
            | b"refusal" => Self::Text,
            _ => Self::Other,
        }
    }
}

/// A value that the scanner found, at the path of names that leads there. `at` is the offset of its first byte.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// An object or a list begins.
    Open { path: &'a [Key], at: u64 },
    /// A whole number, also one that is written with zeros after a point.
    Number { path: &'a [Key], value: u64 },
    /// `true`, `false` or `null`, by its first letter.
    Literal { path: &'a [Key], first: u8, at: u64 },
    /// A text, or a part of one, of so many bytes. `short` is the whole text if it is short and has no escapes.
    Text { path: &'a [Key], bytes: u64, short: &'a [u8] },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Name {
        escaped: bool,
    },
    Text {
        escaped: bool,
    },
    Number,
    /// The zeros after the point of a whole number.
    Zeros,
    /// The rest of a number that is not reported.
    Fraction,
}

#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    depth: usize,
    path: [Key; DEPTH],
    /// Whether what is open at each depth is an object.
    objects: [bool; DEPTH],
    /// Whether the next text is a name.
    wants_name: bool,
    short: [u8; SHORT],
    /// Bytes of the text so far, and how many of them were reported.
    length: u64,
    reported: u64,
    has_escapes: bool,
    number: u64,
    at: u64,
    /// Whether an object or a list began, and whether there is something beside it.
    has_begun: bool,
    is_nonsense: bool,
}

impl Scanner {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Between,
            depth: 0,
            path: [Key::Other; DEPTH],
            objects: [false; DEPTH],
            wants_name: false,
            short: [0; SHORT],
            length: 0,
            reported: 0,
            has_escapes: false,
            number: 0,
            at: 0,
            has_begun: false,
            is_nonsense: false,
        }
    }

    /// Reads on, and tells what comes to `found`.
    pub(super) fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Found<'_>)) {
        let mut rest = bytes;
        while let [byte, tail @ ..] = rest {
            match self.state {
                State::Name { escaped: false } | State::Text { escaped: false } => {
                    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
                    let (text, after) = rest.split_at(end);
                    self.keep(text);
                    rest = after;
                    self.at += end as u64;
                    let [special, tail @ ..] = rest else { continue };
                    rest = tail;
                    self.at += 1;
                    self.within_text(*special, &mut found);
                    continue;
                }
                State::Name { escaped: true } => self.state = State::Name { escaped: false },
                State::Text { escaped: true } => self.state = State::Text { escaped: false },
                State::Number if byte.is_ascii_digit() => {
                    self.number = self.number.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                }
                State::Number if *byte == b'.' => self.state = State::Zeros,
                State::Zeros if *byte == b'0' => {}
                State::Number | State::Zeros | State::Fraction
                    if matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') =>
                {
                    self.state = State::Fraction;
                }
                State::Number | State::Zeros => {
                    found(Found::Number { path: self.path(), value: self.number });
                    self.between(*byte, &mut found);
                }
                State::Between | State::Fraction => self.between(*byte, &mut found),
            }
            rest = tail;
            self.at += 1;
        }
        // Whatever comes next, so much of a text has passed.
        if matches!(self.state, State::Text { .. }) && self.length > self.reported && self.is_reported() {
            found(Found::Text { path: self.path(), bytes: self.length - self.reported, short: &[] });
            self.reported = self.length;
        }
    }

    /// Forgets where it is: another document begins.
    pub(super) fn begin_anew(&mut self) {
        (self.state, self.depth, self.wants_name) = (State::Between, 0, false);
    }

    /// Whether an object or a list has begun.
    pub(super) const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether what has come is one object or list, from its beginning to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.has_begun && !self.is_nonsense && self.depth == 0 && self.state == State::Between
    }

    fn path(&self) -> &[Key] {
        &self.path[..self.depth.min(DEPTH)]
    }

    const fn is_reported(&self) -> bool {
        self.depth <= DEPTH
    }

    fn keep(&mut self, text: &[u8]) {
        if let Ok(kept) = usize::try_from(self.length)
            && let Some(room) = self.short.get_mut(kept..)
        {
            let fits = room.len().min(text.len());
            room[..fits].copy_from_slice(&text[..fits]);
        }
        self.length += text.len() as u64;
    }

    /// The quotation mark at the end of a text, or the backslash of an escape.
    fn within_text(&mut self, byte: u8, found: &mut impl FnMut(Found<'_>)) {
        let is_name = matches!(self.state, State::Name { .. });
        if byte == b'\\' {
            // Escapes are not read: a text with one is none that is requested.
            self.has_escapes = true;
            self.length += 1;
            self.state = if is_name { State::Name { escaped: true } } else { State::Text { escaped: true } };
            return;
        }
        self.state = State::Between;
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let short = self.short.get(..length).filter(|_| !self.has_escapes).unwrap_or_default();
        if is_name {
            self.wants_name = false;
            if let Some(last) = self.depth.checked_sub(1).and_then(|last| self.path.get_mut(last)) {
                *last = Key::of(short);
            }
        } else if self.is_reported() {
            found(Found::Text { path: &self.path[..self.depth], bytes: self.length - self.reported, short });
        }
    }

    fn between(&mut self, byte: u8, found: &mut impl FnMut(Found<'_>)) {
        self.state = State::Between;
        if self.depth == 0 && !byte.is_ascii_whitespace() {
            // A byte order mark may stand before it.
            let is_first = !self.has_begun && matches!(byte, b'{' | b'[' | 0xef | 0xbb | 0xbf);
            self.is_nonsense |= !is_first;
        }
        match byte {
            b'{' | b'[' => {
                self.has_begun = true;
                if self.is_reported() {
                    found(Found::Open { path: self.path(), at: self.at });
                }
                let is_object = byte == b'{';
                if let (Some(key), Some(object)) = (self.path.get_mut(self.depth), self.objects.get_mut(self.depth)) {
                    (*key, *object) = (if is_object { Key::Other } else { Key::Element }, is_object);
                }
                self.depth += 1;
                self.wants_name = is_object && self.is_reported();
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.wants_name = false;
            }
            b',' => {
                let open = self.depth.checked_sub(1).and_then(|last| self.objects.get(last));
                self.wants_name = open.copied().unwrap_or(false);
            }
            b'"' => {
                (self.length, self.reported, self.has_escapes) = (0, 0, false);
                let escaped = false;
                self.state = if self.wants_name { State::Name { escaped } } else { State::Text { escaped } };
            }
            b'0'..=b'9' if self.is_reported() => {
                self.number = u64::from(byte - b'0');
                self.state = State::Number;
            }
            b'-' => self.state = State::Fraction,
            b't' | b'f' | b'n' if self.is_reported() => {
                found(Found::Literal { path: self.path(), first: byte, at: self.at });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values found in a document that comes in pieces of so many bytes, one a line.
    fn reported(text: &str, piece: usize) -> Vec<String> {
        let (mut scanner, mut lines) = (Scanner::new(), Vec::new());
        for piece in text.as_bytes().chunks(piece) {
            scanner.read(piece, |found| match found {
                Found::Open { path, at } => lines.push(format!("{path:?} opens at {at}")),
                Found::Number { path, value } => lines.push(format!("{path:?} = {value}")),
                Found::Literal { path, first, at } => lines.push(format!("{path:?} {} at {at}", char::from(first))),
                Found::Text { path, bytes, .. } => lines.push(format!("{path:?} text of {bytes}")),
            });
        }
        lines
    }

    #[test]
    fn members_are_reported_with_their_path() {
        let text = r#"{"usage": {"prompt_tokens": 12, "x": [1, {"usage": true}]}, "id": "a", "stream": null}"#;
        assert_eq!(
            reported(text, 1000),
            [
                "[] opens at 0",
                "[Usage] opens at 10",
                "[Usage, PromptTokens] = 12",
                "[Usage, Other] opens at 37",
                "[Usage, Other, Element] = 1",
                "[Usage, Other, Element] opens at 41",
                "[Usage, Other, Element, Usage] t at 51",
                "[Other] text of 1",
                "[Stream] n at 81",
            ]
        );
    }

    #[test]
    fn numbers_and_names_come_in_pieces_of_any_size() {
        let text =
            r#"{"a":"\"usage\":{","usage":{"input_tokens":1234,"output_tokens":5.5,"cached_tokens":-1},"b\u0020":6}"#;
        let numbers = |piece| {
            let lines = reported(text, piece);
            lines.into_iter().filter(|line| line.contains('=')).collect::<Vec<_>>()
        };
        for piece in 1..text.len() {
            assert_eq!(numbers(piece), ["[Usage, InputTokens] = 1234", "[Other] = 6"], "pieces of {piece}");
        }
    }

    #[test]
    fn members_nested_too_deep_are_skipped() {
        let deep = format!("{{\"a\":{}{{\"usage\":1}}{},\"usage\":2}}", "[".repeat(20), "]".repeat(20));
        let lines = reported(&deep, 7);
        assert_eq!(lines.last().map(String::as_str), Some("[Usage] = 2"));
        assert_eq!(lines.iter().filter(|line| line.contains('=')).count(), 1);
    }

    #[test]
    fn zeros_after_the_point_leave_a_number_whole() {
        let text = r#"{"usage":{"input_tokens":10.0,"output_tokens":20.00,"cached_tokens":1.50}}"#;
        for piece in 1..text.len() {
            let lines = reported(text, piece);
            let numbers: Vec<_> = lines.iter().filter(|line| line.contains('=')).collect();
            assert_eq!(numbers, ["[Usage, InputTokens] = 10", "[Usage, OutputTokens] = 20"], "pieces of {piece}");
        }
    }

    #[test]
    fn a_document_is_whole_or_not() {
        let is_whole = |text: &str| {
            let mut scanner = Scanner::new();
            scanner.read(text.as_bytes(), |_| {});
            scanner.is_whole()
        };
        for text in ["{}", " [1, {\"a\": \"]\"}]\n", "\u{feff}{\"a\": 1.0}"] {
            assert!(is_whole(text), "{text}");
        }
        for text in ["", "{\"a\": 1", "{\"a\": \"}", "<html>{}</html>", "{}{}", "{} x", "]", "busy", "[[]"] {
            assert!(!is_whole(text), "{text}");
        }
    }

    #[test]
    fn malformed_documents_do_not_panic() {
        for text in ["]]}}\"", "{{{{,,::\"\\", "data: 1", "\u{0}", "{\"usage\":"] {
            reported(text, 1);
        }
    }
}
