//! Whether tools and model providers work: requests on the way that agents' calls take.

mod model_provider;
mod tool;

pub(crate) use model_provider::check as check_model_provider;
pub(crate) use tool::check as check_tool;

use crate::{
    Egress,
    forward::body::full,
    forward::upstream::{ConnectError, no_connection, uri},
    origin::Origin,
};
use bytes::Bytes;
use hoistway_model::{
    egress::{Check, CheckKind, CheckStep},
    tool::Scheme,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use rustls::CertificateError;
use std::{io::ErrorKind, time::Duration};
use tokio::time::{Instant, timeout_at};

/// The time that a check may take: longer than a connection, so that it is known how far that came.
const LIMIT: Duration = Duration::from_secs(15);
const USER_AGENT: &str = concat!("hoistway/", env!("CARGO_PKG_VERSION"));

/// The target of a check, and its deadline.
struct Subject<'a> {
    egress: &'a Egress,
    origin: &'a Origin,
    allow_private: bool,
    began: Instant,
    limit: Duration,
}

/// The outcome of a request.
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

    /// The last step that a request reached.
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
            Some(cause @ (ConnectError::Tls(_) | ConnectError::TlsTimeout)) => {
                let mut steps = address(true, format!("{origin} accepts connections"));
                let message = match remedy(cause) {
                    Some(remedy) => format!("{cause}; {remedy}"),
                    None => cause.to_string(),
                };
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

/// The advice where there is no TLS, if there is one.
fn remedy(cause: &ConnectError) -> Option<&'static str> {
    const NO_TLS: &str = "what listens there may speak plain HTTP: compare the port, or register it with http://";
    let ConnectError::Tls(e) = cause else { return Some(NO_TLS) };
    match e.get_ref().and_then(|e| e.downcast_ref()) {
        // The latter where another authority of the same name is trusted.
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            Some("a private authority is trusted once it stands in the file of egress' setting extra_ca_file")
        }
        Some(rustls::Error::InvalidMessage(_)) => Some(NO_TLS),
        Some(_) => None,
        None => matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset).then_some(NO_TLS),
    }
}

/// The result for a registration that egress cannot call.
pub(crate) fn unusable(kind: CheckKind, why: String) -> Check {
    let steps = vec![CheckStep { check: kind, ok: false, message: why }];
    Check { status: None, latency_ms: None, steps }
}
