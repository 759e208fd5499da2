//! The middleware of every call before it reaches a service, over TCP and in process: token, limits, deadline, span,
//! log line, and the response to a panic.

use super::{
    DEFAULT_DEADLINE, MAX_DEADLINE, metrics, parse_timeout,
    spans::{self, names},
    status,
};
use crate::{connection_limits::Connection, telemetry, token::ServiceToken};
use futures_util::FutureExt;
use hoistway_model::{Code, Error};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tonic::{body::Body, service::Routes};
use tower::Service;
use tracing::Instrument;

/// The most concurrent calls of one server; further calls are refused and may be retried.
const MAX_CALLS: usize = 1024;

/// The holder of connections with a service token.
const SERVICES: &str = "services";
/// The only service that answers without a token: health is public to clients that can reach the port.
const OPEN_SERVICE: &str = "grpc.health.v1.Health";

/// The routes of a server behind its guard.
#[derive(Clone, Debug)]
pub(super) struct GuardedRoutes {
    pub(super) routes: Routes,
    pub(super) guard: Arc<Guard>,
}

#[derive(Debug)]
pub(super) struct Guard {
    token: ServiceToken,
    /// Services, by their full names, that require another token instead.
    restricted: HashMap<&'static str, ServiceToken>,
    calls: Semaphore,
    deadline: Duration,
    max_deadline: Duration,
}

impl Guard {
    pub(super) fn new(token: ServiceToken) -> Self {
        let (restricted, calls) = (HashMap::new(), Semaphore::new(MAX_CALLS));
        Self { token, restricted, calls, deadline: DEFAULT_DEADLINE, max_deadline: MAX_DEADLINE }
    }

    pub(super) fn with_deadlines(&self, deadline: Duration, max_deadline: Duration) -> Self {
        Self { deadline, max_deadline, ..self.again() }
    }

    pub(super) fn with_restricted(&self, service: &'static str, token: ServiceToken) -> Self {
        let mut guard = self.again();
        guard.restricted.insert(service, token);
        guard
    }

    /// Returns a copy with no calls in flight.
    fn again(&self) -> Self {
        let Self { token, restricted, deadline, max_deadline, .. } = self;
        let (token, restricted) = (token.clone(), restricted.clone());
        Self { token, restricted, calls: Semaphore::new(MAX_CALLS), deadline: *deadline, max_deadline: *max_deadline }
    }

    pub(super) fn token(&self) -> &ServiceToken {
        &self.token
    }

    fn admit(&self, service: &str, headers: &HeaderMap) -> Result<(), Error> {
        if service == OPEN_SERVICE {
            return Ok(());
        }
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Err(Error::new(Code::Unauthenticated, "the call carries no service token"));
        };
        let presented = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        match self.restricted.get(service) {
            Some(own) if own.verify(presented) => Ok(()),
            Some(_) if self.token.verify(presented) => {
                let text = format!("{service} does not answer the token that all services share");
                Err(Error::new(Code::PermissionDenied, text))
            }
            None if self.token.verify(presented) => Ok(()),
            _ => Err(Error::new(Code::Unauthenticated, "the service token is not valid")),
        }
    }

    fn limit(&self, headers: &HeaderMap) -> Duration {
        parse_timeout(headers).map_or(self.deadline, |named| named.min(self.max_deadline))
    }
}

impl GuardedRoutes {
    async fn answer(mut self, request: Request<Body>, limit: Duration, admitted: Result<(), Error>) -> Response<Body> {
        let (service, _) = names(request.uri().path());
        if let Err(e) = admitted {
            return refuse(&e);
        }
        if service != OPEN_SERVICE
            && let Some(connection) = request.extensions().get::<Connection>()
        {
            connection.mark_authenticated(SERVICES);
        }
        let Ok(_permit) = self.guard.calls.try_acquire() else {
            return refuse(&Error::new(Code::ResourceExhausted, "the service is busy, try again later"));
        };
        let id = telemetry::request_id_of(request.headers()).map(Arc::<str>::from);
        let call = AssertUnwindSafe(self.routes.call(request)).catch_unwind();
        let call = async {
            match id {
                Some(id) => telemetry::with_request_id(id, call).await,
                None => call.await,
            }
        };
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(never))) => match never {},
            Ok(Err(panic)) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                status::to_status(Error::internal("answering a call", format!("panicked: {text}"))).into_http()
            }
            Err(_) => {
                refuse(&Error::new(Code::DeadlineExceeded, format!("the time limit of the call passed ({limit:?})")))
            }
        }
    }
}

impl Service<Request<Body>> for GuardedRoutes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = self.guard.limit(request.headers());
        let (service, _) = names(request.uri().path());
        let admitted = self.guard.admit(service, request.headers());
        let span = spans::of_server(&request, service != OPEN_SERVICE && admitted.is_ok());
        let (edge, of_call) = (self.clone(), span.clone());
        let call = async move {
            let (service, method) = names(request.uri().path());
            let (service, method, start) = (service.to_owned(), method.to_owned(), Instant::now());
            let response = edge.answer(request, limit, admitted).await;
            let (status, took) = (spans::status(&response), start.elapsed());
            spans::end_server(&of_call, status);
            metrics::answered(&service, &method, status, took);
            tracing::debug!(
                target: "hoistway::rpc",
                service,
                method,
                status = i32::from(status).to_string(),
                micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                "call"
            );
            Ok(response)
        };
        Box::pin(call.instrument(span))
    }
}

fn refuse(error: &Error) -> Response<Body> {
    status::make(error).into_http()
}
