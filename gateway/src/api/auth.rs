//! Authentication and authorization. For guarded paths this runs before anything else of a request is processed, its
//! path and method included: room, key, rate, scope, in this order. An invoke may carry its user's token instead of a
//! key if the agent has an identity provider, and must then carry one. A change is let through with an entry in the
//! audit log.

use super::{
    bearer,
    end_user::{self, InvokeCaller},
    error::{ApiError, ApiResult},
    pagination::OriginalUri,
    permissions::{self, Permission},
    response_body::{self, PermitBody},
};
use crate::{
    audit::{self, Answered, Change, Outcome, PendingAuditEntry},
    keys::{Caller, RateLimitKind, Scope},
    oidc::{Denied, EndUser},
    rate_limits::{Rate, TakeResult},
    routing_table::AccessPolicy,
    state::AppState,
};
use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hoistway_kit::connection_limits::Connection;
use hoistway_model::{Code, Error, Name, Secret};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tracing::Instrument;

/// The other header in which public clients send their key.
pub const KEY_HEADER: &str = "x-runagents-api-key";
/// The number of keys of one request that are tried.
const MAX_KEYS: usize = 4;
const FORWARDED_FOR: &str = "x-forwarded-for";
/// The answer header with the deployment's id.
const DEPLOYMENT: &str = "hoistway-deployment";
/// The header with the state of the key's rate limit (draft-ietf-httpapi-ratelimit-headers).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The key or user of a request, by id, in the request's extensions. Shared quotas are counted by it.
#[derive(Debug, Clone)]
pub struct Holder(pub Arc<str>);

/// Whether `path` needs a key.
pub fn is_guarded(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/") || path == "/metrics"
}

/// Passes requests with a valid key that permits them.
pub async fn guard(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    if !is_guarded(request.uri().path()) {
        return next.run(request).await;
    }
    let access = &state.access;
    let (room, reserved) = match access.requests.clone().try_acquire_owned() {
        Ok(room) => (room, false),
        // An administrator, who can end the requests that take all the room, gets a reserved permit.
        Err(_) => match access.reserved_requests.clone().try_acquire_owned() {
            Ok(room) => (room, true),
            Err(_) => return full(&state).into_response(),
        },
    };
    let response = admit(&state, request, next, reserved).await.unwrap_or_else(IntoResponse::into_response);
    PermitBody::wrap(response, room)
}

async fn admit(state: &Arc<AppState>, mut request: Request, next: Next, reserved: bool) -> ApiResult<Response> {
    let address = client_address(state, &request);
    let pattern = request.extensions().get::<MatchedPath>().cloned();
    let permission = permissions::permission(request.method(), pattern.as_ref().map(MatchedPath::as_str));
    let meters = permission.map_or(RateLimitKind::Requests, |permission| permission.meters);
    let invoke = meters == RateLimitKind::Invokes;
    // For an invoke: the agent, and the token of the request.
    let named = |pattern: &MatchedPath| permissions::target(pattern.as_str(), request.uri().path());
    let agent = pattern.as_ref().filter(|_| invoke).and_then(named).and_then(|name| Name::parse("name", &name).ok());
    let token = if invoke { end_user::token(request.headers())? } else { None };
    let who = identify(state, request.headers(), agent.as_ref(), token.as_ref(), address).await?;
    if reserved && !matches!(&who, Who::Key(caller) if caller.scopes.allow(Scope::Admin)) {
        return Err(full(state));
    }
    let holder = match &who {
        Who::Key(caller) => caller.id.clone(),
        Who::User(user) => user.id.clone(),
    };
    if let Some(connection) = request.extensions().get::<Connection>() {
        connection.mark_authenticated(&holder);
    }
    let own_room = state.access.own_requests.take(&holder, 1).map_err(|_| own_full(state))?;
    request.extensions_mut().insert(Holder(holder.clone()));
    let level = match &who {
        Who::Key(caller) => state.access.keys.count(caller, meters),
        Who::User(user) => state.callers.count(user),
    };
    let pending_entry = match (&who, permission) {
        (Who::Key(caller), Some(permission)) => {
            pending_entry(state, &request, pattern.as_ref(), permission, caller, address)
        }
        _ => None,
    };
    let asked = OriginalUri(request.uri().clone());
    request.extensions_mut().insert(asked);
    if let Who::Key(caller) = &who {
        request.extensions_mut().insert(caller.clone());
    }
    let answer = async {
        within_rate(level, meters, &who)?;
        if let (Who::Key(caller), Some(permission)) = (&who, permission) {
            in_scope(caller, permission)?;
        }
        if invoke {
            let mut caller = match (who, token) {
                (Who::User(user), Some(token)) => InvokeCaller::of_user(token, user),
                (_, token) => InvokeCaller::of_key(token),
            };
            // An agent that is not in the table yet is looked up later.
            if let Some((agent, access_policy)) =
                agent.as_ref().and_then(|agent| Some((agent, state.routes.access_policy(agent)?)))
            {
                caller.authenticate_for(state, agent, &access_policy).await?;
            }
            request.extensions_mut().insert(caller);
        }
        match &pending_entry {
            None => Ok(next.run(request).await),
            Some(pending_entry) => {
                let frees = permission.is_some_and(Permission::frees);
                changed(state, pending_entry, frees, request, next).await
            }
        }
    };
    let mut response = answer.await.unwrap_or_else(IntoResponse::into_response);
    let memory = match response_body::memory(state, &holder, &response) {
        Ok(memory) => memory,
        Err(refused) => {
            response = refused.into_response();
            None
        }
    };
    if let Some(pending_entry) = pending_entry {
        let answered = answered(&response);
        let refused = answered.code == Some(Code::PermissionDenied) && !pending_entry.is_open();
        let is_known = refused && !state.access.audit.is_news(&pending_entry);
        // A separate task: a caller that hangs up now does not leave the record half written.
        if !is_known {
            let ended = state.tasks.spawn(async move { end(&pending_entry, answered).await }.in_current_span());
            ended.await.map_err(|e| Error::internal("writing the audit log", e))?;
        }
    }
    if let Some((level, rate)) = level {
        tell_rate(response.headers_mut(), level, rate, meters);
    }
    Ok(PermitBody::wrap(response, (own_room, memory)))
}

/// Makes a change: writes its entry first, then runs the handler.
async fn changed(
    state: &Arc<AppState>,
    pending_entry: &Arc<PendingAuditEntry>,
    frees: bool,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let cut_off = CutOff(Some((pending_entry.clone(), state.clone())));
    if frees {
        state.reserve.for_freeing(|| pending_entry.begin()).await?;
    } else {
        pending_entry.begin().await?;
    }
    let response = audit::scope(pending_entry.clone(), next.run(request)).await;
    cut_off.forget();
    Ok(response)
}

fn answered(response: &Response) -> Answered {
    let deployment = response.headers().get(DEPLOYMENT).and_then(|id| id.to_str().ok()).map(str::to_owned);
    Answered {
        status: Some(response.status().as_u16()),
        code: response.extensions().get::<Code>().copied(),
        deployment,
    }
}

async fn end(pending_entry: &PendingAuditEntry, answered: Answered) {
    let failed = answered.status.is_some_and(|status| status >= 400);
    let outcome = if failed { Outcome::Failure } else { Outcome::Success };
    // A request over the rate is not an attempt at a change, and must not grow the log.
    if answered.code == Some(Code::ResourceExhausted) && !pending_entry.is_open() {
        return;
    }
    if let Err(e) = pending_entry.end(outcome, answered).await {
        // The change is made, or refused, all the same, and its intent is recorded.
        tracing::error!(cause = e.chain(), "the audit log could not be told how a change ended: {e}");
    }
}

/// Records in the audit log that a change was interrupted: its caller hung up, or its handler panicked.
struct CutOff(Option<(Arc<PendingAuditEntry>, Arc<AppState>)>);

impl CutOff {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        let Some((pending_entry, state)) = self.0.take().filter(|(pending_entry, _)| pending_entry.is_open()) else {
            return;
        };
        let (outcome, answered) = if std::thread::panicking() {
            (Outcome::Failure, Answered { status: Some(500), code: Some(Code::Internal), deployment: None })
        } else {
            (Outcome::Interrupted, Answered::default())
        };
        if tokio::runtime::Handle::try_current().is_ok() {
            state.tasks.spawn(async move {
                if let Err(e) = pending_entry.end(outcome, answered).await {
                    tracing::error!(cause = e.chain(), "the audit log could not be told how a change ended: {e}");
                }
            });
        }
    }
}

fn pending_entry(
    state: &AppState,
    request: &Request,
    pattern: Option<&MatchedPath>,
    permission: Permission,
    caller: &Caller,
    address: Option<IpAddr>,
) -> Option<Arc<PendingAuditEntry>> {
    let (action, named) = permission.change?;
    let target = pattern.and_then(|pattern| permissions::target(pattern.as_str(), request.uri().path()));
    let user_agent = text(request.headers(), header::USER_AGENT.as_str());
    Some(state.access.audit.pending_entry(Change { caller, action, target, named, address, user_agent }))
}

/// The sender of a request.
enum Who {
    /// The holder of this key.
    Key(Caller),
    /// A user of the agent, without a key.
    User(EndUser),
}

async fn identify(
    state: &AppState,
    headers: &HeaderMap,
    agent: Option<&Name>,
    token: Option<&Secret>,
    address: Option<IpAddr>,
) -> ApiResult<Who> {
    let Some(token) = token else {
        let keys = presented(headers).take(MAX_KEYS).collect();
        return Ok(Who::Key(authenticate(state, keys, address).await?));
    };
    let keys: Vec<&str> = presented(headers).filter(|text| !end_user::is_token(text)).take(MAX_KEYS).collect();
    if !keys.is_empty() {
        return Ok(Who::Key(authenticate(state, keys, address).await?));
    }
    let access_policy = match agent {
        None => None,
        Some(agent) => match state.routes.access_policy(agent) {
            // Its route may not have arrived yet.
            None => match state.agents.get_agent(agent.clone()).await {
                Ok(found) => found.spec.config.identity_provider.map(|provider| AccessPolicy::Users(Some(provider))),
                Err(e) if e.code == Code::NotFound => None,
                Err(e) => return Err(e.into()),
            },
            access_policy => access_policy,
        },
    };
    let Some(AccessPolicy::Users(provider)) = access_policy else {
        return Err(failed(state, address, end_user::stranger()));
    };
    match end_user::admit(state, provider.as_ref(), token).await {
        Ok(user) => Ok(Who::User(user)),
        Err(Denied::Refused(refusal)) if refusal.is_forged() => {
            Err(failed(state, address, end_user::refused(Denied::Refused(refusal))))
        }
        Err(denied) => Err(end_user::refused(denied)),
    }
}

async fn authenticate(state: &AppState, keys: Vec<&str>, address: Option<IpAddr>) -> ApiResult<Caller> {
    let mut wrong = None;
    for key in keys {
        match state.access.keys.authenticate(key).await {
            Ok(caller) => return Ok(caller),
            Err(e) if e.code == Code::Unauthenticated => wrong = Some(e),
            Err(e) => return Err(e.into()),
        }
    }
    let Some(wrong) = wrong else {
        let text = "an API key is needed, as \"Authorization: Bearer KEY\" or \"X-RunAgents-API-Key: KEY\"";
        return Err(challenge(Error::new(Code::Unauthenticated, text)));
    };
    Err(failed(state, address, challenge(wrong)))
}

/// Counts a wrong key or token, and returns the error for it.
fn failed(state: &AppState, address: Option<IpAddr>, wrong: ApiError) -> ApiError {
    match address.and_then(|address| state.access.throttle.failed(address)) {
        None => wrong,
        Some(wait) => {
            let text = "too many wrong API keys or tokens came from this address (setting failed_auth_per_minute)";
            ApiError::from(Error::new(Code::ResourceExhausted, text)).retry_after(wait).of_a_stranger()
        }
    }
}

fn challenge(error: Error) -> ApiError {
    ApiError::from(error).with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// Returns all keys of a request, from both headers.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let readable = |value: &HeaderValue| value.to_str().ok().map(str::trim).filter(|text| !text.is_empty()).is_some();
    let bearers = bearer::bearers(headers);
    let others = headers.get_all(KEY_HEADER).iter().filter(move |value| readable(value));
    bearers.chain(others.filter_map(|value| value.to_str().ok().map(str::trim)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

/// Returns the client's address: the peer, or the address from a trusted proxy's header. Of several addresses in the
/// header the last one that is not a trusted proxy counts; the client can have written those before it.
fn client_address(state: &AppState, request: &Request) -> Option<IpAddr> {
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    let peer = peer.ip().to_canonical();
    let trusted = |address: &IpAddr| state.access.limits.trusted_proxies.iter().any(|t| t.to_canonical() == *address);
    if !trusted(&peer) {
        return Some(peer);
    }
    let mut named = Vec::new();
    for value in request.headers().get_all(FORWARDED_FOR) {
        named.extend(value.to_str().unwrap_or_default().split(',').map(str::trim));
    }
    let mut nearest = peer;
    for text in named.into_iter().rev() {
        let Ok(address) = text.parse::<IpAddr>() else { break };
        nearest = address.to_canonical();
        if !trusted(&nearest) {
            break;
        }
    }
    Some(nearest)
}

fn full(state: &AppState) -> ApiError {
    let limit = state.access.limits.max_requests;
    let text = format!("{limit} requests are being answered already, which is the limit (setting max_requests)");
    Error::new(Code::ResourceExhausted, text).into()
}

fn own_full(state: &AppState) -> ApiError {
    let limit = state.access.limits.max_own_requests();
    let text = format!(
        "{limit} requests of this key or user are being answered already, three quarters of the limit (setting max_requests)"
    );
    Error::new(Code::ResourceExhausted, text).into()
}

fn within_rate(level: Option<(TakeResult, Rate)>, meters: RateLimitKind, who: &Who) -> ApiResult<()> {
    let Some(wait) = level.and_then(|(level, _)| level.wait) else { return Ok(()) };
    let (what, setting) = meters.named();
    let sender = if matches!(who, Who::Key(_)) { "this API key" } else { "this user" };
    let text = format!("{sender} sends too many {what} (setting {setting})");
    Err(ApiError::from(Error::new(Code::ResourceExhausted, text)).retry_after(wait))
}

fn in_scope(caller: &Caller, permission: Permission) -> ApiResult<()> {
    Ok(caller.must_have(permission.scope, "this")?)
}

fn tell_rate(headers: &mut HeaderMap, level: TakeResult, rate: Rate, meters: RateLimitKind) {
    let (name, _) = meters.named();
    let reset = seconds(level.wait.unwrap_or(level.full_in));
    let now = format!("\"{name}\";r={};t={reset}", level.left);
    let policy = format!("\"{name}\";q={};w={}", rate.burst(), rate.window());
    for (name, text) in [(RATE_LIMIT, now), (RATE_LIMIT_POLICY, policy)] {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// Returns whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
