//! Request bodies: read completely, within a limit for each and one for all of them, and never left unread on the wire.

use super::{
    auth::Holder,
    error::{ApiError, ApiResult},
};
use crate::{audit, state::AppState};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, MatchedPath, Request},
};
use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use hoistway_kit::{
    body_charge::{BodyCharge, STEP},
    quota::{QuotaExceeded, QuotaGrant, SharedQuota},
};
use hoistway_model::{Code, Error, Result};
use http::{HeaderMap, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};

/// The largest body in bytes of requests other than deploys and invokes.
const MOST_ELSEWHERE: usize = 4 << 20;
/// The size in bytes from which a body is not parsed on a thread of the runtime.
const LARGE: usize = 256 << 10;
/// The longest wait for the first step of a body, and for each further one.
const FIRST: Duration = Duration::from_secs(30);
const NEXT: Duration = Duration::from_secs(15);
/// The longest time to receive a whole body.
const WHOLE: Duration = Duration::from_secs(300);
/// The longest wait of a body for memory that other bodies hold.
const QUEUE: Duration = Duration::from_secs(10);
/// The bytes of a refused body that are read and discarded, so that its sender can read the answer, and the longest
/// time for that.
const DRAIN_BYTES: usize = 512 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(60);

/// Returns the budget for all request bodies, in bytes: four bodies of the largest size in total, and two for one key
/// or user. The first [`STEP`] of each body is not counted.
pub fn budget(max_body: usize) -> Arc<SharedQuota> {
    let largest = max_body.next_multiple_of(STEP);
    SharedQuota::new(4 * largest, 2 * largest)
}

/// A whole body, within the limit. It counts against the budget while it lives.
#[derive(Debug)]
pub struct WholeBody {
    /// The bytes.
    pub bytes: Bytes,
    _room: QuotaGrant,
}

impl WholeBody {
    /// Returns the bytes, which release their share of the budget when the last of them is dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Returns the bytes' share of the budget, without the bytes: for the value that was parsed from them.
    pub fn into_room(self) -> QuotaGrant {
        self._room
    }

    /// Parses the bytes, on a separate thread if they are many, so that other requests are answered meanwhile.
    pub async fn read<T, F>(self, read: F) -> Result<(Self, T)>
    where
        T: Send + 'static,
        F: FnOnce(&[u8]) -> Result<T> + Send + 'static,
    {
        if self.bytes.len() <= LARGE {
            let value = read(&self.bytes)?;
            return Ok((self, value));
        }
        let reading = tokio::task::spawn_blocking(move || read(&self.bytes).map(|value| (self, value)));
        reading.await.map_err(|e| Error::internal("reading the request", e))?
    }
}

impl AsRef<[u8]> for WholeBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl FromRequest<Arc<AppState>> for WholeBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> ApiResult<Self> {
        let (parts, mut body) = request.into_parts();
        let limit = limit(&parts, state.limits.max_body);
        let announced = content_length(&parts.headers);
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit).into());
        }
        // Routes without a key take no body.
        let holder = parts.extensions.get::<Holder>().map_or_else(|| "".into(), |holder| holder.0.clone());
        let mut charge = BodyCharge::new(state.bodies.share(&holder), announced);
        let read = timeout(WHOLE, read(&mut body, &mut charge, limit)).await;
        let bytes = read.unwrap_or_else(|_| Err(too_slow(WHOLE)))?;
        if let Some(pending_entry) = audit::current() {
            pending_entry.begin_with_body(&bytes).await?;
        }
        Ok(Self { bytes, _room: charge.into_grant() })
    }
}

/// Returns the size limit of a body: source and messages may be large, all other bodies are small.
fn limit(request: &Parts, max_body: usize) -> usize {
    let path = request.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let large =
        ["/deploy", "/invoke", "/invoke/stream", "/app/", "/app/{*path}"].into_iter().any(|end| path.ends_with(end));
    if large { max_body } else { max_body.min(MOST_ELSEWHERE) }
}

/// Reads a body, and charges for what has arrived of it.
async fn read(body: &mut Body, charge: &mut BodyCharge, limit: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    let (mut patience, mut due) = (FIRST, Instant::now() + FIRST);
    while let Some(frame) = next_frame(body, due, patience).await? {
        let Ok(data) = frame.into_data() else { continue };
        let size = bytes.len() + data.len();
        if size > limit {
            return Err(too_large(limit));
        }
        if charge.grow_to(size, QUEUE).await.map_err(full)? {
            (patience, due) = (NEXT, Instant::now() + NEXT);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

fn full(full: QuotaExceeded) -> Error {
    Error::new(
        Code::Unavailable,
        match full {
            QuotaExceeded::OfHolder => "too many large requests of this key or user at a time; try again",
            QuotaExceeded::Total => "too many large requests at a time; try again",
        },
    )
}

async fn next_frame(body: &mut Body, due: Instant, patience: Duration) -> Result<Option<Frame<Bytes>>> {
    match timeout_at(due, body.frame()).await {
        Ok(frame) => frame
            .transpose()
            .map_err(|e| Error::new(Code::InvalidArgument, "the request body broke off before its end").with_source(e)),
        Err(_) => Err(too_slow(patience)),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_slow(waited: Duration) -> Error {
    let message = format!("the request body does not arrive: {} s were waited for more of it", waited.as_secs());
    Error::new(Code::InvalidArgument, message)
}

fn too_large(limit: usize) -> Error {
    let setting = if limit == MOST_ELSEWHERE { "" } else { " (setting max_body_bytes)" };
    Error::new(Code::PayloadTooLarge, format!("the request body is larger than {limit} bytes{setting}"))
}

/// A request body that is read to its end, in the background and within bounds, if the handler did not: closing a
/// connection on which data still arrives resets it, and the reset can overtake the answer.
pub struct Drained {
    inner: Option<Body>,
    /// Whether the sender waits for `100 Continue` before it sends the body.
    waits: bool,
}

impl Drained {
    /// Wraps the body of a request.
    pub fn wrap(request: Request) -> Request {
        let (parts, body) = request.into_parts();
        let expect = parts.headers.get(header::EXPECT);
        let waits = expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let body = if body.is_end_stream() { body } else { Body::new(Self { inner: Some(body), waits }) };
        Request::from_parts(parts, body)
    }
}

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.waits = false;
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.inner = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(body) = self.inner.take().filter(|body| !self.waits && !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Bounded in time and bytes, and ended when the connection ends; nothing waits for it.
            runtime.spawn(timeout(DRAIN_TIME, drain(body)).map(drop));
        }
    }
}

async fn drain(mut body: Body) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Buf::remaining);
        let Some(rest) = left.checked_sub(size) else { return };
        left = rest;
    }
}
