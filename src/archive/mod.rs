//! Tar files of an installation: a description first, then files under the names that they have in a data directory,
//! and last a list of them with their sizes and digests, so that a truncated or corrupted file is detected. Where the
//! archive has a key, a code of that list follows, which nobody can make without the key.

mod contents;
mod reader;
mod writer;

pub use reader::unpack;
pub use writer::create;

use hoistway_model::{Code, Error};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, ErrorKind},
    path::Path,
};

/// The directory of the registry's blobs. Its files are named by their content's digest and never change.
pub const BLOBS: &str = "build/registry/blobs";

/// A sort of archive.
#[derive(Debug)]
pub struct Kind {
    /// The name of the first entry.
    pub about: &'static str,
    /// The format that this version writes, and the only one that it reads.
    pub format: u32,
    /// For messages: the sort with its article.
    pub named: &'static str,
    /// For messages: what is done with one.
    pub verb: &'static str,
    /// For messages: the same, in progress.
    pub doing: &'static str,
    /// For messages: the reason why an older format is refused.
    pub older: &'static str,
    /// An entry that is always there. In an archive with a key it comes first, and is encrypted with it.
    pub required: &'static str,
    /// Whether there may be a file of this name, outside of [`BLOBS`].
    pub belongs: fn(&Path) -> bool,
}

/// The description of an archive in its first entry.
#[derive(Debug, Serialize, Deserialize)]
pub struct About {
    format: u32,
    /// The version of Hoistway that wrote it.
    pub hoistway: String,
    /// When that was.
    pub created_at: String,
}

/// Makes an error in `map_err` for a file that cannot be written. `doing` is public.
pub fn failed(doing: &str) -> impl FnOnce(io::Error) -> Error {
    move |e| match e.kind() {
        ErrorKind::AlreadyExists => Error::new(Code::Conflict, format!("{doing}: it exists already")),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::new(Code::InsufficientStorage, format!("{doing}: the disk is full"))
        }
        _ => Error::internal(doing, e),
    }
}
