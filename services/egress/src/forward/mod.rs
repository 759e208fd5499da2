//! One call: from an agent's request that is allowed to the answer of a tool, of a model provider, or of any host where
//! the network is open.
pub mod body;
pub mod credential;
pub mod headers;
pub mod models;
pub mod oauth;
pub mod recorded_body;
pub mod refusal;
pub mod target;
pub mod upstream;

use crate::{
    Egress,
    calls::call_entry::{CallEntry, Progress},
    forward::body::Out,
    forward::headers::{
        END_USER, INVOKE_STATEMENT, clean_request, clean_response, remove_all_spellings, remove_overrides,
    },
    forward::recorded_body::Upload,
    forward::refusal::Refusal,
    forward::upstream::{ConnectError, no_connection, uri, was_stale},
    origin::Origin,
    policy::{AgentPolicy, Credential, ModelServer, ToolPolicy},
};
use hoistway_kit::{invoke_statement::InvokeStatement, time::now_ms};
use hoistway_model::Secret;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::client::legacy;
use std::{fmt, pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// The one protocol to which connections of tools may be switched.
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Where a call goes, as it is allowed.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    pub(crate) host: Host<'a>,
    /// As the host shall get it.
    pub(crate) path_and_query: String,
}

/// The connections that a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// One that is there already, if there is one.
    Any,
    /// A new one, for this call alone.
    New,
}

/// Who answers a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Host<'a> {
    /// A tool of the agent: its credential is added.
    Tool(&'a ToolPolicy),
    /// A provider of the agent's models: its key is added.
    Model(&'a ModelServer),
    /// A public API of models, called with the agent's own key: the platform adds nothing.
    OwnKey(&'a Origin),
    /// Any other, where the agent's network is open: the platform adds nothing.
    Other(&'a Origin),
}

impl Host<'_> {
    pub(crate) fn origin(&self) -> &Origin {
        match self {
            Self::Tool(tool) => &tool.origin,
            Self::Model(server) => &server.origin,
            Self::OwnKey(origin) | Self::Other(origin) => origin,
        }
    }

    fn allows_private(&self) -> bool {
        match self {
            Self::Tool(tool) => tool.allow_private,
            Self::Model(server) => server.allow_private,
            Self::OwnKey(_) => false,
            Self::Other(_) => true,
        }
    }

    /// The time that its answer may take to begin, if it has a limit of its own.
    fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Model(server) => server.timeout,
            Self::Tool(_) | Self::OwnKey(_) | Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tool(tool) => write!(f, "the tool \"{}\"", tool.name),
            Self::Model(server) => write!(f, "the model provider \"{}\"", server.name),
            Self::OwnKey(origin) | Self::Other(origin) => origin.fmt(f),
        }
    }
}

/// The outcome of a call.
pub(crate) enum Answer {
    /// An answer, without the headers that are not for the agent.
    Response(Response<Incoming>),
    /// An answer of egress itself.
    Own(Response<Out>),
    /// The agreement to speak another protocol on both connections.
    Switched { response: Response<()>, agent: OnUpgrade, tool: OnUpgrade },
}

/// The parts of a request that stay the same when it is sent again.
struct Template {
    method: Method,
    headers: HeaderMap,
    path_and_query: String,
}

/// Makes the call. The caller counts it against the agent's calls at the same time.
pub(crate) async fn call(
    egress: &Egress,
    Destination { host, path_and_query }: Destination<'_>,
    connections: Connections,
    mut request: Request<Upload>,
    entry: &mut CallEntry,
) -> Result<Answer, Refusal> {
    check(egress, &request)?;
    let agent = wants_websocket(&request).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    clean_request(&mut headers);
    for name in [&END_USER, &INVOKE_STATEMENT] {
        remove_all_spellings(&mut headers, name);
    }
    entry.span().continue_in(&mut headers);
    if let Host::Tool(tool) = host {
        let user = entry.user().and_then(|user| HeaderValue::from_bytes(user.as_bytes()).ok());
        headers.extend(user.map(|user| (END_USER, user)));
        if tool.is_narrowed() {
            remove_overrides(&mut headers);
        }
    }
    if agent.is_some() {
        upgrade_to_websocket(&mut headers);
    }
    let template = Template { method: parts.method, headers, path_and_query };
    let progress = entry.progress();
    let is_replayable = body.is_end_stream();

    let token = token(egress, host, None).await?;
    let request = template.request(host, token.as_ref(), body)?;
    let mut response = send(egress, host, connections, request, &progress).await?;
    if response.status() == StatusCode::UNAUTHORIZED && is_replayable && token.is_some() {
        // The token may have been revoked before its time.
        let renewed = self::token(egress, host, token.as_ref()).await?;
        if renewed != token {
            let request = template.request(host, renewed.as_ref(), Upload::empty(Arc::clone(&progress)))?;
            response = send(egress, host, connections, request, &progress).await?;
        }
    }
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let to_websocket = response.headers().get(header::UPGRADE).is_some_and(is_websocket);
    match agent {
        Some(agent) if switches && to_websocket => {
            let tool = hyper::upgrade::on(&mut response);
            clean_response(response.headers_mut());
            upgrade_to_websocket(response.headers_mut());
            Ok(Answer::Switched { response: response.map(drop), agent, tool })
        }
        _ if switches => Err(Refusal::bad_gateway("bad_answer", format!("{host} switched protocols unasked"))),
        _ => {
            clean_response(response.headers_mut());
            Ok(Answer::Response(response))
        }
    }
}

/// Refuses what egress does not carry at all.
fn check(egress: &Egress, request: &Request<Upload>) -> Result<(), Refusal> {
    if matches!(*request.method(), Method::TRACE | Method::CONNECT) {
        // TRACE gives the caller back what the tool got, the credential included.
        return Err(Refusal::method_not_allowed(format!("{} is not passed on", request.method())));
    }
    let limit = egress.config.limits.request_size;
    if request.body().size_hint().lower() > limit {
        return Err(Refusal::too_large(limit));
    }
    Ok(())
}

/// Whether a request asks to switch to WebSocket (RFC 6455, 4.1). Only a connection of HTTP/1.1 can be switched so.
fn wants_websocket(request: &Request<Upload>) -> bool {
    let headers = request.headers();
    let is_upgrade = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")))
    };
    request.version() == Version::HTTP_11
        && *request.method() == Method::GET
        && headers.get_all(header::CONNECTION).iter().any(is_upgrade)
        && headers.get(header::UPGRADE).is_some_and(is_websocket)
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// Adds what makes a message one of a WebSocket's handshake. It goes with one connection and is never passed on.
fn upgrade_to_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, WEBSOCKET);
}

/// The invoke within which the agent calls, as the gateway has stated it. Of two statements it could not be said which
/// one holds.
pub(crate) fn invoke(egress: &Egress, policy: &AgentPolicy, headers: &HeaderMap) -> Option<InvokeStatement> {
    let mut statements = headers.get_all(INVOKE_STATEMENT).iter();
    let statement = statements.next().filter(|_| statements.next().is_none())?;
    egress.invoke_statements.verify(&policy.agent, statement.as_bytes(), now_ms())
}

impl Template {
    fn request(&self, host: Host<'_>, token: Option<&Secret>, body: Upload) -> Result<Request<Out>, Refusal> {
        let (mut headers, mut path_and_query) = (self.headers.clone(), self.path_and_query.clone());
        match host {
            Host::Tool(tool) => credential::apply(tool, token, &mut headers, &mut path_and_query)?,
            Host::Model(server) => models::apply_key(server, &mut headers)?,
            Host::OwnKey(_) | Host::Other(_) => {}
        }
        let uri = uri(host.origin(), &path_and_query);
        let mut request = Request::new(body.boxed_unsync());
        *request.uri_mut() = uri.map_err(|_| Refusal::bad_request("the path or the query is not one of a URI"))?;
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

async fn token(egress: &Egress, host: Host<'_>, rejected: Option<&Secret>) -> Result<Option<Secret>, Refusal> {
    match host {
        Host::Tool(tool) => match &tool.credential {
            Credential::OAuth2(client) => egress.tokens.get(&egress.upstream, tool, client, rejected).await.map(Some),
            Credential::None | Credential::ApiKey { .. } | Credential::Unavailable(_) => Ok(None),
        },
        Host::Model(_) | Host::OwnKey(_) | Host::Other(_) => Ok(None),
    }
}

/// Sends a request and waits for the answer's header: as long as the request moves, and the limit after that.
async fn send(
    egress: &Egress,
    host: Host<'_>,
    connections: Connections,
    request: Request<Out>,
    progress: &Progress,
) -> Result<Response<Incoming>, Refusal> {
    let limits = &egress.config.limits;
    let limit = host.timeout().unwrap_or(Duration::from_millis(limits.first_byte_ms));
    let mut answer = pin!(async {
        match connections {
            Connections::Any => egress.upstream.send(request, host.allows_private()).await,
            Connections::New => egress.upstream.send_anew(request, host.allows_private()).await,
        }
    });
    progress.moved();
    loop {
        let until = Instant::from_std(progress.last_moved()) + limit;
        tokio::select! {
            answer = &mut answer => return answer.map_err(|e| match progress.was_too_large() {
                true => Refusal::too_large(limits.request_size),
                false => failed(&host.to_string(), &e),
            }),
            () = sleep_until(until) => {
                if Instant::from_std(progress.last_moved()) + limit <= Instant::now() {
                    return Err(timed_out(host, limit));
                }
            }
        }
    }
}

fn timed_out(host: Host<'_>, limit: Duration) -> Refusal {
    Refusal::timed_out(match host {
        Host::Model(server) => {
            let setting = match server.timeout {
                Some(_) => "its timeout_seconds",
                None => "egress' limit first_byte_ms; its timeout_seconds can say another one",
            };
            format!("{host} did not answer within {} s: {setting}", limit.as_secs_f32())
        }
        Host::Tool(_) | Host::OwnKey(_) | Host::Other(_) => format!("{host} did not answer in time"),
    })
}

fn failed(what: &str, error: &legacy::Error) -> Refusal {
    let Some(cause) = no_connection(error) else {
        tracing::debug!("a call of {what} failed: {error}: {:?}", std::error::Error::source(error));
        let text = format!("{what} closed the connection without an answer");
        let mut refusal = Refusal::bad_gateway("tool_broke_off", text);
        refusal.stale = was_stale(error);
        return refusal;
    };
    no_connection_to(what, cause)
}

/// The refusal for a caller when there is no connection to `what`.
pub(crate) fn no_connection_to(what: &str, cause: &ConnectError) -> Refusal {
    tracing::debug!("no connection to {what}: {cause}");
    match cause {
        ConnectError::Forbidden { .. } => Refusal::denied("private_address", format!("{what}: {cause}")),
        ConnectError::Timeout | ConnectError::TlsTimeout => Refusal::timed_out(format!("{what}: {cause}")),
        ConnectError::Proxy(_) => {
            tracing::warn!("no connection to {what}: {cause}");
            Refusal::bad_gateway("proxy_failed", format!("{what}: the operator's proxy gives no connection"))
        }
        ConnectError::Resolve(_) | ConnectError::Dial(_) | ConnectError::Tls(_) => {
            Refusal::bad_gateway("tool_unreachable", format!("{what}: {cause}"))
        }
    }
}
