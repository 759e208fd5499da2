//! Columns of rows: texts and numbers as what they stand for.

use hoistway_model::{Error, Name, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Display, str::FromStr};

const READING: &str = "reading a record";

/// `value` as the text of a column.
pub(super) fn write(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("writing a record", e))
}

/// The value that [`write`] wrote.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::internal(READING, e))
}

/// The value that a text of a row represents.
pub(super) fn parse<T: FromStr>(text: &str) -> Result<T>
where
    T::Err: Display,
{
    text.parse().map_err(|e: T::Err| Error::internal(READING, e.to_string()))
}

/// The name in a row.
pub(super) fn name(text: String) -> Result<Name> {
    Name::try_from(text).map_err(|e| Error::internal(READING, e))
}

/// The number in a row.
pub(super) fn number(stored: i64) -> Result<u32> {
    u32::try_from(stored).map_err(|e| Error::internal(READING, e))
}
