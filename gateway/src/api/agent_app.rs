//! `/api/agents/{name}/app/…`: the other routes of an agent that is a web application, for every caller that may invoke
//! it. These requests count as invokes: in rate, concurrency, time limits and metrics.

use super::{
    agents::schema::AnyJson,
    auth::KEY_HEADER,
    end_user::InvokeCaller,
    error::{ApiResult, ErrorBody},
    invoke::{self, Answered, Begun, Call, Chunks, Outgoing},
    pagination::OriginalUri,
    request_body::WholeBody,
    streaming,
};
use crate::state::AppState;
use axum::{
    Extension,
    body::{Body, HttpBody},
    extract::State,
    response::{IntoResponse, Response},
    routing::{MethodFilter, any, on},
};
use futures_util::stream;
use hoistway_kit::telemetry::REQUEST_ID;
use hoistway_model::{Code, Error, Name, Result, error::excerpt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use std::{convert::Infallible, sync::Arc};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The request header with the application's root path as callers see it.
const ROOT: HeaderName = HeaderName::from_static("x-hoistway-app-root");
/// The header that distinguishes the application's answers from the runner's.
const ANSWER: HeaderName = HeaderName::from_static("x-hoistway-answer");
/// Hop-by-hop headers, besides those that `Connection` lists.
const OF_CONNECTION: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Request headers that are not passed to the application: the caller's credentials, and headers that only the gateway
/// may set.
const NOT_ASKED: [&str; 13] = [
    "authorization",
    KEY_HEADER,
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    // WSGI would turn it into the variable for a proxy (`HTTP_PROXY`).
    "proxy",
    "traceparent",
    "tracestate",
    "via",
    "x-real-ip",
    REQUEST_ID,
];
const NOT_ASKED_PREFIXES: [&str; 3] = ["x-end-user-", "x-forwarded-", "x-hoistway-"];
/// Answer headers that are not passed to callers: those that apply to the whole origin, which all agents share, those
/// for a proxy in front, and those that the gateway sets itself.
const NOT_ANSWERED: [&str; 21] = [
    "accept-ch",
    "alt-svc",
    "clear-site-data",
    "critical-ch",
    "date",
    "expect-ct",
    "nel",
    "origin-agent-cluster",
    "public-key-pins",
    "public-key-pins-report-only",
    "ratelimit",
    "ratelimit-policy",
    "report-to",
    "reporting-endpoints",
    "server",
    "service-worker-allowed",
    "set-cookie",
    "set-login",
    "strict-transport-security",
    "www-authenticate",
    "x-sendfile",
];
const NOT_ANSWERED_PREFIXES: [&str; 5] = ["access-control-", "hoistway-", "x-accel-", "x-hoistway-", REQUEST_ID];
/// Puts agents' pages into an opaque origin in browsers: this origin belongs to the platform and all agents.
const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox allow-downloads allow-forms allow-popups allow-scripts");

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new()
        .routes(routes!(app_route))
        .route("/agents/{name}/app/{*path}", on(MethodFilter::OPTIONS, app_route))
        .route("/agents/{name}/app/", any(app_route))
        .route("/agents/{name}/app", any(root))
}

/// Call a route of a web application
///
/// For agents that are ASGI or WSGI applications (FastAPI, Flask, …): what follows `app/` is the application's own path. Query,
/// body and headers go to it, and its status, headers and body come back as they are. API keys, tokens and cookies do not
/// pass. HEAD and OPTIONS work too.
#[utoipa::path(
    method(get, post, put, patch, delete),
    path = "/agents/{name}/app/{*path}",
    tag = "agents",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("path" = String, Path, description = "The application's path, with slashes as they are", example = "health"),
        ("X-End-User-Token" = Option<String>, Header, description = "As for an invoke"),
    ),
    responses(
        (
            status = 200,
            description = "What the application answers, whatever its status and type",
            content(
                (AnyJson = "application/json"),
                (AnyJson = "text/event-stream"),
                (String = "text/html"),
                (String = "text/plain"),
                (String = "application/octet-stream"),
            )
        ),
        (status = 404, description = "There is no such agent, or it is no web application; or the application answers so",
            body = ErrorBody),
        (status = 413, description = "The body is larger than that of an invoke may be", body = ErrorBody),
        (status = 500, description = "The application raised before it answered", body = ErrorBody),
        (status = 502, description = "The agent's process ended, or broke the connection off", body = ErrorBody),
        (status = 503, description = "The agent is not ready; `error` says why", body = ErrorBody),
        (status = 504, description = "The application did not answer in time", body = ErrorBody),
    )
)]
pub async fn app_route(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<InvokeCaller>,
    Extension(OriginalUri(asked)): Extension<OriginalUri>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    body: WholeBody,
) -> ApiResult<Response> {
    let (agent, outgoing) = outgoing(&asked, &uri, method, &headers)?;
    let mut timer = state.metrics.invoke_began(&agent);
    let is_head = outgoing.method == Method::HEAD;
    let (head, begun) = match begin(&state, agent, caller, outgoing, body).await {
        Ok(begun) => begun,
        Err(e) => {
            timer.set_outcome(e.error().code.as_str());
            return Err(e);
        }
    };
    let outcome = if head.status.is_server_error() { Code::AgentError.as_str() } else { "ok" };
    // Comments cannot be inserted between compressed events.
    let is_events = head.headers.get(header::CONTENT_TYPE).is_some_and(is_event_stream)
        && !head.headers.contains_key(header::CONTENT_ENCODING);
    let body = if begun.body.is_end_stream() {
        timer.set_outcome(outcome);
        // The empty stream keeps the server from sending a length for an answer to HEAD.
        if is_head { Body::from_stream(stream::empty::<Result<Vec<u8>, Infallible>>()) } else { Body::empty() }
    } else {
        let mut chunks = Chunks::new(begun, is_events, timer);
        chunks.outcome = outcome;
        chunks.into_body()
    };
    let mut response = (head.status, body).into_response();
    *response.headers_mut() = answered(&head.headers, is_events);
    Ok(response)
}

/// Redirects to the application's root as a directory, so that its relative links resolve below it.
async fn root(Extension(OriginalUri(asked)): Extension<OriginalUri>) -> Response {
    let query = asked.query().map(|query| format!("?{query}")).unwrap_or_default();
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, format!("app/{query}"))]).into_response()
}

/// Returns the agent and the request for it. `asked` is the whole address, `below` the address without the part before
/// `/agents`.
fn outgoing(asked: &Uri, below: &Uri, method: Method, headers: &HeaderMap) -> Result<(Name, Outgoing)> {
    let mut segments = below.path().splitn(5, '/').skip(2);
    let (name, rest) = (segments.next().unwrap_or_default(), segments.nth(1).unwrap_or_default());
    // Not decoded: no agent's name needs it, and the application's own path must be the one that was requested.
    let unknown = |_| Error::not_found("agent", excerpt(&percent_decode_str(name).decode_utf8_lossy()));
    let agent = Name::parse("agent", name).map_err(unknown)?;
    if headers.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        let text =
            "WebSocket is not passed on to agents: let the application stream events (text/event-stream) instead";
        return Err(Error::new(Code::InvalidArgument, text));
    }
    let query = below.query().map(|query| format!("?{query}")).unwrap_or_default();
    let root = asked.path().strip_suffix(rest).and_then(|root| root.strip_suffix('/')).unwrap_or_default();
    let root = HeaderValue::from_str(root).map_err(|e| Error::internal("passing the request on", e))?;
    let mut passed = passed_on(headers, &NOT_ASKED, &NOT_ASKED_PREFIXES);
    // WSGI and CGI map `-` to `_`: the application would take such a header for one that only the gateway may set.
    let doubtful: Vec<HeaderName> = passed.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    for name in doubtful {
        passed.remove(name);
    }
    passed.insert(ROOT, root);
    Ok((agent, Outgoing { method, target: format!("/app/{rest}{query}"), headers: passed }))
}

/// Returns the head of the application's answer, and the rest of it.
async fn begin(
    state: &AppState,
    agent: Name,
    caller: InvokeCaller,
    outgoing: Outgoing,
    body: WholeBody,
) -> ApiResult<(http::response::Parts, Begun)> {
    let call = Call::begin(state, agent, caller, body, |_| Ok(())).await?;
    let Answered { agent, mut answer, deadline, open } = call.send(outgoing).await?;
    if answer.headers().contains_key(ANSWER) {
        let (head, body) = answer.into_parts();
        return Ok((head, Begun::new(state, agent, body, deadline, usize::MAX, open)));
    }
    let said = invoke::collect_error(&state.routes, &agent, &open, &mut answer, deadline).await?;
    Err(match answer.status() {
        StatusCode::NOT_FOUND => not_an_application(&agent, &said),
        status => invoke::agent_failed(&agent, status, &said),
    }
    .into())
}

/// The error when the runner has no such route: the agent is no web application, or its runner is older than these
/// routes.
fn not_an_application(agent: &Name, said: &[u8]) -> Error {
    let says = |code: &str| serde_json::from_slice::<serde_json::Value>(said).is_ok_and(|said| said["code"] == code);
    let text = if says("no_application") {
        format!("agent \"{agent}\" is no web application: it answers invoke and invoke/stream alone")
    } else {
        format!("agent \"{agent}\" was built before applications had other routes: deploy it with ?refresh=true")
    };
    Error::new(Code::NotFound, text)
}

/// Returns the headers of an answer for the caller.
fn answered(given: &HeaderMap, is_events: bool) -> HeaderMap {
    let mut headers = passed_on(given, &NOT_ANSWERED, &NOT_ANSWERED_PREFIXES);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Added to the application's own policy: both apply.
    headers.append(header::CONTENT_SECURITY_POLICY, SANDBOX);
    if is_events {
        // The gateway inserts comments between its events.
        headers.remove(header::CONTENT_LENGTH);
        headers.extend(streaming::unbuffered());
    }
    // Caches do not know that the key header carries a credential.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    headers
}

fn is_event_stream(kind: &HeaderValue) -> bool {
    kind.as_bytes().get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Returns the headers that are passed on, in either direction.
fn passed_on(given: &HeaderMap, but: &[&str], prefixes: &[&str]) -> HeaderMap {
    let named: Vec<String> = given
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let passes = |name: &str| {
        !OF_CONNECTION.contains(&name)
            && !but.contains(&name)
            && !prefixes.iter().any(|prefix| name.starts_with(prefix))
            && !named.iter().any(|named| named == name)
    };
    let each = given.iter().filter(|(name, _)| passes(name.as_str()));
    each.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn sent(asked: &str, below: &str, given: &[(&'static str, &'static str)]) -> Result<(Name, Outgoing)> {
        outgoing(&asked.parse().unwrap(), &below.parse().unwrap(), Method::GET, &headers(given))
    }

    #[test]
    fn the_application_is_told_its_own_path_and_where_callers_find_it() {
        for (prefix, rest) in [("/api", "health?q=a%20b"), ("/api/v1", ""), ("/api", "/a//b%2Fc/"), ("/api", "app/app")]
        {
            let below = format!("/agents/app/app/{rest}");
            let (agent, outgoing) = sent(&format!("{prefix}{below}"), &below, &[]).unwrap();
            assert_eq!((agent.as_str(), outgoing.target), ("app", format!("/app/{rest}")));
            assert_eq!(outgoing.headers[ROOT], format!("{prefix}/agents/app/app"));
        }
        assert_eq!(sent("/api/agents/%61/app/x", "/agents/%61/app/x", &[]).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn credentials_and_what_only_the_gateway_may_say_do_not_reach_the_application() {
        let given = [
            ("authorization", "Bearer key"),
            ("x-runagents-api-key", "key"),
            ("x-end-user-token", "token"),
            ("x-end-user-id", "root"),
            ("x_end_user_id", "root"),
            ("x-hoistway-invoke-token", "forged"),
            ("x-forwarded-for", "127.0.0.1"),
            ("cookie", "a=b"),
            ("connection", "close, X-Mine"),
            ("x-mine", "of the connection"),
            ("accept", "text/html"),
            ("accept", "text/plain"),
        ];
        let (_, outgoing) = sent("/api/agents/a/app/", "/agents/a/app/", &given).unwrap();
        let kept = outgoing.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        let mut kept: Vec<String> = kept.collect();
        kept.sort_unstable();
        assert_eq!(kept, ["accept: text/html", "accept: text/plain", "x-hoistway-app-root: /api/agents/a/app"]);
        let refused = sent("/api/agents/a/app/", "/agents/a/app/", &[("upgrade", "WebSocket")]).unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument);
    }

    #[test]
    fn nothing_of_an_answer_holds_for_the_whole_origin() {
        let given = [
            ("set-cookie", "a=b"),
            ("clear-site-data", "*"),
            ("access-control-allow-origin", "*"),
            ("x-request-id", "mine"),
            ("x-hoistway-answer", "application"),
            ("nel", "{}"),
            ("x-accel-redirect", "/internal"),
            ("x-content-type-options", "sniff"),
            ("content-length", "3"),
            ("etag", "1"),
        ];
        let whole = answered(&headers(&given), false);
        let mut kept: Vec<String> =
            whole.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        kept.sort_unstable();
        let expected = [
            "cache-control: private, no-cache",
            "content-length: 3",
            "content-security-policy: sandbox allow-downloads allow-forms allow-popups allow-scripts",
            "etag: 1",
            "x-content-type-options: nosniff",
        ];
        assert_eq!(kept, expected);
        let events = answered(&headers(&given), true);
        assert!(!events.contains_key("content-length") && events["x-accel-buffering"] == "no");
        assert_eq!(answered(&headers(&[("cache-control", "max-age=60")]), false)["cache-control"], "max-age=60");
    }
}
