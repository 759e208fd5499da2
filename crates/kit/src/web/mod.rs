//! Serves HTTP: the one place that combines listeners, hyper, axum and shutdown.

mod bare_lf;

use crate::{
    connection_limits::{Bounded, Connections, Limits},
    ports::Listeners,
    tls::{Accepted, ListenerTls},
};
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::{IntoResponse, Response},
};
use hoistway_model::Result;
use http::{HeaderMap, StatusCode, Version, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{pin::pin, sync::atomic::Ordering, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// The `User-Agent` of every HTTP client of Hoistway.
pub const USER_AGENT: &str = concat!("hoistway/", env!("CARGO_PKG_VERSION"));
/// The longest time that requests in flight may go on after shutdown begins.
const DRAIN: Duration = Duration::from_secs(30);
/// The longest idle time of a connection before a request and in the middle of its head.
const HEAD: Duration = Duration::from_secs(60);
/// The most header fields of one request.
const FIELDS: usize = 128;
/// The bytes of the read and of the write buffer of each connection; a request's head has to fit.
const BUFFER: usize = 64 << 10;

/// Serves `app` until `shutdown` is cancelled, then lets requests in flight end, for [`DRAIN`] at most. Handlers find
/// `ConnectInfo<SocketAddr>` and the [`crate::connection_limits::Connection`] in a request's extensions. Metrics of its
/// connections have the label `name`.
pub async fn serve(
    name: &'static str,
    listeners: Listeners,
    app: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<()> {
    let (connections, serving) = (Connections::new(name, limits), TaskTracker::new());
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listeners.accept() => accepted,
        };
        let (stream, tls) = (connections.take_in(stream, peer), listeners.tls().cloned());
        let (app, shutdown) = (app.clone(), shutdown.clone());
        serving.spawn(async move {
            let accepted = shutdown.run_until_cancelled(ListenerTls::accept(tls, stream)).await;
            match accepted {
                Some(Ok(accepted)) => serve_connection(accepted, app, shutdown).await,
                Some(Err(e)) => tracing::debug!("a connection of {peer} was not opened: {e}"),
                None => {}
            }
        });
    }
    drop(listeners);
    serving.close();
    if tokio::time::timeout(DRAIN, serving.wait()).await.is_err() {
        tracing::warn!("requests were still running {} s after the shutdown began", DRAIN.as_secs());
    }
    Ok(())
}

/// Whether a request has exactly one Host, as HTTP/1.1 requires (RFC 9112, 3.2): of two, a proxy in front may have used
/// another one than the server does.
fn names_one_host(version: Version, headers: &HeaderMap) -> bool {
    match headers.get_all(header::HOST).iter().count() {
        0 => version < Version::HTTP_11,
        1 => true,
        _ => false,
    }
}

const NO_HOST: &str = r#"{"error":"a request needs the header Host, once","code":"invalid_argument"}"#;
const NO_TLS: &str = r#"{"error":"this address needs TLS: use https","code":"invalid_argument"}"#;
const LONE_LINE_FEED: &str = r#"{"error":"the lines of a request's head end in CR LF","code":"invalid_argument"}"#;

fn refused(text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CONNECTION, "close")];
    (StatusCode::BAD_REQUEST, headers, text).into_response()
}

async fn serve_connection(accepted: Accepted<Bounded>, app: Router, shutdown: CancellationToken) {
    let (stream, needs_tls) = match accepted {
        Accepted::Stream(stream) => (stream, false),
        Accepted::PlaintextRefused(stream) => (stream, true),
    };
    let connection = stream.connection();
    let (stream, lone_line_feed) = bare_lf::watch(stream);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (app, connection) = (app.clone(), connection.clone());
        let has_lone_line_feed = lone_line_feed.load(Ordering::Relaxed);
        async move {
            if needs_tls {
                return Ok(refused(NO_TLS));
            }
            if has_lone_line_feed {
                return Ok(refused(LONE_LINE_FEED));
            }
            if !names_one_host(request.version(), request.headers()) {
                return Ok(refused(NO_HOST));
            }
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(connection.peer()));
            request.extensions_mut().insert(connection);
            app.oneshot(request).await
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(FIELDS).max_buf_size(BUFFER);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    #[tokio::test]
    async fn a_request_says_once_for_whom_it_is_and_ends_its_lines_as_they_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let app = Router::new().fallback(|| async { "served" });
        let serving = tokio::spawn(serve("test", listener.into(), app, Limits::default(), stop.clone()));
        for (head, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "200"),
            ("GET / HTTP/1.0\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
            ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", "400"),
            ("GET / HTTP/1.1\nHost: a\n\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n", "400"),
        ] {
            let (mut stream, mut answer) = (TcpStream::connect(at).await.unwrap(), String::new());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.get(9..12), Some(status), "{head}: {answer}");
        }
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
