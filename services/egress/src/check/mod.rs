//! Whether tools and model providers work: requests on the way that agents' calls take.

mod model_provider;
mod tool;

pub(crate) use model_provider::check as check_model_provider;
pub(crate) use tool::check as check_tool;

use crate::{
    Egress,
    body::full,
    origin::Origin,
    upstream::{ConnectError, no_connection, uri},
};
use bytes::Bytes;
use hoistway_model::{
    egress::{Check, CheckKind, CheckStep},
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

/// What is checked, and until when.
struct Subject<'a> {
    egress: &'a Egress,
    origin: &'a Origin,
    allow_private: bool,
    began: Instant,
    limit: Duration,
}

/// What came of a request.
enum Sent {
    Answered(Response<Incoming>),
    Failed(legacy::Error),
    TimedOut,
    /// The base URL is none that a request can be made of.
    Unusable,
}

impl Sent {
    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answered(answer) => Some(answer.status()),
            Self::Failed(_) | Self::TimedOut | Self::Unusable => None,
        }
    }
}

impl<'a> Subject<'a> {
    fn new(egress: &'a Egress, origin: &'a Origin, allow_private: bool) -> Self {
        let limit = LIMIT.min(Duration::from_millis(egress.config.limits.first_byte_ms));
        Self { egress, origin, allow_private, began: Instant::now(), limit }
    }

    fn deadline(&self) -> Instant {
        self.began + self.limit
    }

    /// Sends a GET.
    async fn send(&self, headers: &HeaderMap, path_and_query: &str) -> Sent {
        let Ok(uri) = uri(self.origin, path_and_query) else { return Sent::Unusable };
        let mut request = Request::new(full(Bytes::new()));
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        match timeout_at(self.deadline(), self.egress.upstream.send(request, self.allow_private)).await {
            Ok(Ok(answer)) => Sent::Answered(answer),
            Ok(Err(error)) => Sent::Failed(error),
            Err(_) => Sent::TimedOut,
        }
    }

    /// How far a request came.
    fn reached(&self, sent: &Sent) -> Vec<CheckStep> {
        let Self { origin, limit, .. } = self;
        let address = |ok, message| vec![CheckStep { check: CheckKind::Address, ok, message }];
        let error = match sent {
            Sent::Answered(_) => {
                let mut steps = address(true, format!("{origin} answers"));
                let message = "its certificate is trusted".to_owned();
                let tls = CheckStep { check: CheckKind::Tls, ok: true, message };
                steps.extend((origin.scheme == Scheme::Https).then_some(tls));
                return steps;
            }
            Sent::TimedOut => {
                return address(false, format!("{origin} did not answer within {} s", limit.as_secs_f32()));
            }
            Sent::Unusable => return address(false, "no request can be made of the base URL".to_owned()),
            Sent::Failed(error) => error,
        };
        match no_connection(error) {
            Some(ConnectError::Tls(e)) => {
                let mut steps = address(true, format!("{origin} accepts connections"));
                let remedy =
                    "a private authority is trusted once it stands in the file of egress' setting extra_ca_file";
                let message = format!("no TLS: {e}; {remedy}");
                steps.push(CheckStep { check: CheckKind::Tls, ok: false, message });
                steps
            }
            Some(ConnectError::Proxy(e)) => {
                tracing::warn!("checking {origin}: the operator's proxy: {e}");
                address(false, "the operator's proxy gives no connection".to_owned())
            }
            Some(cause) => address(false, format!("{origin}: {cause}")),
            None => {
                tracing::debug!("checking {origin}: {error}");
                address(false, format!("{origin} closed the connection without an answer"))
            }
        }
    }

    fn found(&self, status: Option<StatusCode>, steps: Vec<CheckStep>) -> Check {
        let latency_ms = status.map(|_| u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        Check { status: status.map(|status| status.as_u16()), latency_ms, steps }
    }
}

/// The result for a registration that egress cannot call.
pub(crate) fn unusable(kind: CheckKind, why: String) -> Check {
    let steps = vec![CheckStep { check: kind, ok: false, message: why }];
    Check { status: None, latency_ms: None, steps }
}
