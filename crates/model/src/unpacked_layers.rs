//! Layers of images that are unpacked where they are made: in a process that has both the build and the agent service,
//! so that the one need not pull what the other has just written.

use crate::Digest;
use std::{fmt::Debug, io};

/// The unpacked layers of a machine. Its calls block.
pub trait UnpackedLayers: Debug + Send + Sync {
    /// Begins a layer, whose archive is then written to it.
    fn begin(&self) -> io::Result<Box<dyn UnpackingLayer>>;

    /// The free bytes of the disk that they are on.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A layer whose archive is written to it, without compression. Dropped before its end, it leaves nothing.
pub trait UnpackingLayer: io::Write + Send {
    /// Ends the archive, which must have the digest `diff_id`, and keeps the layer as that of the blob `digest`.
    fn finish(self: Box<Self>, digest: Digest, diff_id: Digest) -> io::Result<()>;
}
