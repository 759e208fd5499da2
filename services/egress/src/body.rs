//! Bodies on their way: piece by piece, as fast as the slower side takes them, counted and limited.

use crate::entry::{Entry, Progress};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// What goes to an agent.
pub(crate) type Out = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there already.
pub(crate) fn full(bytes: Bytes) -> Out {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A request's body on its way to a tool.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: Option<Incoming>,
    progress: Arc<Progress>,
    left: u64,
}

impl Upload {
    pub(crate) fn new(inner: Incoming, progress: Arc<Progress>, limit: u64) -> Self {
        Self { inner: Some(inner), progress, left: limit }
    }

    /// The body of a request that is sent again: nothing.
    pub(crate) fn empty(progress: Arc<Progress>) -> Self {
        Self { inner: None, progress, left: 0 }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        self.progress.moved();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame?;
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
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body on its way to an agent. With it the call ends.
pub(crate) struct Download {
    inner: Incoming,
    entry: Entry,
    left: u64,
    idle: Duration,
    /// Runs while the tool is waited for, and not while the agent is.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Download {
    pub(crate) fn new(inner: Incoming, mut entry: Entry, limit: u64, idle: Duration) -> Self {
        // Nobody asks a body for pieces that says it has none.
        if inner.is_end_stream() {
            entry.complete();
        }
        let timer = Box::pin(sleep_until(Instant::now() + idle));
        Self { inner, entry, left: limit, idle, timer, waiting: true }
    }

    fn fail(&mut self, word: &'static str, text: &str) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.entry.broken(word);
        Poll::Ready(Some(Err(io::Error::other(text.to_owned()).into())))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => {
                if !this.waiting {
                    this.waiting = true;
                    this.timer.as_mut().reset(Instant::now() + this.idle);
                }
                ready!(this.timer.as_mut().poll(cx));
                this.fail("idle_timeout", "the tool has stopped sending")
            }
            Poll::Ready(None) => {
                this.entry.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(e))) => {
                this.entry.broken("tool_broke_off");
                Poll::Ready(Some(Err(e.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = false;
                if let Some(data) = frame.data_ref() {
                    let length = data.len() as u64;
                    match this.left.checked_sub(length) {
                        Some(left) => this.left = left,
                        None => return this.fail("response_too_large", "the tool's response is too large"),
                    }
                    this.entry.received(length);
                }
                if this.inner.is_end_stream() {
                    this.entry.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
