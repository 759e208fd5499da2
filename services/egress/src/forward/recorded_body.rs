//! Bodies on their way, piece by piece, as fast as the slower side takes them: counted in the record of their call.

use crate::{
    calls::call_entry::{CallEntry, Progress},
    forward::body::{BoxError, cut_off},
    forward::headers::clean_trailers,
};
use bytes::Bytes;
use hoistway_kit::quota::QuotaGrant;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// A request's body on its way to a tool or a model provider.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: Source,
    progress: Arc<Progress>,
    left: u64,
}

/// Where a request's body comes from.
#[derive(Debug)]
enum Source {
    /// The agent, piece by piece.
    Agent(Incoming),
    /// It is there already, with the memory that it counts against.
    Buffered { bytes: Full<Bytes>, _memory: Option<Arc<QuotaGrant>> },
}

impl Upload {
    pub(crate) fn new(inner: Incoming, progress: Arc<Progress>, limit: u64) -> Self {
        Self { inner: Source::Agent(inner), progress, left: limit }
    }

    /// The body of a request that is sent again: nothing.
    pub(crate) fn empty(progress: Arc<Progress>) -> Self {
        Self::buffered(Bytes::new(), None, progress)
    }

    /// A body that was read before.
    pub(crate) fn buffered(bytes: Bytes, memory: Option<Arc<QuotaGrant>>, progress: Arc<Progress>) -> Self {
        let left = bytes.len() as u64;
        Self { inner: Source::Buffered { bytes: Full::new(bytes), _memory: memory }, progress, left }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.inner {
            Source::Agent(inner) => ready!(Pin::new(inner).poll_frame(cx)).map(|frame| frame.map_err(BoxError::from)),
            Source::Buffered { bytes, .. } => {
                ready!(Pin::new(bytes).poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
        };
        self.progress.moved();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = frame?;
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            match self.left.checked_sub(length) {
                Some(left) => self.left = left,
                None => {
                    self.progress.is_too_large();
                    return Poll::Ready(Some(Err(io::Error::other("the request's body is too large").into())));
                }
            }
            self.progress.sent(length);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Source::Agent(inner) => inner.is_end_stream(),
            Source::Buffered { bytes, .. } => bytes.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Source::Agent(inner) => inner.size_hint(),
            Source::Buffered { bytes, .. } => bytes.size_hint(),
        }
    }
}

/// A response's body on its way to an agent. With it the call ends.
pub(crate) struct Download<B> {
    inner: B,
    entry: CallEntry,
}

impl<B: Body> Download<B> {
    pub(crate) fn new(inner: B, mut entry: CallEntry) -> Self {
        // Nobody asks a body for pieces that says it has none.
        if inner.is_end_stream() {
            entry.complete();
        }
        Self { inner, entry }
    }
}

impl<B> Body for Download<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            None => this.entry.complete(),
            Some(Err(e)) => this.entry.broken(cut_off(e).unwrap_or("tool_broke_off")),
            Some(Ok(frame)) => {
                this.entry.received(frame.data_ref().map_or(0, |data| data.len() as u64));
                if this.inner.is_end_stream() {
                    this.entry.complete();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
