//! The body of a streamed answer on its way through a translation, piece by piece.

use crate::forward::body::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::Chunks;

/// A reader of a provider's stream.
pub(in crate::forward::models) trait Translate: Send + Unpin + 'static {
    /// Takes the next bytes of the provider and writes what they mean.
    fn push(&mut self, piece: &[u8], chunks: &mut Chunks) -> Result<(), BoxError>;
}

/// A provider's stream as chunks of the OpenAI API. It ends where the provider's does, and breaks off where that one
/// breaks off or ends early.
pub(in crate::forward::models) struct Translated<B, T> {
    inner: B,
    translator: T,
    chunks: Chunks,
    /// The error after the pieces that have been written.
    failed: Option<BoxError>,
}

impl<B, T> Translated<B, T> {
    pub(in crate::forward::models) fn new(inner: B, translator: T, chunks: Chunks) -> Self {
        Self { inner, translator, chunks, failed: None }
    }
}

impl<B, T> Body for Translated<B, T>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    T: Translate,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(failed) = this.failed.take() {
                return Poll::Ready(Some(Err(failed)));
            }
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
            if this.chunks.is_over() {
                // The agent has everything. The rest is read so that the connection can be used again.
                match frame {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return Poll::Ready(None),
                }
            }
            let data = match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(e)) => return Poll::Ready(Some(Err(e.into()))),
                None => return Poll::Ready(Some(Err(io::Error::other("the provider's stream ended early").into()))),
            };
            this.failed = this.translator.push(&data, &mut this.chunks).err();
            let written = this.chunks.take();
            if !written.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(written))));
            }
        }
    }
}
