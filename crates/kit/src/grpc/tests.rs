//! Token, deadline, health, streams and errors, each over TCP and in process.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{ports::listen_loopback, telemetry, token::ServiceToken};
use hoistway_model::{Code, Error};
use http::{HeaderMap, HeaderName};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, body::Body, server::NamedService};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Service, ServiceExt};

/// A service in the shape of generated ones, with methods for the tests.
#[derive(Clone, Default)]
struct Probe {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone, Default)]
struct Seen {
    headers: HeaderMap,
    request_id: Option<Arc<str>>,
    trace_id: Option<String>,
}

impl NamedService for Probe {
    const NAME: &'static str = "hoistway.test.v1.Probe";
}

impl Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let seen = self.seen.clone();
        Box::pin(async move {
            *seen.lock().unwrap() = Seen {
                headers: request.headers().clone(),
                request_id: telemetry::request_id(),
                trace_id: telemetry::current_trace_id(),
            };
            match request.uri().path().rsplit('/').next().unwrap_or_default() {
                "Hang" => std::future::pending().await,
                "Panic" => panic!("a defect"),
                "Fail" => Ok(to_status(Error::field("name", "is taken").with_details(["proof".into()])).into_http()),
                _ => Ok(tonic::Status::ok("").into_http()),
            }
        })
    }
}

struct Stack {
    probe: Probe,
    token: ServiceToken,
    uri: String,
    ways: [(&'static str, Transport); 2],
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<hoistway_model::Result<()>>,
}

async fn stack() -> Stack {
    telemetry::tests::start();
    let (probe, token, shutdown) = (Probe::default(), ServiceToken::generate().unwrap(), CancellationToken::new());
    let server = Server::new(token.clone()).add(probe.clone());
    let listeners = listen_loopback(0).unwrap();
    let uri = format!("http://{}", listeners.addrs()[0]);
    let remote = Transport::connect("probe", &uri, &token).unwrap();
    let ways = [("local", server.clone().into_local()), ("tcp", remote)];
    let served = tokio::spawn(server.serve(listeners, shutdown.clone()));
    Stack { probe, token, uri, ways, shutdown, served }
}

/// Calls a method of the probe and reads the status as a generated client would.
async fn call(way: &Transport, method: &str, headers: &[(&'static str, &str)]) -> Result<(), Error> {
    call_service(way, Probe::NAME, method, headers).await
}

async fn call_service(
    way: &Transport,
    service: &str,
    method: &str,
    headers: &[(&'static str, &str)],
) -> Result<(), Error> {
    let mut request = http::Request::post(format!("/{service}/{method}")).body(Body::empty()).unwrap();
    // A channel requires an authority; generated clients leave it to the channel as well.
    *request.version_mut() = http::Version::HTTP_2;
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    let response = way.clone().ready().await.map_err(from_status)?.call(request).await.map_err(from_status)?;
    match tonic::Status::from_header_map(response.headers()) {
        Some(status) if status.code() != tonic::Code::Ok => Err(from_status(status)),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn the_token_is_asked_for_but_not_by_health() {
    let stack = stack().await;
    let stranger = ServiceToken::generate().unwrap();
    let wrong = Transport::connect("probe", &stack.uri, &stranger).unwrap();
    for (name, way) in &stack.ways {
        call(way, "Ok", &[]).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(call(&wrong, "Ok", &[]).await.unwrap_err().code, Code::Unauthenticated);
    HealthClient::new(wrong).check(HealthCheckRequest::default()).await.unwrap();

    let bare = tonic::transport::Endpoint::from_shared(stack.uri.clone()).unwrap().connect_lazy();
    HealthClient::new(bare).check(HealthCheckRequest { service: Probe::NAME.into() }).await.unwrap();

    let edge = Server::new(stack.token.clone()).add(Probe::default()).guarded_routes();
    let wrong = Transport::local(edge, &stranger);
    assert_eq!(call(&wrong, "Ok", &[]).await.unwrap_err().code, Code::Unauthenticated);
    HealthClient::new(wrong).check(HealthCheckRequest::default()).await.unwrap();
}

/// The probe under another name.
#[derive(Clone, Default)]
struct Restricted(Probe);

impl NamedService for Restricted {
    const NAME: &'static str = "hoistway.test.v1.Restricted";
}

impl Service<http::Request<Body>> for Restricted {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = <Probe as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

#[tokio::test]
async fn a_restricted_service_answers_its_own_token_alone_and_that_token_opens_nothing_else() {
    let [shared, own, stranger] = std::array::from_fn(|_| ServiceToken::generate().unwrap());
    let server = Server::new(shared.clone())
        .add(Probe::default())
        .add_restricted(own.clone(), Restricted::default())
        .deadlines(DEFAULT_DEADLINE, MAX_DEADLINE);
    let code = async |token: &ServiceToken, path: &'static str| {
        let way = server.clone().into_local_with(token);
        call_service(&way, path, "Ok", &[]).await.map_err(|e| e.code)
    };
    assert_eq!(code(&own, Restricted::NAME).await, Ok(()));
    assert_eq!(code(&shared, Restricted::NAME).await, Err(Code::PermissionDenied));
    assert_eq!(code(&stranger, Restricted::NAME).await, Err(Code::Unauthenticated));
    assert_eq!(code(&shared, Probe::NAME).await, Ok(()));
    assert_eq!(code(&own, Probe::NAME).await, Err(Code::Unauthenticated));
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_hangs() {
    let stack = stack().await;
    for (name, way) in &stack.ways {
        let e = call(way, "Hang", &[("grpc-timeout", "20m")]).await.unwrap_err();
        assert_eq!(e.code, Code::DeadlineExceeded, "{name}: {e}");
        let short = way.clone().with_deadline(Duration::from_millis(20));
        let e = call(&short, "Hang", &[]).await.unwrap_err();
        assert_eq!(e.code, Code::DeadlineExceeded, "{name}: {e}");
    }
    let strict = Server::new(stack.token).add(Probe::default()).deadlines(DEFAULT_DEADLINE, Duration::from_millis(20));
    let e = call(&strict.into_local(), "Hang", &[("grpc-timeout", "1H")]).await.unwrap_err();
    assert_eq!(e.message, "the time limit of the call passed (20ms)");
}

#[tokio::test]
async fn trace_and_request_id_arrive() {
    use tracing::Instrument;
    let stack = stack().await;
    for (name, way) in &stack.ways {
        let span = tracing::info_span!("caller");
        let id = format!("req-{name}");
        let sent = async {
            telemetry::with_request_id(id.as_str(), call(way, "Ok", &[])).await.unwrap();
            telemetry::current_trace_id().unwrap()
        };
        let sent = sent.instrument(span).await;
        let seen = stack.probe.seen.lock().unwrap().clone();
        assert_eq!(seen.request_id.as_deref(), Some(id.as_str()), "{name}");
        assert_eq!(seen.trace_id.as_ref(), Some(&sent), "{name}");
        assert!(seen.headers["traceparent"].to_str().unwrap().contains(&sent), "{name}");
        assert_eq!(seen.headers["grpc-timeout"], "30000m", "{name}");
    }
}

#[tokio::test]
async fn errors_and_panics_come_back() {
    let stack = stack().await;
    for (name, way) in &stack.ways {
        let e = call(way, "Fail", &[]).await.unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (Code::InvalidArgument, "name: is taken"), "{name}");
        assert_eq!((e.field.as_deref(), e.details.len()), (Some("name"), 1), "{name}");
        let e = call(way, "Panic", &[]).await.unwrap_err();
        assert_eq!((e.code, e.message.contains("defect")), (Code::Internal, false), "{name}");
        call(way, "Ok", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn streams_go_on_while_other_calls_are_made() {
    let stack = stack().await;
    for (name, way) in &stack.ways {
        let mut client = HealthClient::new(way.clone());
        let watch = HealthCheckRequest { service: Probe::NAME.into() };
        let mut stream = client.watch(watch).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert_eq!(first.status, 1, "{name}");
        call(way, "Ok", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let token = ServiceToken::generate().unwrap();
    let port = listen_loopback(0).unwrap().port();
    let way = Transport::connect("build", &format!("http://127.0.0.1:{port}"), &token).unwrap();
    let status = HealthClient::new(way).check(Request::new(HealthCheckRequest::default())).await.unwrap_err();
    let e = from_status(status);
    assert_eq!((e.code, e.message.as_str()), (Code::Unavailable, "the build service cannot be reached"));
    assert!(e.chain().to_lowercase().contains("refused"), "{}", e.chain());
    assert!(Transport::connect("build", "no uri at all", &token).is_err());
}

#[tokio::test]
async fn a_shutdown_lets_calls_finish_and_frees_the_port() {
    let stack = stack().await;
    let way = stack.ways[1].1.clone();
    call(&way, "Ok", &[]).await.unwrap();
    let (calling, shutdown) = (way.clone(), stack.shutdown.clone());
    let seen = stack.probe.seen.clone();
    seen.lock().unwrap().headers.clear();
    let slow = tokio::spawn(async move { call(&calling, "Hang", &[("grpc-timeout", "200m")]).await });
    while seen.lock().unwrap().headers.is_empty() {
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    assert_eq!(slow.await.unwrap().unwrap_err().code, Code::DeadlineExceeded);
    stack.served.await.unwrap().unwrap();
    assert_eq!(call(&way, "Ok", &[]).await.unwrap_err().code, Code::Unavailable);
}

#[test]
fn a_transport_fits_into_shared_clients() {
    fn fits<T: Clone + Send + Sync + 'static>() {}
    fits::<Transport>();
    fits::<HealthClient<Transport>>();
}

#[test]
fn time_limits_are_read_and_written() {
    let read =
        |text: &str| parse_timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT.parse().unwrap(), text.parse().unwrap())]));
    for (text, limit) in [
        ("1H", Some(Duration::from_secs(3600))),
        ("2M", Some(Duration::from_secs(120))),
        ("3S", Some(Duration::from_secs(3))),
        ("4m", Some(Duration::from_millis(4))),
        ("5u", Some(Duration::from_micros(5))),
        ("6n", Some(Duration::from_nanos(6))),
        ("", None),
        ("S", None),
        ("1", None),
        ("+1S", None),
        ("123456789S", None),
    ] {
        assert_eq!(read(text), limit, "{text}");
    }
    for limit in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(900)] {
        assert_eq!(read(&format_timeout(limit)), Some(limit));
    }
    assert_eq!(read(&format_timeout(Duration::from_secs(2_000_000))), Some(Duration::from_secs(2_000_000)));
}
