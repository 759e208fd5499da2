//! Names of agents, tools and model providers: DNS labels of RFC 1123, because they become host names,
//! repository names and Kubernetes objects.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest name, in characters (RFC 1123 label).
pub const MAX_LEN: usize = 63;

/// A valid RFC 1123 label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Parses `text`; the error names `field` and a valid suggestion.
    pub fn parse(field: &str, text: &str) -> Result<Self, Error> {
        if is_label(text) {
            return Ok(Self(text.to_owned()));
        }
        let hint = match suggest(text) {
            Some(better) => format!("; \"{better}\" would do"),
            None => "; \"my-agent\" would do".to_owned(),
        };
        Err(Error::field(
            field,
            format!(
                "\"{}\" is not a valid name: use at most {MAX_LEN} lower-case letters, digits and '-', \
                 beginning and ending with a letter or digit{hint}",
                text.escape_debug()
            ),
        ))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name for use in environment variables: `stripe-api` is `STRIPE_API`.
    pub fn env_suffix(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            bytes.len() <= MAX_LEN && inner(first) && inner(last) && bytes.iter().all(|&b| inner(b) || b == b'-')
        }
        _ => false,
    }
}

/// Returns the nearest valid name, if any character of the text is usable.
fn suggest(text: &str) -> Option<String> {
    let mut out = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(MAX_LEN);
    let out = out.trim_end_matches('-').to_owned();
    is_label(&out).then_some(out)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse("name", &text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn labels_only() {
        for good in ["a", "a1", "payment-agent", "0", &"a".repeat(63)] {
            assert!(Name::parse("agent_name", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", &"a".repeat(64)] {
            assert!(Name::parse("agent_name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_names_the_field_and_a_name_that_would_do() {
        let e = Name::parse("agent_name", "Bad Name!").unwrap_err();
        assert_eq!(e.field.as_deref(), Some("agent_name"));
        assert!(e.message.contains("\"bad-name\" would do"), "{e}");
    }
}
