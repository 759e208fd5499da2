//! The body of an answer of which the tokens are counted. Its end waits until they are kept.

use super::{Meter, stream_filter::AnswerReader};
use crate::{forward::body::BoxError, usage::Commit};
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
    /// The rest of the body once the count is stored: a piece, or that the answer was cut.
    ready: Option<Result<Frame<Bytes>, BoxError>>,
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
                return Poll::Ready(Some(frame));
            }
            if this.has_ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        let mut out = this.reader.read(piece);
                        // At once: the agent may go away as soon as it has read it.
                        this.meter.has_error(&this.reader);
                        // Who knows how long an answer is does not wait for more than its last piece.
                        if this.inner.is_end_stream() {
                            this.has_ended = true;
                            out = [out, this.reader.rest()].concat().into();
                        }
                        if this.has_ended || this.reader.has_ended() {
                            this.count(true);
                        }
                        this.ready = (!out.is_empty()).then(|| Ok(Frame::data(out)));
                    }
                    Err(trailers) => this.ready = Some(Ok(trailers)),
                },
                // Who breaks off after the last event has said all there was to say.
                Some(Err(_)) if this.reader.has_ended() => this.has_ended = true,
                Some(Err(e)) => {
                    this.has_ended = true;
                    this.ready = Some(Err(e.into()));
                    this.count(false);
                }
                None => {
                    this.has_ended = true;
                    let rest = this.reader.rest();
                    this.ready = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::format::Format, *};
    use crate::{
        calls::Recorder,
        calls::call_entry::CallEntry,
        config::Limits,
        usage::{Batch, Budgets, KeepsUsage, Ledger, UsageKey, keep},
    };
    use hoistway_model::{Name, Result, RevisionId};
    use http::{Method, StatusCode};
    use http_body_util::{BodyExt, StreamBody};
    use std::{io, sync::Arc};
    use tokio::sync::broadcast;
    use tokio_util::sync::CancellationToken;

    #[derive(Debug)]
    struct Kept;

    #[async_trait::async_trait]
    impl KeepsUsage for Kept {
        async fn add_usage(&self, _: &Batch) -> Result<()> {
            Ok(())
        }
    }

    fn meter(ledger: Ledger) -> Meter {
        let name = Name::parse("name", "a").unwrap();
        let (recorder, _) = Recorder::new(1);
        let key = UsageKey { agent: name.clone(), provider: name, model: "m".into(), user: String::new() };
        Meter {
            ledger,
            budgets: Arc::new(Budgets::new(Vec::new(), Vec::new(), None, broadcast::Sender::new(1))),
            progress: CallEntry::new(&recorder, &Method::POST, "/").progress(),
            revision: RevisionId::mint(),
            price: None,
            key: Some(key),
            streams: true,
            leave_out_usage: false,
            input: 0,
            limits: Limits::default(),
            status: Some(StatusCode::OK),
        }
    }

    #[tokio::test]
    async fn a_cut_waits_for_the_count_as_the_end_does() {
        for is_cut in [true, false] {
            let (ledger, counts) = Ledger::new();
            let pieces = [Ok(Frame::data(Bytes::from("data: {}\n\n"))), Err(io::Error::other("broke off"))];
            let pieces = futures_util::stream::iter(pieces.into_iter().take(if is_cut { 2 } else { 1 }));
            let reader = AnswerReader::new(Format::Events, false);
            let mut body = Metered::new(StreamBody::new(pieces), meter(ledger), reader);
            assert!(body.frame().await.unwrap().is_ok());
            let mut end = std::pin::pin!(body.frame());
            assert!(futures_util::poll!(&mut end).is_pending(), "nothing has been committed");
            let keeping = tokio::spawn(keep(counts, Arc::new(Kept), CancellationToken::new()));
            assert_eq!(end.await.is_some_and(|end| end.is_err()), is_cut);
            drop(body);
            keeping.await.unwrap();
        }
    }
}
