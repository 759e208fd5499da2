//! Whether a tool works: one request to its base URL on the way that agents' calls take, with the tool's credential.

use crate::{
    Egress,
    body::full,
    credential,
    policy::{Credential, ToolPolicy},
    upstream::{ConnectError, no_connection, uri},
};
use bytes::Bytes;
use hoistway_model::{
    Secret,
    egress::{CheckKind, CheckStep, ToolCheck},
    tool::Scheme,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a check may take.
const LIMIT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("hoistway/", env!("CARGO_PKG_VERSION"));

/// What is sent, as far as the credential decides about it.
struct Prepared {
    headers: HeaderMap,
    path_and_query: String,
    /// The access token, if that is what the tool wants.
    token: Option<Secret>,
}

/// What came of the request.
enum Sent {
    Answered(Response<Incoming>),
    Failed(legacy::Error),
    TimedOut,
    /// The base URL is none that a request can be made of.
    Unusable,
}

/// Checks a tool. The credential's text stands in no result.
pub(crate) async fn check(egress: &Egress, tool: &ToolPolicy) -> ToolCheck {
    let limit = LIMIT.min(Duration::from_millis(egress.config.limits.first_byte_ms));
    let began = Instant::now();
    let deadline = began + limit;
    let mut prepared = prepare(egress, tool, None, deadline).await;
    // Without its credential the tool's address is checked all the same.
    let mut sent = send(egress, tool, prepared.as_ref().unwrap_or(&Prepared::bare(tool)), deadline).await;
    if let (Sent::Answered(answer), Ok(Prepared { token: Some(rejected), .. })) = (&sent, &prepared)
        && answer.status() == StatusCode::UNAUTHORIZED
    {
        // The token may have been revoked before its time, as for an agent's call.
        let again = prepare(egress, tool, Some(rejected), deadline).await;
        if let Ok(again) = &again {
            sent = send(egress, tool, again, deadline).await;
        }
        prepared = again;
    }
    let status = match &sent {
        Sent::Answered(answer) => Some(answer.status()),
        Sent::Failed(_) | Sent::TimedOut | Sent::Unusable => None,
    };
    let mut steps = reached(tool, &sent, limit);
    steps.extend(accepted(tool, &prepared, status));
    ToolCheck {
        status: status.map(|status| status.as_u16()),
        latency_ms: status.map(|_| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
        steps,
    }
}

/// The result for a tool whose registration egress cannot read.
pub(crate) fn unusable(why: String) -> ToolCheck {
    let steps = vec![CheckStep { check: CheckKind::Address, ok: false, message: why }];
    ToolCheck { status: None, latency_ms: None, steps }
}

impl Prepared {
    fn bare(tool: &ToolPolicy) -> Self {
        let path_and_query = if tool.prefix.is_empty() { "/".to_owned() } else { tool.prefix.clone() };
        Self { headers: HeaderMap::new(), path_and_query, token: None }
    }
}

/// Applies the credential; `rejected` is a token that the tool did not accept. The error is for people.
async fn prepare(
    egress: &Egress,
    tool: &ToolPolicy,
    rejected: Option<&Secret>,
    deadline: Instant,
) -> Result<Prepared, String> {
    let mut prepared = Prepared::bare(tool);
    if let Credential::OAuth2(client) = &tool.credential {
        let asked = timeout_at(deadline, egress.tokens.get(&egress.upstream, tool, client, rejected)).await;
        let late = |_| format!("no access token for the tool \"{}\" in time", tool.name);
        prepared.token = Some(asked.map_err(late)?.map_err(|refusal| refusal.message)?);
    }
    let Prepared { headers, path_and_query, token } = &mut prepared;
    let applied = credential::apply(tool, token.as_ref(), headers, path_and_query);
    applied.map_err(|refusal| refusal.message.replace("/NAME/", &format!("/{}/", tool.name)))?;
    Ok(prepared)
}

async fn send(egress: &Egress, tool: &ToolPolicy, prepared: &Prepared, deadline: Instant) -> Sent {
    let Ok(uri) = uri(&tool.origin, &prepared.path_and_query) else { return Sent::Unusable };
    let mut request = Request::new(full(Bytes::new()));
    *request.uri_mut() = uri;
    *request.headers_mut() = prepared.headers.clone();
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    match timeout_at(deadline, egress.upstream.send(request, tool.allow_private)).await {
        Ok(Ok(answer)) => Sent::Answered(answer),
        Ok(Err(error)) => Sent::Failed(error),
        Err(_) => Sent::TimedOut,
    }
}

/// How far the request came.
fn reached(tool: &ToolPolicy, sent: &Sent, limit: Duration) -> Vec<CheckStep> {
    let is_tls = tool.origin.scheme == Scheme::Https;
    let address = |ok, message| vec![CheckStep { check: CheckKind::Address, ok, message }];
    let error = match sent {
        Sent::Answered(_) => {
            let mut steps = address(true, format!("{} answers", tool.origin));
            let message = "its certificate is trusted".to_owned();
            steps.extend(is_tls.then_some(CheckStep { check: CheckKind::Tls, ok: true, message }));
            return steps;
        }
        Sent::TimedOut => {
            let message = format!("{} did not answer within {} s", tool.origin, limit.as_secs_f32());
            return address(false, message);
        }
        Sent::Unusable => return address(false, "no request can be made of the base URL".to_owned()),
        Sent::Failed(error) => error,
    };
    match no_connection(error) {
        Some(ConnectError::Tls(e)) => {
            let mut steps = address(true, format!("{} accepts connections", tool.origin));
            let remedy = "a private authority is trusted once it stands in the file of egress' setting extra_ca_file";
            let message = format!("no TLS: {e}; {remedy}");
            steps.push(CheckStep { check: CheckKind::Tls, ok: false, message });
            steps
        }
        Some(ConnectError::Proxy(e)) => {
            tracing::warn!(tool = %tool.name, "checking a tool: the operator's proxy: {e}");
            address(false, "the operator's proxy gives no connection".to_owned())
        }
        Some(cause) => address(false, format!("{}: {cause}", tool.origin)),
        None => {
            tracing::debug!(tool = %tool.name, "checking a tool: {error}");
            address(false, format!("{} closed the connection without an answer", tool.origin))
        }
    }
}

/// Whether the credential is there and was accepted, as far as that is known.
fn accepted(tool: &ToolPolicy, prepared: &Result<Prepared, String>, status: Option<StatusCode>) -> Option<CheckStep> {
    let step = |ok, message| Some(CheckStep { check: CheckKind::Credential, ok, message });
    let refuses = status.filter(|status| matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN));
    let code = status.map_or(0, |status| status.as_u16());
    match (prepared, &tool.credential, refuses) {
        (Err(why), ..) => step(false, why.clone()),
        (Ok(_), Credential::None, Some(_)) => step(
            false,
            format!("the tool answered {code} and is registered without a credential: change its auth_type"),
        ),
        (Ok(_), Credential::None, None) => None,
        (Ok(_), _, Some(_)) => {
            let remedy = format!("PUT /api/tools/{}/credentials stores another one", tool.name);
            step(false, format!("the tool answered {code}: the credential was not accepted; {remedy}"))
        }
        (Ok(_), _, None) if status.is_some() => step(true, format!("it was sent, and the tool answered {code}")),
        (Ok(Prepared { token: Some(_), .. }), ..) => step(true, "the token endpoint gave an access token".to_owned()),
        (Ok(_), ..) => None,
    }
}
