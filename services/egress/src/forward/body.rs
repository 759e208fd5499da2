//! Bodies, and the limits on those of responses.

use crate::config::Limits;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body that goes to an agent.
pub(crate) type Out = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there already.
pub(crate) fn full(bytes: Bytes) -> Out {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A response's body as it may come: of bounded length, and without long pauses.
pub(crate) struct Limited<B> {
    inner: B,
    left: u64,
    idle: Duration,
    /// Runs while the tool is waited for, and not while the agent is.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

/// Why egress cut a response off.
#[derive(Debug)]
struct Cut {
    /// The word for the record.
    word: &'static str,
    text: &'static str,
}

/// The word for the record, if egress itself cut the response off.
pub(crate) fn cut_off(error: &BoxError) -> Option<&'static str> {
    error.downcast_ref::<Cut>().map(|cut| cut.word)
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl std::error::Error for Cut {}

impl<B> Limited<B> {
    pub(crate) fn new(inner: B, limits: &Limits) -> Self {
        let idle = Duration::from_millis(limits.idle_ms);
        let timer = Box::pin(sleep_until(Instant::now() + idle));
        Self { inner, left: limits.response_size, idle, timer, waiting: true }
    }
}

impl<B> Body for Limited<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let cut = |word, text| Poll::Ready(Some(Err(Cut { word, text }.into())));
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            if !this.waiting {
                this.waiting = true;
                this.timer.as_mut().reset(Instant::now() + this.idle);
            }
            ready!(this.timer.as_mut().poll(cx));
            return cut("idle_timeout", "the tool has stopped sending");
        };
        this.waiting = false;
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match this.left.checked_sub(data.len() as u64) {
                Some(left) => this.left = left,
                None => return cut("response_too_large", "the tool's response is too large"),
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
