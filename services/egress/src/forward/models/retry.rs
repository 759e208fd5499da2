//! Calls of models that are made again: where the connection failed, or the provider's answer says that it cannot
//! answer now. Nothing of an answer has gone to the agent by then. A connection that was kept and that the provider has
//! closed in the meantime is no failure: the call is made on a new one, whatever the provider is registered with.

use crate::{
    Egress,
    calls::call_entry::CallEntry,
    forward::recorded_body::Upload,
    forward::refusal::Refusal,
    forward::{self, Answer, Connections, Destination, Host},
    policy::{AgentPolicy, ModelServer},
};
use bytes::Bytes;
use hoistway_kit::{backoff, quota::QuotaGrant};
use http::{HeaderMap, Request, StatusCode, header, request::Parts};
use std::{
    mem,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::sleep;

/// The wait before the second attempt. It doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that a provider has not requested.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// The longest wait that a provider may ask for. An agent that has to wait longer gets the answer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Larger bodies are sent on connections of their own, in bytes.
const KEPT: usize = 1 << 20;
/// Statuses with which providers say that they are overloaded.
const OVERLOADED: u16 = 529;
/// The words of refusals that mean a connection which could not be made, or which broke before an answer.
const NO_ANSWER: [&str; 3] = ["tool_broke_off", "tool_unreachable", "proxy_failed"];

/// A call of a model that can be made more than once.
pub(super) struct Attempts {
    pub(super) path_and_query: String,
    pub(super) parts: Parts,
    pub(super) body: Bytes,
    /// The memory that the body counts against the memory of all.
    pub(super) memory: Option<QuotaGrant>,
}

impl Attempts {
    /// Makes the call, and again as often as its provider is registered with. `headers` makes those of an attempt, from
    /// what there is, since a signature has a time.
    pub(super) async fn make(
        self,
        egress: &Egress,
        policy: &AgentPolicy,
        server: &ModelServer,
        entry: &mut CallEntry,
        headers: impl Fn(&HeaderMap, &Bytes) -> Result<HeaderMap, Refusal> + Send,
    ) -> Result<Answer, Refusal> {
        let Self { path_and_query, parts, mut body, memory } = self;
        let mut memory = memory.map(Arc::new);
        // A large body is not kept for the case that an old connection is closed, so it gets a new one at once.
        let mut connections = if body.len() > KEPT { Connections::New } else { Connections::Any };
        let mut made = 0;
        loop {
            let mut parts = parts.clone();
            parts.headers = headers(&parts.headers, &body)?;
            let is_last = made == server.retries;
            // A request that is not sent again need not be kept while the provider works on it.
            let (body, memory) = match is_last && connections == Connections::New {
                true => (mem::take(&mut body), memory.take()),
                false => (body.clone(), memory.clone()),
            };
            let request = Request::from_parts(parts, Upload::buffered(body, memory, entry.progress()));
            let destination = Destination { host: Host::Model(server), path_and_query: path_and_query.clone() };
            let outcome = forward::call(egress, destination, connections, request, entry).await;
            if outcome.as_ref().is_err_and(|refusal| refusal.stale) {
                // The provider had closed it before it saw this call, so it is not one of the attempts.
                connections = Connections::New;
                continue;
            }
            made += 1;
            let pause = if is_last { None } else { pause(&outcome, made, SystemTime::now()) };
            let goes_on = match pause {
                Some(pause) => egress.shutdown.run_until_cancelled(sleep(pause)).await.is_some(),
                None => false,
            };
            if !goes_on || egress.budgets.is_used_up(&policy.agent) {
                return with_attempts(outcome, server, made);
            }
        }
    }
}

/// The outcome of a call, with the number of attempts if it failed in the end.
fn with_attempts(outcome: Result<Answer, Refusal>, server: &ModelServer, made: u32) -> Result<Answer, Refusal> {
    if made == 1 {
        return outcome;
    }
    tracing::debug!("made {made} attempts at the model provider \"{}\"", server.name);
    outcome.map_err(|mut refusal| {
        refusal.message.push_str(&format!("; made {made} attempts"));
        refusal
    })
}

/// The pause after so many attempts before the next one; none where another one would not help.
fn pause(outcome: &Result<Answer, Refusal>, made: u32, now: SystemTime) -> Option<Duration> {
    match outcome {
        Ok(Answer::Response(response)) => after_answer(response.status(), response.headers(), made, now),
        Ok(Answer::Own(_) | Answer::Switched { .. }) => None,
        Err(refusal) => NO_ANSWER.contains(&refusal.word).then(|| back_off(made, now)),
    }
}

fn after_answer(status: StatusCode, headers: &HeaderMap, made: u32, now: SystemTime) -> Option<Duration> {
    if !matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504 | OVERLOADED) {
        return None;
    }
    match retry_after(headers, now) {
        Some(asked) => (asked <= LONGEST_RETRY_AFTER).then_some(asked),
        None => Some(back_off(made, now)),
    }
}

/// The wait that `Retry-After` asks for, in either of its forms (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large for one is a very long wait.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

/// Half of it is fixed, and half spread by the clock's last digits: enough to keep calls apart that failed together.
fn back_off(made: u32, now: SystemTime) -> Duration {
    let whole = backoff::after(made, FIRST_WAIT, LONGEST_WAIT);
    let spread = now.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() % 1000;
    whole / 2 + whole / 2000 * spread
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::HeaderValue;

    /// A point in time whose last digits are these.
    fn at(nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(1_700_000_000, nanos)
    }

    fn headers(retry_after: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(retry_after).unwrap())])
    }

    fn after(status: u16, headers: &HeaderMap) -> Option<Duration> {
        after_answer(StatusCode::from_u16(status).unwrap(), headers, 1, at(0))
    }

    #[test]
    fn only_temporary_failures_are_retried() {
        for status in [429, 500, 502, 503, 504, 529] {
            assert!(after(status, &HeaderMap::new()).is_some(), "{status}");
        }
        for status in [200, 307, 400, 401, 403, 404, 408, 409, 413, 422, 501] {
            assert_eq!(after(status, &headers("1")), None, "{status}");
        }
        let refused = |refusal| pause(&Err(refusal), 1, at(0)).is_some();
        for word in NO_ANSWER {
            assert!(refused(Refusal::bad_gateway(word, "")), "{word}");
        }
        assert!(!refused(Refusal::bad_gateway("credential_unusable", "")));
        assert!(!refused(Refusal::timed_out("")));
        assert!(!refused(Refusal::denied("private_address", "")));
    }

    #[test]
    fn waits_double_from_half_a_second_to_eight_and_are_spread() {
        let most: Vec<u64> = (1..=6).map(|made| back_off(made, at(999)).as_millis() as u64).collect();
        assert_eq!(most, [499, 999, 1999, 3998, 7996, 7996]);
        assert_eq!((back_off(1, at(0)).as_millis(), back_off(6, at(0)).as_millis()), (250, 4000));
    }

    #[test]
    fn a_provider_says_when_to_come_again_unless_that_is_too_late() {
        let seconds = |text: &str| after(429, &headers(text)).map(|wait| wait.as_secs_f32());
        assert_eq!((seconds("0"), seconds(" 30 "), seconds("31")), (Some(0.0), Some(30.0), None));
        assert_eq!(seconds("99999999999999999999999"), None);
        let date = |after: u64| httpdate::fmt_http_date(at(0) + Duration::from_secs(after));
        assert_eq!((seconds(&date(7)), seconds(&date(60))), (Some(7.0), None));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0.0));
        for unreadable in ["", "soon", "-1", "1.5"] {
            assert_eq!(seconds(unreadable), Some(0.25), "{unreadable}");
        }
    }
}
