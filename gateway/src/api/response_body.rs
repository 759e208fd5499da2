//! Answers in transfer: their permits and memory are held until they are sent, and a slow peer cannot hold them for
//! long.

use super::error::{ApiError, ApiResult};
use crate::state::AppState;
use axum::{
    body::{Body, Bytes},
    response::Response,
};
use hoistway_kit::quota::{QuotaExceeded, QuotaGrant};
use hoistway_model::{Code, Error};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// The size in bytes from which a complete answer counts against the memory for answers until it is sent.
const LARGE_ANSWER: u64 = 64 << 10;
/// The most bytes of an answer that are passed to the server at a time.
const PIECE: usize = 64 << 10;
/// The bytes of an answer that its peer must receive per second, and the time that it may take in addition.
const PACE: u64 = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// Reserves the memory of a complete answer; `None` if it is small. An answer that exceeds its caller's share is sent
/// alone.
pub fn memory(state: &AppState, holder: &Arc<str>, answer: &Response) -> ApiResult<Option<QuotaGrant>> {
    let answers = &state.access.answers;
    let Some(size) = answer.body().size_hint().exact().filter(|size| *size >= LARGE_ANSWER) else { return Ok(None) };
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(answers.each());
    answers.take(holder, size).map(Some).map_err(unsent)
}

fn unsent(full: QuotaExceeded) -> ApiError {
    let whose = match full {
        QuotaExceeded::OfHolder => "this key or user has",
        QuotaExceeded::Total => "callers have",
    };
    let text = format!("{whose} not read large answers that were asked for before; read them, then send this again");
    Error::new(Code::ResourceExhausted, text).into()
}

/// An answer's body, and the resources that its request holds until it is sent. It is passed on in pieces: the server
/// would buffer a complete body at once and so release the resources too early.
///
/// A peer that receives less than [`PACE`] loses its answer. The time that the answer's source takes does not count, so
/// that a stream may be silent.
pub struct PermitBody<T> {
    body: Body,
    /// The rest of a piece of the body that is too long.
    rest: Bytes,
    sent: u64,
    /// The total wait for the peer, and the start of the present wait.
    waited: Duration,
    waits: Option<Instant>,
    _room: T,
}

impl<T> PermitBody<T> {
    /// Returns the same answer, which holds `room` until it is sent.
    pub fn wrap(response: Response, room: T) -> Response
    where
        T: Send + Unpin + 'static,
    {
        let wrap = |body| Self { body, rest: Bytes::new(), sent: 0, waited: Duration::ZERO, waits: None, _room: room };
        response.map(|body| Body::new(wrap(body)))
    }
}

impl<T: Unpin> HttpBody for PermitBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(since) = self.waits.take() {
            self.waited += since.elapsed();
            if self.waited > PATIENCE + Duration::from_secs(self.sent / PACE) {
                return Poll::Ready(Some(Err(axum::Error::new("the peer takes the answer too slowly"))));
            }
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        self.sent += piece.len() as u64;
        self.waits = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
