//! Access tokens by OAuth 2.0 client credentials (RFC 6749, 4.4): asked for once, by one caller for all, kept until
//! shortly before they expire.

use crate::{
    connection::lru_map::LruMap,
    forward::body::{self, Out},
    forward::refusal::Refusal,
    forward::upstream::{ConnectError, Upstream, no_connection, uri},
    origin::Origin,
    policy::{OAuth2Client, ToolPolicy},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hoistway_model::{Name, Secret};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use std::{
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, time::timeout};

/// Credentials whose tokens are kept.
const KEPT: usize = 4096;
/// The largest answer of an authorization server.
const MAX_ANSWER: usize = 64 << 10;
/// The time that an authorization server may take.
const LIMIT: Duration = Duration::from_secs(20);
/// A token is renewed so long before it expires, or after nine tenths of its life if that is later.
const MARGIN: Duration = Duration::from_secs(60);
/// The life of a token whose server does not say.
const UNSAID: Duration = Duration::from_secs(300);
/// Tokens that the tool refused are replaced so often: one that refuses them all must not have its server asked for
/// each call.
const RENEWAL: Duration = Duration::from_secs(10);
/// A failure is the answer to all calls for so long, rather than asking again for each call.
const FAILURE: Duration = Duration::from_secs(2);

/// Every token.
#[derive(Debug)]
pub(crate) struct Tokens {
    kept: SyncMutex<LruMap<Name, Arc<Slot>>>,
}

/// The token of one tool's credential. Whoever holds the lock asks for a new one, and the others wait for it.
#[derive(Debug)]
struct Slot {
    client: Arc<OAuth2Client>,
    allow_private: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<(Secret, Instant)>,
    /// When a token was requested because the tool had refused another one.
    renewed: Option<Instant>,
    failure: Option<(Refusal, Instant)>,
    /// Whether this server wants the client's secret in the body; `None` until one way has worked.
    in_body: Option<bool>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Secret,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self { kept: SyncMutex::new(LruMap::new(KEPT)) }
    }

    /// The token for a tool. `rejected` is one that the tool did not accept: another one is requested then, unless
    /// somebody has done so a short time ago; it may be the same then.
    pub(crate) async fn get(
        &self,
        upstream: &Upstream,
        tool: &ToolPolicy,
        client: &Arc<OAuth2Client>,
        rejected: Option<&Secret>,
    ) -> Result<Secret, Refusal> {
        let slot = self.slot(tool, client);
        let mut state = slot.state.lock().await;
        let now = Instant::now();
        if let Some((token, until)) = &state.token
            && now < *until
            && (rejected != Some(token) || state.renewed.is_some_and(|at| now < at + RENEWAL))
        {
            return Ok(token.clone());
        }
        if let Some((refusal, until)) = &state.failure
            && now < *until
        {
            return Err(refusal.clone());
        }
        if rejected.is_some() {
            state.renewed = Some(now);
        }
        let asked = timeout(LIMIT, ask(upstream, tool, client, &mut state.in_body)).await;
        let asked = asked.unwrap_or_else(|_| Err(failed(tool, "did not answer in time")));
        match asked {
            Ok((token, life)) => {
                let life = life.saturating_sub(MARGIN).max(life.mul_f32(0.9));
                state.token = Some((token.clone(), now + life));
                state.failure = None;
                Ok(token)
            }
            Err(refusal) => {
                state.failure = Some((refusal.clone(), Instant::now() + FAILURE));
                Err(refusal)
            }
        }
    }

    /// A credential that has changed has another slot, so that no token of the old one is used.
    fn slot(&self, tool: &ToolPolicy, client: &Arc<OAuth2Client>) -> Arc<Slot> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = kept.get(&tool.name)
            && slot.client == *client
            && slot.allow_private == tool.allow_private
        {
            return slot;
        }
        let (client, state) = (Arc::clone(client), Mutex::default());
        let slot = Arc::new(Slot { client, allow_private: tool.allow_private, state });
        kept.insert(tool.name.clone(), Arc::clone(&slot), |_| true);
        slot
    }
}

fn failed(tool: &ToolPolicy, why: &str) -> Refusal {
    let text = format!("no access token for the tool \"{}\": the token endpoint {why}", tool.name);
    Refusal::bad_gateway("credential_unavailable", text)
}

async fn ask(
    upstream: &Upstream,
    tool: &ToolPolicy,
    client: &OAuth2Client,
    in_body: &mut Option<bool>,
) -> Result<(Secret, Duration), Refusal> {
    // The header is what every server must support; some do not all the same.
    let ways: &[bool] = match in_body {
        Some(true) => &[true],
        Some(false) => &[false],
        None => &[false, true],
    };
    let mut refused = None;
    for &way in ways {
        let request = request(tool, client, way)?;
        let response = upstream.send(request, tool.allow_private).await.map_err(|e| match no_connection(&e) {
            Some(ConnectError::Forbidden { .. }) => {
                let text =
                    format!("the token endpoint of the tool \"{}\" is at an address that is not allowed", tool.name);
                Refusal::denied("private_address", text)
            }
            cause => {
                tracing::warn!(tool = %tool.name, "asking for a token: {e}: {cause:?}");
                failed(tool, "cannot be reached")
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|_| failed(tool, "broke off or sent too much"))?.to_bytes();
        match status {
            StatusCode::OK | StatusCode::CREATED => {
                *in_body = Some(way);
                return read(tool, &body);
            }
            // A server that wants the other way says so with one of these.
            StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => {
                refused = Some(failed(tool, &format!("answered {}", status.as_u16())));
            }
            _ => return Err(failed(tool, &format!("answered {}", status.as_u16()))),
        }
    }
    Err(refused.unwrap_or_else(|| failed(tool, "cannot be asked")))
}

fn request(tool: &ToolPolicy, client: &OAuth2Client, in_body: bool) -> Result<Request<Out>, Refusal> {
    let unusable = || failed(tool, "has an unusable address");
    let url = url::Url::parse(&client.token_url).map_err(|_| unusable())?;
    let (origin, _) = Origin::of_url(&url[..url::Position::AfterPath]).map_err(|_| unusable())?;
    let target = uri(&origin, &url[url::Position::BeforePath..url::Position::AfterQuery]).map_err(|_| unusable())?;
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if !client.scopes.is_empty() {
        form.append_pair("scope", &client.scopes.join(" "));
    }
    if let Some(audience) = &client.audience {
        form.append_pair("audience", audience);
    }
    if in_body {
        form.append_pair("client_id", &client.client_id);
        form.append_pair("client_secret", client.client_secret.expose());
    }
    let mut request = Request::new(body::full(Bytes::from(form.finish())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if !in_body {
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encode(&client.client_id), encode(client.client_secret.expose()));
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).map_err(|_| unusable())?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

fn read(tool: &ToolPolicy, body: &[u8]) -> Result<(Secret, Duration), Refusal> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| failed(tool, "sent no token"))?;
    if !(answer.token_type.is_empty() || answer.token_type.eq_ignore_ascii_case("bearer")) {
        return Err(failed(tool, "sent a token that is not a bearer token"));
    }
    // A number, or a number in a string.
    let seconds = answer.expires_in.and_then(|value| match value {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    });
    let life = seconds.map_or(UNSAID, |s: f64| Duration::from_secs_f64(s.clamp(0.0, 86_400.0 * 30.0)));
    Ok((answer.access_token, life))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_of_authorization_servers() {
        let tool = ToolPolicy::new(Name::parse("name", "t").unwrap(), "https://a.example").unwrap();
        let life = |body: &str| read(&tool, body.as_bytes()).map(|(_, life)| life.as_secs()).ok();
        assert_eq!(life(r#"{"access_token":"a","token_type":"bearer","expires_in":3600}"#), Some(3600));
        assert_eq!(life(r#"{"access_token":"a","expires_in":"60"}"#), Some(60));
        assert_eq!(life(r#"{"access_token":"a","expires_in":-5}"#), Some(0));
        assert_eq!(life(r#"{"access_token":"a","expires_in":1e300}"#), Some(86_400 * 30));
        assert_eq!(life(r#"{"access_token":"a"}"#), Some(300));
        assert_eq!(life(r#"{"access_token":"a","token_type":"mac"}"#), None);
        assert_eq!(life("{}"), None);
    }
}
