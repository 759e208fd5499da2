//! The transport to a server: a connection over TCP, or a call in process. Generated clients use it as their channel.

use super::{DEFAULT_DEADLINE, GRPC_TIMEOUT, format_timeout, middleware::GuardedRoutes, spans, status};
use crate::{telemetry, tls::ServiceTls, token::ServiceToken};
use futures_util::FutureExt;
use hoistway_model::{Code, Error, Result};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tonic::{
    Status, TimeoutExpired,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::Service;
use tracing::Instrument;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A transport to one server that adds token, trace context, request id and deadline to every call. Cheap to clone; use
/// it as `XClient::new(transport.clone())`.
#[derive(Clone, Debug)]
pub struct Transport {
    way: Way,
    server: Arc<str>,
    authorization: HeaderValue,
    deadline: Duration,
}

#[derive(Clone, Debug)]
enum Way {
    Local(GuardedRoutes),
    Remote(Channel),
}

impl Transport {
    /// Connects without TLS to the service `server` (the name is for messages) on this machine at `uri`, such as
    /// `http://127.0.0.1:20017`. The first call opens the connection, and a later one reopens a lost one. Inside the
    /// runtime only.
    pub fn connect(server: &str, uri: &str, token: &ServiceToken) -> Result<Self> {
        Self::connect_tls(server, uri, token, &ServiceTls::default())
    }

    /// Connects like [`Transport::connect`], with the certificate of this service if it has one; `uri` begins with
    /// `https` then.
    pub fn connect_tls(server: &str, uri: &str, token: &ServiceToken, tls: &ServiceTls) -> Result<Self> {
        let wrong = |e| Error::new(Code::InvalidArgument, format!("\"{uri}\" is not an address")).with_source(e);
        let endpoint = Endpoint::from_shared(uri.to_owned())
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Some(KEEPALIVE))
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let channel = match tls.connector(server, endpoint.uri(), KEEPALIVE)? {
            Some(connector) => endpoint.connect_with_connector_lazy(connector),
            None => endpoint.connect_lazy(),
        };
        Ok(Self::new(Way::Remote(channel), server, token))
    }

    pub(super) fn local(routes: GuardedRoutes, token: &ServiceToken) -> Self {
        Self::new(Way::Local(routes), "local", token)
    }

    fn new(way: Way, server: &str, token: &ServiceToken) -> Self {
        // A token is visible ASCII, so this cannot fail; the server would refuse an empty header anyway.
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.secret().expose()))
            .unwrap_or_else(|_| HeaderValue::from_static(""));
        authorization.set_sensitive(true);
        Self { way, server: server.into(), authorization, deadline: DEFAULT_DEADLINE }
    }

    /// Sets another deadline for calls that set none (`Request::set_timeout` sets one).
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    fn add_headers(&self, request: &mut Request<Body>) {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        telemetry::inject(headers);
        if let Some(id) = telemetry::request_id()
            && let Ok(id) = HeaderValue::try_from(&*id)
        {
            headers.insert(telemetry::REQUEST_ID, id);
        }
        if !headers.contains_key(GRPC_TIMEOUT)
            && let Ok(limit) = HeaderValue::try_from(format_timeout(self.deadline))
        {
            headers.insert(GRPC_TIMEOUT, limit);
        }
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let ready = match &mut self.way {
            Way::Local(_) => Ok(()),
            Way::Remote(channel) => ready!(channel.poll_ready(cx)),
        };
        Poll::Ready(ready.map_err(|e| failure(&self.server, e)))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let span = spans::of_client(&request);
        let inside = span.enter();
        self.add_headers(&mut request);
        let call: Self::Future = match &mut self.way {
            Way::Local(routes) => {
                let call = routes.call(request);
                Box::pin(async move {
                    match call.await {
                        Ok(response) => Ok(response),
                        Err(never) => match never {},
                    }
                })
            }
            Way::Remote(channel) => {
                let (call, server) = (channel.call(request), self.server.clone());
                Box::pin(async move { call.await.map_err(|e| failure(&server, e)) })
            }
        };
        drop(inside);
        if span.is_none() {
            return call;
        }
        let of_call = span.clone();
        let call = call.inspect(move |answer| {
            spans::end_client(&of_call, answer.as_ref().map_or_else(Status::code, spans::status));
        });
        Box::pin(call.instrument(span))
    }
}

/// Returns the status of a call without a response: whether the server did something is unknown.
fn failure(server: &str, error: tonic::transport::Error) -> Status {
    let timed_out = chain(&error).any(|cause| cause.is::<TimeoutExpired>());
    let public = if timed_out {
        Error::new(Code::DeadlineExceeded, format!("the {server} service did not answer in time"))
    } else {
        Error::new(Code::Unavailable, format!("the {server} service cannot be reached"))
    };
    let mut status = status::make(&public);
    status.set_source(Arc::new(error));
    status
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |cause| cause.source())
}
