//! `POST /api/agents/{name}/invoke`: passes a message to the agent's serving revision and its answer back.
//!
//! Every invoke has a connection of its own, so that none depends on another's outcome, and so that an open connection
//! means that its revision will serve the invoke. Nothing is sent twice: only a refused connection is tried again.

mod stack_trace;
mod wake;

use super::{
    agents::schema::{AnswerSchema, AnyJson, InvokeSchema},
    end_user::{self, InvokeCaller},
    error::{ApiResult, ErrorBody},
    json,
    query::Segment,
    request_body::WholeBody,
    streaming::{self, COMMENT, HEARTBEAT},
};
use crate::{
    metrics::InvokeTimer,
    routing_table::{AccessPolicy, RouteLookup, RoutingTable, Slot},
    state::AppState,
};
use axum::{
    Extension,
    body::{Body, Bytes, HttpBody},
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures_util::stream;
use hoistway_kit::{
    telemetry,
    tls::{ClientStream, ServiceTls},
};
use hoistway_model::{Code, Error, Name, Result, RevisionId, Secret, agent::Target};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use std::{io, pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The number of times that a route is read again after its connection was refused.
const CONNECTS: usize = 3;
/// The longest wait of an invoke for a change of a route that is not ready; most starts take no longer.
const NEWS: Duration = Duration::from_secs(1);
/// The longest time to connect, and the longest wait for a new route after a refused connection.
const CONNECT: Duration = Duration::from_secs(5);
const NEW_ROUTE: Duration = Duration::from_millis(500);
/// The most bytes of an agent's error, and the most lines of it that are shown.
const MAX_ERROR: usize = 1 << 20;
const MAX_ERROR_LINES: usize = 50;
/// The most bytes of an answer that are held until its end and so checked. Longer answers are streamed.
const MAX_KEPT: usize = 256 << 10;
/// The error of an answer that breaks off when the instance is no longer serving. The instance may have crashed, or
/// have been one too many.
const REPLACED: &str = "the instance was replaced by a newer one, and ended before its answer did (of replaced instances the newest \
                        three finish what they answer)";
const JSON: [(header::HeaderName, HeaderValue); 1] =
    [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
/// The header that proves to the runner that an invoke comes from a gateway.
const TOKEN: &str = "x-hoistway-invoke-token";
/// The trailer in which the runner reports the outcome of a streamed answer: `ok`, or its error's code.
const OUTCOME: &str = "x-hoistway-outcome";
/// The content types that a streamed answer may have; any other type is passed on as bytes that no browser interprets.
const STREAM_TYPES: [&str; 4] = ["text/event-stream", "application/json", "application/x-ndjson", "text/plain"];

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(invoke)).routes(routes!(stream))
}

/// Invoke an agent
///
/// Passes a message to the agent and answers with what it returns. Nothing is sent twice. An answer of more than 256 KiB is
/// passed on as it comes: where the agent breaks off, so does the answer.
#[utoipa::path(
    post,
    path = "/agents/{name}/invoke",
    tag = "agents",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("X-End-User-Token" = Option<String>, Header, description = "For an agent with an identity provider: the user's \
            token (a JSON Web Token), where `Authorization` has the API key. A token in `Authorization` needs no API key \
            beside it"),
    ),
    request_body(content = InvokeSchema, description = "The message, and whatever else the agent expects",
        example = json!({"message": "world"})),
    responses(
        (
            status = 200,
            description = "What the agent returned",
            body = AnswerSchema,
            example = json!({
                "response": "Hello, world",
                "model": "",
                "usage": {},
                "tool_calls_made": [],
                "duration_ms": 0,
                "request_id": "01a20926-567a-77de-86fd-35c8c482311c",
                "handler": "user"
            })
        ),
        (status = 401, description = "There is no API key or token, or one that opens nothing. An agent with an identity \
            provider must be shown a token of it; `WWW-Authenticate` says what is wrong with one (RFC 6750)",
            body = ErrorBody),
        (status = 403, description = "The API key does not allow this, or the token's user is not let in", body = ErrorBody),
        (status = 400, description = "The body is no JSON object, or does not fit the agent's parameters; `error` names \
            the member", body = ErrorBody),
        (status = 500, description = "The agent raised: `code` is `agent_error`, `error` the traceback's last line and \
            `details` more of it", body = ErrorBody),
        (status = 502, description = "The agent's process ended, or broke the connection off, while it answered; see \
            its logs", body = ErrorBody),
        (status = 503, description = "The agent is not ready; `error` says why", body = ErrorBody),
        (status = 504, description = "The agent did not answer in time", body = ErrorBody),
    )
)]
pub async fn invoke(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<InvokeCaller>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<Response> {
    let name = name.name("agent")?;
    let mut timer = state.metrics.invoke_began(&name);
    match answer(&state, name, caller, body).await {
        Ok(Answer::Whole(bytes)) => {
            timer.set_outcome("ok");
            Ok((JSON, bytes).into_response())
        }
        Ok(Answer::Long { begun, rest }) => {
            let length = rest.body.size_hint().exact().map(|rest| (header::CONTENT_LENGTH, begun.len() as u64 + rest));
            let chunks = Chunks { begun, ..Chunks::new(rest, false, timer) };
            let mut response = (JSON, chunks.into_body()).into_response();
            response.headers_mut().extend(length.map(|(name, length)| (name, HeaderValue::from(length))));
            Ok(response)
        }
        Err(e) => {
            timer.set_outcome(e.error().code.as_str());
            Err(e)
        }
    }
}

/// The answer of an agent.
enum Answer {
    /// The complete answer, which is JSON.
    Whole(Bytes),
    /// The beginning of an answer that is streamed: it is too long to be held for a client that may not read.
    Long { begun: Bytes, rest: Begun },
}

async fn answer(state: &AppState, name: Name, caller: InvokeCaller, body: WholeBody) -> ApiResult<Answer> {
    let call = Call::begin(state, name.clone(), caller, body, json::must_be_object).await?;
    let answered = call.send(Outgoing::message("/invoke")).await?;
    let span = answered.open.span();
    let read = read_answer(state, name, answered).await;
    read.inspect_err(|e| telemetry::set_error(&span, e.error().code.as_str()))
}

/// Reads an answer whole, or its beginning if it is long.
async fn read_answer(state: &AppState, name: Name, answered: Answered) -> ApiResult<Answer> {
    let limit = state.limits.max_answer;
    let Answered { mut answer, deadline, open, .. } = answered;
    if answer.status() != StatusCode::OK {
        let said = collect_error(&state.routes, &name, &open, &mut answer, deadline).await?;
        return Err(agent_failed(&name, answer.status(), &said).into());
    }
    let mut body = answer.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long(&name, limit).into());
    }
    let mut begun = BytesMut::new();
    while begun.len() <= MAX_KEPT.min(limit) {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| too_slow(&name, Vec::new()))?;
        let frame = match frame.transpose() {
            Ok(frame) => frame,
            Err(e) => return Err(crashed(&state.routes, &name, &open.instance, e).await.into()),
        };
        let Some(frame) = frame else {
            if serde_json::from_slice::<IgnoredAny>(&begun).is_err() {
                let message = format!("agent \"{name}\" answered with something that is not JSON");
                return Err(Error::new(Code::AgentError, message).into());
            }
            return Ok(Answer::Whole(begun.freeze()));
        };
        begun.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    let room = limit.checked_sub(begun.len()).ok_or_else(|| too_long(&name, limit))?;
    Ok(Answer::Long { begun: begun.freeze(), rest: Begun::new(state, name, body, deadline, room, open) })
}

/// Invoke an agent and stream its answer
///
/// The same as an invoke, and every part of the answer is passed on as the agent makes it. Events, where the agent does
/// not choose another type: `{"type": "content", …}` for parts, `{"type": "done", …}` at the end, and
/// `{"type": "error", …}` where it fails on the way.
#[utoipa::path(
    post,
    path = "/agents/{name}/invoke/stream",
    tag = "agents",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("X-End-User-Token" = Option<String>, Header, description = "For an agent with an identity provider: the user's \
            token (a JSON Web Token), where `Authorization` has the API key. A token in `Authorization` needs no API key \
            beside it"),
    ),
    request_body(content = InvokeSchema, description = "The message, and whatever else the agent expects",
        example = json!({"message": "world"})),
    responses(
        (
            status = 200,
            description = "The agent's answer as it comes, in the type that the agent gives it",
            content(
                (AnyJson = "text/event-stream"),
                (AnyJson = "application/json"),
                (String = "application/x-ndjson"),
                (String = "text/plain"),
                (String = "application/octet-stream"),
            )
        ),
        (status = 401, description = "There is no API key or token, or one that opens nothing. An agent with an identity \
            provider must be shown a token of it; `WWW-Authenticate` says what is wrong with one (RFC 6750)",
            body = ErrorBody),
        (status = 403, description = "The API key does not allow this, or the token's user is not let in", body = ErrorBody),
        (status = 400, description = "The body is no JSON object, or does not fit the agent's parameters; `error` names \
            the member", body = ErrorBody),
        (status = 500, description = "The agent raised: `code` is `agent_error`, `error` the traceback's last line and \
            `details` more of it", body = ErrorBody),
        (status = 502, description = "The agent's process ended, or broke the connection off, while it answered; see \
            its logs", body = ErrorBody),
        (status = 503, description = "The agent is not ready; `error` says why", body = ErrorBody),
        (status = 504, description = "The agent did not answer in time", body = ErrorBody),
    )
)]
pub async fn stream(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<InvokeCaller>,
    name: Segment,
    body: WholeBody,
) -> ApiResult<Response> {
    let name = name.name("agent")?;
    let mut timer = state.metrics.invoke_began(&name);
    let (kind, begun) = match begin_stream(&state, name, caller, body).await {
        Ok(begun) => begun,
        Err(e) => {
            timer.set_outcome(e.error().code.as_str());
            return Err(e);
        }
    };
    let chunks = Chunks::new(begun, kind.as_bytes().starts_with(b"text/event-stream"), timer);
    Ok((streaming::headers(kind), chunks.into_body()).into_response())
}

/// Returns the head of a streamed answer; an error is read completely.
async fn begin_stream(
    state: &AppState,
    name: Name,
    caller: InvokeCaller,
    body: WholeBody,
) -> ApiResult<(HeaderValue, Begun)> {
    let call = Call::begin(state, name, caller, body, json::must_be_object).await?;
    let Answered { agent, mut answer, deadline, open } = call.send(Outgoing::message("/invoke/stream")).await?;
    if answer.status() != StatusCode::OK {
        let said = collect_error(&state.routes, &agent, &open, &mut answer, deadline).await?;
        return Err(agent_failed(&agent, answer.status(), &said).into());
    }
    let kind = stream_type(answer.headers());
    Ok((kind, Begun::new(state, agent, answer.into_body(), deadline, usize::MAX, open)))
}

/// An answer whose head was received.
pub(super) struct Begun {
    agent: Name,
    routes: RoutingTable,
    pub(super) body: Incoming,
    deadline: Instant,
    /// The most bytes that may follow.
    room: usize,
    open: Open,
}

impl Begun {
    /// Returns an answer of at most `room` bytes.
    pub(super) fn new(
        state: &AppState,
        agent: Name,
        body: Incoming,
        deadline: Instant,
        room: usize,
        open: Open,
    ) -> Self {
        Self { agent, routes: state.routes.clone(), body, deadline, room, open }
    }
}

/// An answer that is streamed: each chunk is passed on at once, and the next one is read when that was sent. When the
/// client disconnects, this is dropped, and the connection to the agent with it.
pub(super) struct Chunks {
    /// The bytes before the rest.
    begun: Bytes,
    rest: Begun,
    is_events: bool,
    /// The last bytes, for [`is_between_events`].
    last: [u8; 4],
    /// The time at which a comment is sent if the agent stays silent.
    silence: Instant,
    ended: bool,
    /// The outcome of a complete answer: even one with all its chunks may report a failure of the agent.
    pub(super) outcome: &'static str,
    timer: InvokeTimer,
    request_id: Arc<str>,
}

/// Whether an event has ended: lines end with LF, CR or both.
fn is_between_events(last: &[u8; 4]) -> bool {
    last.ends_with(b"\n\n") || last.ends_with(b"\r\r") || last == b"\r\n\r\n"
}

impl Chunks {
    pub(super) fn new(rest: Begun, is_events: bool, timer: InvokeTimer) -> Self {
        let (begun, request_id) = (Bytes::new(), telemetry::request_id().unwrap_or_default());
        Self {
            begun,
            rest,
            is_events,
            last: *b"\n\n\n\n",
            silence: Instant::now() + HEARTBEAT,
            ended: false,
            outcome: "ok",
            timer,
            request_id,
        }
    }

    pub(super) fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut chunks| async move {
            let next = chunks.next().await?;
            Ok::<_, io::Error>(next.map(|data| (data, chunks)))
        }))
    }

    /// Returns the next chunk. A broken answer must not look complete: events end with an error event, any other answer
    /// with an aborted connection.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if !self.begun.is_empty() {
            return Ok(Some(std::mem::take(&mut self.begun)));
        }
        while !self.ended {
            let Begun { agent, routes, body, deadline, room, open } = &mut self.rest;
            // A comment may only stand between events.
            let comments = self.is_events && is_between_events(&self.last) && self.silence < *deadline;
            let until = if comments { self.silence } else { *deadline };
            let error = match timeout_at(until, body.frame()).await {
                Err(_) if comments => {
                    self.silence = Instant::now() + HEARTBEAT;
                    return Ok(Some(Bytes::from_static(COMMENT.as_bytes())));
                }
                Ok(None) => {
                    self.timer.set_outcome(self.outcome);
                    return Ok(None);
                }
                Ok(Some(Ok(frame))) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            let told = frame.trailers_ref().and_then(|trailers| trailers.get(OUTCOME));
                            if told.is_some_and(|outcome| outcome != "ok") {
                                self.outcome = Code::AgentError.as_str();
                                open.mark_failed(Code::AgentError);
                            }
                            continue;
                        }
                    };
                    match room.checked_sub(data.len()) {
                        Some(left) => *room = left,
                        None => {
                            self.ended = true;
                            self.timer.set_outcome(Code::AgentError.as_str());
                            open.mark_failed(Code::AgentError);
                            return Err(io::Error::other(format!("agent \"{agent}\" answered with too much")));
                        }
                    }
                    for byte in &data[data.len().saturating_sub(self.last.len())..] {
                        self.last.rotate_left(1);
                        self.last[3] = *byte;
                    }
                    // With a known length this is the end: the server asks for no further chunk.
                    if body.is_end_stream() {
                        self.timer.set_outcome(self.outcome);
                    }
                    self.silence = Instant::now() + HEARTBEAT;
                    return Ok(Some(data));
                }
                Ok(Some(Err(e))) => crashed(routes, agent, &open.instance, e).await,
                Err(_) => too_slow(agent, Vec::new()),
            };
            self.ended = true;
            self.timer.set_outcome(error.code.as_str());
            self.rest.open.mark_failed(error.code);
            self.rest
                .open
                .span()
                .in_scope(|| tracing::info!(cause = error.chain(), "a streamed answer broke off: {error}"));
            if !self.is_events {
                return Err(io::Error::other(error));
            }
            let body = json!({"error": error.message, "code": error.code.as_str(), "request_id": self.request_id});
            // An event that was cut in the middle is ended first.
            let end = if is_between_events(&self.last) { "" } else { "\n\n" };
            return Ok(Some(format!("{end}event: error\ndata: {body}\n\n").into()));
        }
        Ok(None)
    }
}

/// An invoke that may be sent to its agent.
pub(super) struct Call<'a> {
    state: &'a AppState,
    agent: Name,
    caller: InvokeCaller,
    body: WholeBody,
    deadline: Instant,
    slot: Slot,
}

/// The resources that must live as long as the agent's answer does.
pub(super) struct Open {
    _connection: AbortOnDropHandle<()>,
    _slot: Slot,
    /// The instance that answers.
    instance: RevisionId,
    /// The spans that end with the answer: the invoke's, and that of the request.
    spans: Vec<Span>,
}

impl Open {
    /// Returns the span of the invoke.
    fn span(&self) -> Span {
        self.spans.first().cloned().unwrap_or_else(Span::none)
    }

    /// Marks the invoke as failed, after its answer has begun well.
    fn mark_failed(&self, code: Code) {
        telemetry::set_error(&self.span(), code.as_str());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A span ends when it is left for the last time.
        self.spans.iter().for_each(|span| span.in_scope(|| ()));
    }
}

/// A request for the runner, without its body.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// The path and the query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
}

impl Outgoing {
    /// Returns a request for a message to the agent. The caller's headers are not passed on: they could claim anything.
    fn message(path: &str) -> Self {
        Self { method: Method::POST, target: path.to_owned(), headers: JSON.into_iter().collect() }
    }
}

/// The head of the runner's answer.
pub(super) struct Answered {
    pub(super) agent: Name,
    pub(super) answer: http::Response<Incoming>,
    pub(super) deadline: Instant,
    pub(super) open: Open,
}

impl<'a> Call<'a> {
    /// Checks everything that can be checked without the agent, including the body.
    pub(super) async fn begin(
        state: &'a AppState,
        agent: Name,
        caller: InvokeCaller,
        body: WholeBody,
        check: fn(&[u8]) -> Result<()>,
    ) -> ApiResult<Self> {
        let deadline = Instant::now() + state.limits.invoke_timeout;
        if state.routes.access_policy(&agent).is_none() {
            wait_if_idle(state, &agent).await?;
        }
        let (body, ()) = body.read(check).await?;
        let limit = state.limits.invoke_concurrency;
        let busy = || {
            let text =
                format!("agent \"{agent}\" answers {limit} invokes already, the limit (setting invoke_concurrency)");
            Error::new(Code::ResourceExhausted, text)
        };
        let slot = state.routes.slot(&agent, limit).ok_or_else(busy)?;
        Ok(Self { state, agent, caller, body, deadline, slot })
    }

    /// Connects, sends, and waits for the answer's head only. The span of the invoke ends with the answer.
    pub(super) async fn send(self, outgoing: Outgoing) -> ApiResult<Answered> {
        let (request, span) = (Span::current(), invoke_span(&self.agent, &outgoing));
        let mut sent = self.send_within(outgoing).instrument(span.clone()).await;
        match &mut sent {
            Ok(answered) => {
                answered.open.spans = vec![span.clone(), request];
                let status = answered.answer.status();
                telemetry::set_attribute(&span, "http.response.status_code", i64::from(status.as_u16()));
                if status.is_server_error() {
                    telemetry::set_error(&span, Code::AgentError.as_str());
                }
            }
            Err(e) => telemetry::set_error(&span, e.error().code.as_str()),
        }
        sent
    }

    async fn send_within(self, outgoing: Outgoing) -> ApiResult<Answered> {
        let (agent, mut caller) = (self.agent, self.caller);
        let (stream, to) = connect(self.state, &agent, &mut caller, self.deadline).await?;
        let user = caller.user_for(&to.access_policy);
        let whose = end_user::headers(&self.state.invoke_statements, &agent, user, self.deadline)?;
        let routes = &self.state.routes;
        let (mut sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
            Ok(connected) => connected,
            Err(e) => return Err(crashed(routes, &agent, &to.target.revision, e).await.into()),
        };
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // The sender reports errors of the connection.
            let _ = connection.await;
        }));
        let request = request(outgoing, &agent, &to.target.token, whose, self.body.into_bytes())?;
        // Not dropped while the runner is asked for the invoke's stack: that would end the invoke.
        let mut sent = pin!(sender.send_request(request));
        let Ok(answered) = timeout_at(self.deadline, sent.as_mut()).await else {
            let stack = stack_trace::of(self.state, &agent, &to.target).await;
            return Err(too_slow(&agent, stack).into());
        };
        match answered {
            Ok(answer) => {
                let open =
                    Open { _connection: connection, _slot: self.slot, instance: to.target.revision, spans: Vec::new() };
                Ok(Answered { agent, answer, deadline: self.deadline, open })
            }
            Err(e) => Err(crashed(routes, &agent, &to.target.revision, e).await.into()),
        }
    }
}

/// Returns the span of an agent's work on an invoke, by OpenTelemetry's conventions for generative AI and for HTTP
/// clients. What the agent calls through egress is its child.
fn invoke_span(agent: &Name, outgoing: &Outgoing) -> Span {
    tracing::info_span!(
        "invoke_agent",
        otel.name = format!("invoke_agent {agent}"),
        otel.kind = "client",
        gen_ai.operation.name = "invoke_agent",
        gen_ai.agent.name = %agent,
        http.request.method = %outgoing.method,
        agent = %agent,
    )
}

/// The target of a connection.
struct End {
    target: Target,
    access_policy: AccessPolicy,
}

/// Returns a connection that the serving revision will answer. A refused connection means that the route is changing.
async fn connect(
    state: &AppState,
    agent: &Name,
    caller: &mut InvokeCaller,
    deadline: Instant,
) -> ApiResult<(ClientStream, End)> {
    let mut news_by = Instant::now() + NEWS;
    let mut connects = 0;
    while connects < CONNECTS {
        let mut changes = state.routes.changes();
        let picked = match state.routes.pick(agent) {
            RouteLookup::Ready(picked) => picked,
            RouteLookup::Idle(access_policy) => {
                // Strangers wake nothing.
                caller.authenticate_for(state, agent, &access_policy).await?;
                wake::wake(state, agent, deadline).await?;
                news_by = Instant::now() + NEWS;
                continue;
            }
            RouteLookup::NotReady(why) => {
                connects += 1;
                // The agent service may report the agent as running before its route arrives here.
                let ready = async {
                    while changes.changed().await.is_ok() {
                        if !matches!(state.routes.pick(agent), RouteLookup::NotReady(_)) {
                            return true;
                        }
                    }
                    false
                };
                if timeout_at(news_by, ready).await != Ok(true) {
                    return Err(not_ready(agent, &why).into());
                }
                continue;
            }
            RouteLookup::Unknown => return Err(unrouted(state, agent.clone()).await.into()),
        };
        let end = End { target: picked.target.clone(), access_policy: picked.access_policy.clone() };
        if !caller.satisfies(&end.access_policy) {
            // This revision has another access policy than the one before. The picked route must not be held meanwhile.
            drop(picked);
            connects += 1;
            caller.authenticate_for(state, agent, &end.access_policy).await?;
            continue;
        }
        connects += 1;
        let connected = timeout(CONNECT, dial(&state.tls, &picked.target)).await;
        drop(picked);
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok((stream, end)),
            Err(e) => {
                tracing::debug!("connecting to agent \"{agent}\": {e}");
                let _ = timeout(NEW_ROUTE, changes.changed()).await;
            }
        }
    }
    Err(not_ready(agent, "it takes no connections").into())
}

/// Connects to an agent's listener.
async fn dial(tls: &ServiceTls, target: &Target) -> io::Result<ClientStream> {
    let address = tls.address("agents", &target.address).inspect_err(|e| tracing::warn!("{e}"));
    let connected = address.map_err(io::Error::other)?.connect().await;
    // A certificate that is refused is no passing state, unlike everything else.
    connected.inspect_err(|e| {
        if e.kind() == io::ErrorKind::InvalidData {
            tracing::warn!("an agent cannot be connected to: {e}");
        }
    })
}

/// Returns a request to the runner, with its token.
pub(super) fn request(
    outgoing: Outgoing,
    agent: &Name,
    token: &Secret,
    whose: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::builder()
        .method(outgoing.method)
        .uri(outgoing.target)
        .header(header::HOST, agent.as_str())
        .body(Full::new(body))
        .map_err(|e| Error::internal("passing the message on", e))?;
    let headers = request.headers_mut();
    headers.extend(outgoing.headers);
    telemetry::inject(headers);
    let secret = HeaderValue::from_str(token.expose()).map_err(|e| Error::internal("passing the message on", e))?;
    headers.insert(TOKEN, secret);
    headers.extend(whose);
    if let Some(id) = telemetry::request_id().and_then(|id| HeaderValue::from_str(&id).ok()) {
        headers.insert(telemetry::REQUEST_ID, id);
    }
    Ok(request)
}

/// Reads the whole answer of an error.
pub(super) async fn collect_error(
    routes: &RoutingTable,
    agent: &Name,
    open: &Open,
    answer: &mut http::Response<Incoming>,
    deadline: Instant,
) -> Result<Bytes> {
    let collected = timeout_at(deadline, Limited::new(answer.body_mut(), MAX_ERROR).collect()).await;
    match collected.map_err(|_| too_slow(agent, Vec::new()))? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_long(agent, MAX_ERROR)),
        Err(e) => Err(crashed(routes, agent, &open.instance, e).await),
    }
}

fn stream_type(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(header::CONTENT_TYPE);
    let plain = given.and_then(|value| value.to_str().ok()).and_then(|text| text.split(';').next());
    match (given, plain) {
        (Some(given), Some(plain)) if STREAM_TYPES.iter().any(|t| t.eq_ignore_ascii_case(plain.trim())) => {
            given.clone()
        }
        _ => HeaderValue::from_static("application/octet-stream"),
    }
}

/// The error body of the runner.
#[derive(Deserialize)]
struct RunnerError {
    error: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    details: Vec<String>,
}

/// Converts the runner's error.
pub(super) fn agent_failed(agent: &Name, status: StatusCode, body: &[u8]) -> Error {
    let Ok(RunnerError { error, code, details }) = serde_json::from_slice(body) else {
        let message = format!("agent \"{agent}\" answered with HTTP status {}", status.as_u16());
        return Error::new(Code::AgentError, message);
    };
    let from = details.len().saturating_sub(MAX_ERROR_LINES);
    let details = details.into_iter().skip(from);
    match (status.as_u16(), code.as_str()) {
        (400 | 431, _) => Error::new(Code::InvalidArgument, error).with_details(details),
        // The gateway is the runner's only caller, so this is an internal fault and not the user's.
        (403, "permission_denied" | "forbidden" | "") => {
            Error::internal(&format!("calling agent \"{agent}\""), format!("the runner refused the call: {error}"))
        }
        (503 | 429, _) => not_ready(agent, &error),
        _ => Error::new(Code::AgentError, error).with_details(details),
    }
}

/// Waits for the route of an agent that is not in the table, if it is idle: a gateway that has just started holds such
/// invokes too. Why there is none is an error.
async fn wait_if_idle(state: &AppState, agent: &Name) -> Result<()> {
    let found = state.agents.get_agent(agent.clone()).await?;
    if found.idle {
        state.routes.filled_within(NEWS).await;
        if state.routes.access_policy(agent).is_some() {
            return Ok(());
        }
    }
    Err(not_ready(agent, &found.message))
}

/// Returns why an agent is not in the table: it does not exist, or its route has not arrived yet.
async fn unrouted(state: &AppState, agent: Name) -> Error {
    match state.agents.get_agent(agent.clone()).await {
        Ok(found) => not_ready(&agent, &found.message),
        Err(e) => e,
    }
}

fn not_ready(agent: &Name, why: &str) -> Error {
    let why = if why.is_empty() { "it is starting" } else { why };
    Error::new(Code::Unavailable, format!("agent \"{agent}\" is not ready: {why}"))
}

fn too_long(agent: &Name, limit: usize) -> Error {
    let message = format!("agent \"{agent}\" answered with more than {limit} bytes (setting max_answer_bytes)");
    Error::new(Code::AgentError, message)
}

fn too_slow(agent: &Name, stack: Vec<String>) -> Error {
    let remedy = "an invoke may take invoke_timeout_seconds (HOISTWAY_GATEWAY_INVOKE_TIMEOUT_SECONDS); a longer one is for the operator to allow";
    Error::new(Code::DeadlineExceeded, format!("agent \"{agent}\" did not answer in time"))
        .with_details(stack.into_iter().chain([remedy.to_owned()]))
}

/// The error of an answer that broke off. If the agent's process ended, its route reports the reason a moment later.
async fn crashed(
    routes: &RoutingTable,
    agent: &Name,
    instance: &RevisionId,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    let cause = cause.into();
    let mut changes = routes.changes();
    let reason = async {
        loop {
            // A pick locks its route, so it is dropped before the wait for a change.
            match routes.pick(agent) {
                RouteLookup::NotReady(why) => return Some(why),
                RouteLookup::Idle(_) => return Some(REPLACED.to_owned()),
                RouteLookup::Ready(picked) if picked.target.revision != *instance => return Some(REPLACED.to_owned()),
                RouteLookup::Ready(_) => {}
                RouteLookup::Unknown => return Some("it was deleted".to_owned()),
            }
            if changes.changed().await.is_err() {
                return None;
            }
        }
    };
    let why = match timeout(NEWS, reason).await {
        Ok(Some(why)) => format!(": {why}"),
        _ => "; its logs may say why".to_owned(),
    };
    let message = format!("agent \"{agent}\" broke the connection off while answering{why}");
    Error::new(Code::AgentCrashed, message).with_source(cause)
}
