//! One call: from an agent's request that is allowed to a tool's answer.

use crate::{
    Egress,
    body::{Out, Upload},
    credential,
    entry::{Entry, Progress},
    headers::{END_USER, clean_request, clean_response, remove_all_spellings},
    policy::{AgentPolicy, Credential, ToolPolicy},
    refuse::Refusal,
    target::Allowed,
    upstream::{ConnectError, no_connection, uri},
};
use hoistway_model::Secret;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// What of a request stays the same when it is sent again.
struct Template {
    method: Method,
    headers: HeaderMap,
    path_and_query: String,
}

/// Makes the call. The tool's answer comes back without the headers that are not for the agent.
pub(crate) async fn call(
    egress: &Egress,
    policy: &AgentPolicy,
    Allowed { tool, path_and_query }: Allowed<'_>,
    request: Request<Incoming>,
    entry: &mut Entry,
) -> Result<Response<Incoming>, Refusal> {
    let (parts, body) = request.into_parts();
    check(egress, &parts, &body)?;
    entry.hold(egress.agents.call(&policy.agent)?);
    let template = template(egress, policy, parts, path_and_query);
    let progress = entry.progress();
    let is_replayable = body.is_end_stream();
    let upload = Upload::new(body, Arc::clone(&progress), egress.config.limits.request_size);

    let token = token(egress, tool, None).await?;
    let request = template.request(tool, token.as_ref(), upload)?;
    let what = format!("the tool \"{}\"", tool.name);
    let mut response = send(egress, &what, tool.allow_private, request, &progress).await?;
    if response.status() == StatusCode::UNAUTHORIZED && is_replayable && token.is_some() {
        // The token may have been revoked before its time.
        let token = self::token(egress, tool, token.as_ref()).await?;
        let request = template.request(tool, token.as_ref(), Upload::empty(Arc::clone(&progress)))?;
        response = send(egress, &what, tool.allow_private, request, &progress).await?;
    }
    clean_response(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::bad_gateway("bad_answer", format!("{what} switched protocols unasked")));
    }
    Ok(response)
}

/// What egress does not carry at all.
pub(crate) fn check(egress: &Egress, parts: &request::Parts, body: &Incoming) -> Result<(), Refusal> {
    if matches!(parts.method, Method::TRACE | Method::CONNECT) {
        // TRACE gives the caller back what the tool got, the credential included.
        return Err(Refusal::method_not_allowed(format!("{} is not passed on to tools", parts.method)));
    }
    let wants_websocket = parts.headers.get_all(header::UPGRADE).iter().any(|protocol| {
        let protocol = protocol.as_bytes().to_ascii_lowercase();
        protocol.windows(b"websocket".len()).any(|part| part == b"websocket")
    });
    if wants_websocket {
        return Err(Refusal::not_supported("websocket", "WebSocket is not passed on to tools"));
    }
    let limit = egress.config.limits.request_size;
    if body.size_hint().lower() > limit {
        return Err(Refusal::too_large(limit));
    }
    Ok(())
}

fn template(egress: &Egress, policy: &AgentPolicy, parts: request::Parts, path_and_query: String) -> Template {
    let mut headers = parts.headers;
    let presented = headers.get(END_USER).cloned();
    clean_request(&mut headers);
    remove_all_spellings(&mut headers, &END_USER);
    if let Some(user) = egress.end_users.end_user(policy, presented.as_ref()) {
        headers.insert(END_USER, user);
    }
    Template { method: parts.method, headers, path_and_query }
}

impl Template {
    fn request(&self, tool: &ToolPolicy, token: Option<&Secret>, body: Upload) -> Result<Request<Out>, Refusal> {
        let (mut headers, mut path_and_query) = (self.headers.clone(), self.path_and_query.clone());
        credential::apply(tool, token, &mut headers, &mut path_and_query)?;
        let uri = uri(&tool.origin, &path_and_query);
        let mut request = Request::new(body.boxed_unsync());
        *request.uri_mut() = uri.map_err(|_| Refusal::bad_request("the path or the query is not one of a URI"))?;
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

async fn token(egress: &Egress, tool: &ToolPolicy, rejected: Option<&Secret>) -> Result<Option<Secret>, Refusal> {
    match &tool.credential {
        Credential::OAuth2(client) => egress.tokens.get(&egress.upstream, tool, client, rejected).await.map(Some),
        Credential::None | Credential::ApiKey { .. } | Credential::Unavailable(_) => Ok(None),
    }
}

/// Sends a request to `what` and waits for the answer's header: as long as the request moves, and the limit after that.
pub(crate) async fn send(
    egress: &Egress,
    what: &str,
    allow_private: bool,
    request: Request<Out>,
    progress: &Progress,
) -> Result<Response<Incoming>, Refusal> {
    let limits = &egress.config.limits;
    let limit = Duration::from_millis(limits.first_byte_ms);
    let mut answer = pin!(egress.upstream.send(request, allow_private));
    progress.moved();
    loop {
        let until = Instant::from_std(progress.last_moved()) + limit;
        tokio::select! {
            answer = &mut answer => return answer.map_err(|e| match progress.was_too_large() {
                true => Refusal::too_large(limits.request_size),
                false => failed(what, &e),
            }),
            () = sleep_until(until) => {
                if Instant::from_std(progress.last_moved()) + limit <= Instant::now() {
                    return Err(Refusal::timed_out(format!("{what} did not answer in time")));
                }
            }
        }
    }
}

fn failed(what: &str, error: &legacy::Error) -> Refusal {
    let Some(cause) = no_connection(error) else {
        tracing::debug!("a call of {what} failed: {error}: {:?}", std::error::Error::source(error));
        return Refusal::bad_gateway("tool_broke_off", format!("{what} closed the connection without an answer"));
    };
    no_connection_to(what, cause)
}

/// Why there is no connection to `what`, as its caller is told.
pub(crate) fn no_connection_to(what: &str, cause: &ConnectError) -> Refusal {
    tracing::debug!("no connection to {what}: {cause}");
    match cause {
        ConnectError::Forbidden { .. } => Refusal::denied("private_address", format!("{what}: {cause}")),
        ConnectError::Timeout => Refusal::timed_out(format!("{what}: {cause}")),
        ConnectError::Proxy(_) => {
            tracing::warn!("no connection to {what}: {cause}");
            Refusal::bad_gateway("proxy_failed", format!("{what}: the operator's proxy gives no connection"))
        }
        ConnectError::Resolve(_) | ConnectError::Dial(_) | ConnectError::Tls(_) => {
            Refusal::bad_gateway("tool_unreachable", format!("{what}: {cause}"))
        }
    }
}
