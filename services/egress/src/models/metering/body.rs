//! The body of an answer of which the tokens are counted. Its end waits until they are kept.

use super::{Meter, answer::AnswerReader};
use crate::{body::BoxError, usage::Commit};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

pub(super) struct Metered<B> {
    inner: B,
    meter: Meter,
    reader: AnswerReader,
    /// What goes on once the count is kept.
    ready: Option<Frame<Bytes>>,
    commit: Option<Pin<Box<Commit>>>,
    has_ended: bool,
}

impl<B: Body> Metered<B> {
    pub(super) fn new(inner: B, meter: Meter, reader: AnswerReader) -> Self {
        Self { inner, meter, reader, ready: None, commit: None, has_ended: false }
    }

    /// Nothing more comes that counts.
    fn count(&mut self, is_complete: bool) {
        self.commit = self.meter.answered(&self.reader, is_complete).map(Box::pin);
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(commit) = &mut this.commit {
                ready!(commit.as_mut().poll(cx));
                this.commit = None;
            }
            if let Some(frame) = this.ready.take() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.has_ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        let mut out = this.reader.read(piece);
                        // Who knows how long an answer is does not wait for more than its last piece.
                        if this.inner.is_end_stream() {
                            this.has_ended = true;
                            out = [out, this.reader.rest()].concat().into();
                        }
                        if this.has_ended || this.reader.has_ended() {
                            this.count(true);
                        }
                        this.ready = (!out.is_empty()).then(|| Frame::data(out));
                    }
                    Err(trailers) => this.ready = Some(trailers),
                },
                // Who breaks off after the last event has said all there was to say.
                Some(Err(_)) if this.reader.has_ended() => this.has_ended = true,
                Some(Err(e)) => {
                    this.has_ended = true;
                    this.count(false);
                    this.commit = None;
                    return Poll::Ready(Some(Err(e.into())));
                }
                None => {
                    this.has_ended = true;
                    let rest = this.reader.rest();
                    this.ready = (!rest.is_empty()).then(|| Frame::data(rest));
                    this.count(true);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.commit.is_none() && self.ready.is_none() && (self.has_ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self.reader.changes() {
            true => SizeHint::default(),
            false => self.inner.size_hint(),
        }
    }
}

impl<B> Drop for Metered<B> {
    fn drop(&mut self) {
        // The agent went away, unless it was counted before.
        self.meter.answered(&self.reader, false);
    }
}
