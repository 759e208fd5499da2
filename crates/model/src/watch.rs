//! Following records of another service: first all of them, then their changes.

use crate::Result;
use std::pin::Pin;

/// An item of a subscription. First every existing record comes as [`Update::Set`], then [`Update::Complete`], then
/// each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update<K, V> {
    /// The record is new or changed.
    Set(K, V),
    /// The record was removed.
    Removed(K),
    /// All existing records have been sent.
    Complete,
}

impl<K, V> Update<K, V> {
    /// Converts the record.
    pub fn map<W>(self, form: impl FnOnce(V) -> W) -> Update<K, W> {
        match self {
            Self::Set(key, record) => Update::Set(key, form(record)),
            Self::Removed(key) => Update::Removed(key),
            Self::Complete => Update::Complete,
        }
    }
}

/// A subscription to records. A client that loses it subscribes again: records not sent before [`Update::Complete`] no
/// longer exist then.
pub type Updates<K, V> = Pin<Box<dyn futures_core::Stream<Item = Result<Update<K, V>>> + Send>>;
