//! Following records of another service: first all of them, then their changes.

use crate::Result;
use std::pin::Pin;

/// One step of following records. First every record that there is comes as [`Update::Set`], then
/// [`Update::Complete`], then each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update<K, V> {
    /// The record is new, or has changed.
    Set(K, V),
    /// The record is gone.
    Removed(K),
    /// Everything that there is has been sent.
    Complete,
}

impl<K, V> Update<K, V> {
    /// The same with another form of the record.
    pub fn map<W>(self, form: impl FnOnce(V) -> W) -> Update<K, W> {
        match self {
            Self::Set(key, record) => Update::Set(key, form(record)),
            Self::Removed(key) => Update::Removed(key),
            Self::Complete => Update::Complete,
        }
    }
}

/// A subscription to records. Whoever loses it subscribes again: what is not sent before [`Update::Complete`] then is
/// gone.
pub type Updates<K, V> = Pin<Box<dyn futures_core::Stream<Item = Result<Update<K, V>>> + Send>>;
