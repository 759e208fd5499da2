//! A string that is never shown by accident.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What stands where a secret would.
pub const MASK: &str = "********";

/// A secret text. `Debug` shows a mask; there is no `Display`; reading it is spelt [`Secret::expose`].
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Each use is a place where a secret may leave.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn debug_shows_the_mask() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), format!("Some({MASK})"));
    }
}
