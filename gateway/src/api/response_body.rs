//! Answers on their way: what they hold is held until they are sent, and a peer that hardly reads does not hold it for
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

/// From so many bytes on, an answer that is made as a whole counts against the memory for answers until it is sent.
const LARGE_ANSWER: u64 = 64 << 10;
/// The longest piece of an answer that is handed to the server at a time.
const PIECE: usize = 64 << 10;
/// The bytes of an answer that its peer must take each second, and how long it may take beside that.
const PACE: u64 = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// What an answer that is made as a whole takes of the memory for answers; nothing if it is small. One that is larger than
/// all that its caller may have is sent alone.
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

/// An answer's body, and the place that its request takes until it is sent. It is handed on in pieces: of one that is given
/// whole, the server would hold all while the place is free again.
///
/// A peer that takes less than [`PACE`] loses its answer. What the answer's source takes its time for does not count, so
/// that a stream may be silent.
pub struct PermitBody<T> {
    body: Body,
    /// What is left of a piece of the body that is too long.
    rest: Bytes,
    sent: u64,
    /// How long the peer was waited for, and since when it is.
    waited: Duration,
    waits: Option<Instant>,
    _room: T,
}

impl<T> PermitBody<T> {
    /// The same answer, which holds `room` until it is sent.
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
