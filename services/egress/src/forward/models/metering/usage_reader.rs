//! The usage that an answer states, and the amount of text that it has.

use super::scanner::{Found, Key};
use hoistway_model::usage::UsageSums;

/// More tokens than any call has; a provider that says so is not believed, so that sums stay sums.
const MOST: u64 = 1_000_000_000;
/// The number of bytes of text that are taken for a token where the provider does not say how many there were.
const BYTES_PER_TOKEN: u64 = 4;
/// The types of events after which nothing comes.
const LAST: [&[u8]; 4] = [b"message_stop", b"response.completed", b"response.incomplete", b"response.failed"];

/// The estimate of the tokens in so many bytes.
pub(super) const fn estimate(bytes: u64) -> u64 {
    let tokens = bytes.div_ceil(BYTES_PER_TOKEN);
    if tokens < MOST { tokens } else { MOST }
}

/// The state of reading an answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
    /// Input and output together, which some servers say alone.
    total: Option<u64>,
    /// The length of the text when tokens were stated last.
    text_then: u64,
    /// Tokens that count beside the input of the Messages API, not within it.
    cache_read: u64,
    cache_creation: u64,
    /// Bytes of what the model wrote.
    pub(super) text: u64,
    /// Whether this document has a list of choices with nothing in it, and whether it has usage.
    choices_empty: bool,
    has_usage: bool,
    /// Whether it said that it is the last one.
    is_last: bool,
    /// The type of the error that came in the place of the rest; empty where none was named.
    error: Option<String>,
}

impl Reading {
    /// Another document of the same answer begins.
    pub(super) fn begin_document(&mut self) {
        (self.choices_empty, self.has_usage, self.is_last) = (false, false, false);
    }

    /// Whether the document is the one that has the usage of a stream and nothing else.
    pub(super) const fn is_usage_alone(&self) -> bool {
        self.choices_empty && self.has_usage
    }

    /// Whether the document said that it is the last one.
    pub(super) const fn is_last(&self) -> bool {
        self.is_last
    }

    /// The type of the error that the provider said, if it said one; empty where it named none.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) fn take(&mut self, found: &Found<'_>) {
        match found {
            Found::Open { path: [Key::Error] | [Key::Response, Key::Error], .. } => {
                self.error.get_or_insert_default();
            }
            Found::Text { path: [Key::Error, Key::Type], short, .. } if is_word(short) => {
                self.error = Some(String::from_utf8_lossy(short).into_owned());
            }
            Found::Open { path: [Key::Choices], .. } => self.choices_empty = true,
            Found::Open { path: [Key::Choices, ..], .. } => self.choices_empty = false,
            Found::Text { path: [Key::Type], short, .. } => self.is_last = LAST.contains(short),
            // The model's text comes as the text of a message, or in pieces.
            Found::Text { path, bytes, .. } if is_text(path) => self.text = self.text.saturating_add(*bytes),
            Found::Number { path, value } => self.number(path, (*value).min(MOST)),
            _ => {}
        }
    }

    fn number(&mut self, path: &[Key], value: u64) {
        let ([Key::Usage, member @ ..] | [Key::Response | Key::Message, Key::Usage, member @ ..]) = path else {
            return;
        };
        match member {
            [Key::PromptTokens | Key::InputTokens] => self.input = Some(value),
            [Key::CompletionTokens | Key::OutputTokens] => self.output = Some(value),
            [Key::TotalTokens] => self.total = Some(value),
            [Key::InputDetails, Key::CachedTokens] => self.cached = Some(value),
            [Key::CacheReadTokens] => self.cache_read = value,
            [Key::CacheCreationTokens] => self.cache_creation = value,
            _ => return,
        }
        self.has_usage = true;
        self.text_then = self.text;
    }

    /// Whether the last word on the tokens came, after all the text.
    pub(super) const fn is_usage_final(&self) -> bool {
        (self.output.is_some() || self.total.is_some()) && self.text_then == self.text
    }

    /// The tokens of the input and of the output that were said, each of which may follow from the total. A total alone
    /// is divided as an estimate would be: its sum is exact.
    fn stated(&self, input: u64) -> (Option<u64>, Option<u64>) {
        let Some(total) = self.total else { return (self.input, self.output) };
        match (self.input, self.output) {
            (None, None) => {
                let (input, output) = (input, estimate(self.text));
                let input = match output {
                    0 => total,
                    _ => total * input / (input + output),
                };
                (Some(input), Some(total - input))
            }
            (Some(input), None) => (Some(input), Some(total.saturating_sub(input))),
            (None, Some(output)) => (Some(total.saturating_sub(output)), Some(output)),
            said => said,
        }
    }

    /// The tokens of the answer, with `input` as an estimate of the request's. An answer that did not come to its end
    /// may have said less than it was.
    pub(super) fn sums(&self, input: u64, is_complete: bool) -> UsageSums {
        let (stated_input, stated_output) = self.stated(input);
        let known = stated_input.is_some() || stated_output.is_some();
        let cached = self.cached.unwrap_or(self.cache_read);
        let written = if known && is_complete { 0 } else { estimate(self.text) };
        let input = match stated_input {
            Some(given) => given.saturating_add(self.cache_read).saturating_add(self.cache_creation),
            None if known => 0,
            None => input,
        };
        UsageSums {
            requests: 1,
            estimated_requests: u64::from(!known || !is_complete),
            input_tokens: input,
            cached_input_tokens: cached.min(input),
            output_tokens: stated_output.unwrap_or_default().max(written),
            ..UsageSums::default()
        }
    }
}

/// Whether records may have it: nothing of a message.
fn is_word(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte))
}

/// Whether a text is what a model reads or writes, at this path.
pub(super) fn is_text(path: &[Key]) -> bool {
    let last = path.iter().rfind(|key| **key != Key::Element);
    matches!(last, Some(Key::Text | Key::Delta))
}

#[cfg(test)]
mod tests {
    use super::{super::scanner::Scanner, *};

    fn read(documents: &[&str]) -> Reading {
        let (mut scanner, mut reading) = (Scanner::new(), Reading::default());
        for document in documents {
            reading.begin_document();
            scanner.begin_anew();
            scanner.read(document.as_bytes(), |found| reading.take(&found));
        }
        reading
    }

    /// Input, cached input and output tokens, and whether they are an estimate.
    fn tokens(documents: &[&str], is_complete: bool) -> (u64, u64, u64, bool) {
        let sums = read(documents).sums(100, is_complete);
        (sums.input_tokens, sums.cached_input_tokens, sums.output_tokens, sums.estimated_requests == 1)
    }

    #[test]
    fn an_error_is_known_by_its_type() {
        let error =
            |document| read(&[r#"{"choices":[{"delta":{"content":"x"}}]}"#, document]).error().map(str::to_owned);
        let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"type: x"}}"#;
        assert_eq!(error(overloaded).as_deref(), Some("overloaded_error"));
        assert_eq!(error(r#"{"error":{"message":"busy","type":"server_error"}}"#).as_deref(), Some("server_error"));
        for untyped in
            [r#"{"error":{"type":"a b"}}"#, r#"{"type":"response.failed","response":{"error":{"code":"x"}}}"#]
        {
            assert_eq!(error(untyped).as_deref(), Some(""), "{untyped}");
        }
        for none in [r#"{"response":{"error":null}}"#, r#"{"error":null}"#, r#"{"choices":[{"error":{"type":"x"}}]}"#] {
            assert_eq!(error(none), None, "{none}");
        }
    }

    #[test]
    fn every_api_says_its_usage_in_its_own_place() {
        let chat = r#"{"choices":[{"message":{"content":"a \"usage\": {\"prompt_tokens\": 9}"}}],"usage":{"prompt_tokens":10,
            "completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        assert_eq!(tokens(&[chat], true), (10, 4, 5, false));
        let embeddings = r#"{"data":[{"embedding":[0.1,0.25]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
        assert_eq!(tokens(&[embeddings], true), (8, 0, 0, false));
        let completed = r#"{"type":"response.completed","response":{"usage":{"input_tokens":7,
            "input_tokens_details":{"cached_tokens":2},"output_tokens":3}}}"#;
        assert_eq!(
            tokens(&[r#"{"type":"response.output_text.delta","delta":"x"}"#, completed], true),
            (7, 2, 3, false)
        );
        let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":25,"cache_read_input_tokens":10,
            "cache_creation_input_tokens":5,"output_tokens":1}}}"#;
        let delta = r#"{"type":"message_delta","usage":{"output_tokens":15}}"#;
        assert_eq!(tokens(&[start, delta, r#"{"type":"message_stop"}"#], true), (40, 10, 15, false));
    }

    #[test]
    fn a_total_says_what_is_missing() {
        assert_eq!(tokens(&[r#"{"data":[],"usage":{"total_tokens":8}}"#], true), (8, 0, 0, false));
        let chat = r#"{"choices":[{"message":{"content":"1234567890123456"}}],"usage":{"total_tokens":26.0}}"#;
        assert_eq!(tokens(&[chat], true), (25, 0, 1, false), "100 to 4");
        assert_eq!(tokens(&[r#"{"usage":{"total_tokens":9,"prompt_tokens":7}}"#], true), (7, 0, 2, false));
        assert_eq!(tokens(&[r#"{"usage":{"total_tokens":9,"completion_tokens":7}}"#], true), (2, 0, 7, false));
    }

    #[test]
    fn missing_usage_is_estimated_from_the_text() {
        let piece = r#"{"choices":[{"delta":{"role":"assistant","content":"12345678"}}],"usage":null}"#;
        assert_eq!(tokens(&[piece, piece], false), (100, 0, 4, true));
        assert_eq!(tokens(&[piece], true), (100, 0, 2, true), "a provider that never says");
        let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}"#;
        let text = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"1234567890123456"}}"#;
        assert_eq!(tokens(&[start, text], false), (25, 0, 4, true), "the last word on the output did not come");
        assert_eq!(tokens(&["no json"], true), (100, 0, 0, true));
    }

    #[test]
    fn the_document_with_the_usage_alone_is_known() {
        let usage = r#"{"usage":{"prompt_tokens":1}"#;
        assert!(read(&[&format!(r#"{usage},"choices":[]}}"#)]).is_usage_alone());
        assert!(!read(&[&format!(r#"{usage},"choices":[{{"index":0}}]}}"#)]).is_usage_alone());
        assert!(!read(&[r#"{"choices":[],"usage":null}"#]).is_usage_alone());
        assert!(!read(&[r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, r#"{"choices":[]}"#]).is_usage_alone());
    }

    #[test]
    fn numbers_that_cannot_be_are_bounded() {
        let (input, _, output, _) =
            tokens(&[r#"{"usage":{"prompt_tokens":99999999999999999999,"completion_tokens":-5}}"#], true);
        assert_eq!((input, output), (MOST, 0));
    }
}
