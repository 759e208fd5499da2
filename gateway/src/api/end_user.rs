//! The users behind invokes: the token of a request, and the answers to rejected tokens.
//!
//! A token is checked before the request's body is read (`auth.rs`), against the agent's provider at that time. If the
//! agent has another provider when the invoke is about to be sent, the token is checked against that provider first.

use super::{
    bearer::{bearer, bearers},
    error::{ApiError, ApiResult},
};
use crate::{
    oidc::{Denied, EndUser, Refusal},
    routing_table::AccessPolicy,
    state::AppState,
};
use hoistway_kit::{
    invoke_statement::{HEADER, InvokeStatement, InvokeStatementKey},
    telemetry,
    time::now_ms,
};
use hoistway_model::{Code, Error, Name, Secret};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;

/// The header for a token where `Authorization` has the API key.
pub const TOKEN_HEADER: &str = "x-end-user-token";
/// The header in which the agent receives the user's id. Only the gateway can set it.
const USER: HeaderName = HeaderName::from_static("x-end-user-id");
/// The header from which egress reads the user.
const STATEMENT: HeaderName = HeaderName::from_static(HEADER);

/// The caller of an invoke.
#[derive(Debug, Clone)]
pub struct InvokeCaller {
    token: Option<Secret>,
    user: Option<EndUser>,
    has_key: bool,
}

/// Returns the token of a request. Two different tokens are refused, since either could be the valid one.
pub fn token(headers: &HeaderMap) -> ApiResult<Option<Secret>> {
    let text = |value: &'_ HeaderValue| value.to_str().ok().map(str::trim).map(str::to_owned);
    let bearers = bearers(headers);
    let bearers = bearers.filter(|text| is_token(text)).map(str::to_owned);
    let named = headers.get_all(TOKEN_HEADER).iter().filter_map(text).filter(|text| !text.is_empty());
    let named = named.map(|text| bearer(&text).map(str::to_owned).unwrap_or(text));
    let mut tokens: Vec<String> = bearers.chain(named).collect();
    tokens.dedup();
    let last = tokens.pop().map(Secret::new);
    if tokens.is_empty() {
        return Ok(last);
    }
    let text = "there is more than one token";
    let error = ApiError::from(Error::new(Code::InvalidArgument, text));
    Err(with_challenge(error, Some(("invalid_request", text))))
}

/// Whether a bearer's text is a JSON Web Token; API keys begin differently and have no dots.
pub fn is_token(text: &str) -> bool {
    text.starts_with("ey") && text.contains('.')
}

impl InvokeCaller {
    /// Returns a caller with an API key, and perhaps a token for a user.
    pub fn of_key(token: Option<Secret>) -> Self {
        Self { token, user: None, has_key: true }
    }

    /// Returns a user with a token and no API key.
    pub fn of_user(token: Secret, user: EndUser) -> Self {
        Self { token: Some(token), user: Some(user), has_key: false }
    }

    /// Whether the credentials suffice for `access_policy`.
    pub fn satisfies(&self, access_policy: &AccessPolicy) -> bool {
        match (access_policy, &self.user) {
            (AccessPolicy::Keys, _) => self.has_key,
            (AccessPolicy::Users(provider), Some(user)) => provider.as_ref() == Some(&user.provider),
            (AccessPolicy::Users(_), None) => false,
        }
    }

    /// Returns the id that the agent receives: that of the user who was checked, if `access_policy` requires one.
    pub fn user_for(&self, access_policy: &AccessPolicy) -> Option<&str> {
        match access_policy {
            AccessPolicy::Keys => None,
            AccessPolicy::Users(_) => self.user.as_ref().map(|user| &*user.id),
        }
    }

    /// Authenticates the caller for `access_policy` with the token.
    pub async fn authenticate_for(
        &mut self,
        state: &AppState,
        agent: &Name,
        access_policy: &AccessPolicy,
    ) -> ApiResult<()> {
        if self.satisfies(access_policy) {
            return Ok(());
        }
        self.user = match (access_policy, &self.token) {
            (AccessPolicy::Keys, _) => return Err(stranger()),
            (AccessPolicy::Users(_), None) => return Err(unnamed(agent)),
            (AccessPolicy::Users(provider), Some(token)) => {
                Some(admit(state, provider.as_ref(), token).await.map_err(refused)?)
            }
        };
        Ok(())
    }
}

/// Returns the user of `token`, if the agent's provider accepts it.
pub async fn admit(state: &AppState, provider: Option<&Name>, token: &Secret) -> Result<EndUser, Denied> {
    match provider {
        Some(provider) => state.callers.admit(provider, token).await,
        None => {
            let text = "the agent service does not say which identity provider the agent has; it is too old";
            Err(Denied::Unchecked(Error::new(Code::Unavailable, text), None))
        }
    }
}

/// Returns the headers that identify the invoke: the user for the agent, and the whole statement that the agent passes
/// on to egress, valid until the invoke's deadline.
pub fn headers(
    key: &InvokeStatementKey,
    agent: &Name,
    user: Option<&str>,
    deadline: Instant,
) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let failed = |e| Error::internal("passing the user on", e);
    let left = i64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i64::MAX);
    let invoke = InvokeStatement {
        user: user.map(str::to_owned),
        request_id: telemetry::request_id().map(|id| id.to_string()),
        traceparent: telemetry::traceparent(),
    };
    let statement = key.issue(agent, &invoke, now_ms().saturating_add(left))?;
    let mut headers = vec![(STATEMENT, HeaderValue::from_str(&statement).map_err(failed)?)];
    if let Some(user) = user {
        // In UTF-8; a token with control characters was already refused.
        headers.push((USER, HeaderValue::from_bytes(user.as_bytes()).map_err(failed)?));
    }
    Ok(headers)
}

/// Returns the answer to a refused token.
pub fn refused(denied: Denied) -> ApiError {
    match denied {
        Denied::Refused(refusal) => {
            let (code, error) = if refusal.is_forbidden() {
                (Code::PermissionDenied, "insufficient_scope")
            } else {
                (Code::Unauthenticated, "invalid_token")
            };
            let answer = ApiError::from(Error::new(code, Refusal::text(refusal)));
            with_challenge(answer, Some((error, refusal.text())))
        }
        Denied::Unchecked(error, wait) => match wait {
            Some(wait) => ApiError::from(error).retry_after(wait),
            None => error.into(),
        },
    }
}

/// Returns the answer to a token for a route that does not accept it. It does not reveal whether the agent exists.
pub fn stranger() -> ApiError {
    let text = "this token opens nothing here: an API key is needed, or a token of the agent's own identity provider";
    with_challenge(Error::new(Code::Unauthenticated, text).into(), None)
}

/// Returns the answer to an API key without a token.
fn unnamed(agent: &Name) -> ApiError {
    let text = format!(
        "agent \"{agent}\" must know its user: send a token of its identity provider, as \"Authorization: Bearer TOKEN\" \
         in place of the API key, or as \"X-End-User-Token: TOKEN\" beside it"
    );
    with_challenge(Error::new(Code::Unauthenticated, text).into(), None)
}

/// Adds the challenge of RFC 6750, section 3.
fn with_challenge(error: ApiError, told: Option<(&str, &'static str)>) -> ApiError {
    let text = match told {
        None => "Bearer".to_owned(),
        Some((error, text)) => format!("Bearer error=\"{error}\", error_description=\"{text}\""),
    };
    match HeaderValue::try_from(text) {
        Ok(value) => error.with_header(header::WWW_AUTHENTICATE, value),
        Err(_) => error,
    }
}
