//! Probes: whether a process can do its work, and their HTTP server beside a service that speaks gRPC.

use crate::{connection_limits::Limits, ports, shutdown::part, web};
use async_trait::async_trait;
use axum::{Json, Router, extract::State, routing::get};
use hoistway_model::{Code, Error, Result};
use http::StatusCode;
use serde_json::{Value, json};
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// The longest time of a check: one that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 3 });
/// The time for which a result is used again, since everybody may probe.
const FRESH: Duration = Duration::from_secs(1);

/// Whether a process, with everything it depends on, can do its work now.
#[async_trait]
pub trait ReadyCheck: fmt::Debug + Send + Sync + 'static {
    /// `Ok`, or an error whose public text says what is missing.
    async fn check(&self) -> Result<()>;
}

/// Checks within the time that a probe waits.
pub async fn in_time(check: &dyn ReadyCheck) -> Result<()> {
    timeout(PATIENCE, check.check()).await.unwrap_or_else(|_| {
        let text = format!("a dependency did not answer within {} s", PATIENCE.as_secs());
        Err(Error::new(Code::Unavailable, text))
    })
}

struct Readiness {
    check: Arc<dyn ReadyCheck>,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Readiness {
    async fn now(&self) -> Result<(), String> {
        // The others wait for the same result.
        let mut last = self.last.lock().await;
        if let Some((at, result)) = &*last
            && at.elapsed() < FRESH
        {
            return result.clone();
        }
        let result = in_time(&*self.check).await.map_err(|e| {
            tracing::debug!(cause = e.chain(), "not ready: {e}");
            e.message
        });
        *last = Some((Instant::now(), result.clone()));
        result
    }
}

/// Serves `/healthz`, which is 200 while the process answers, and `/readyz`, which is 200 while `check` succeeds and
/// otherwise 503 with the reason, until `shutdown`. Without an address it only waits. Both need no key and no TLS.
pub async fn serve(listen: Option<SocketAddr>, check: Arc<dyn ReadyCheck>, shutdown: CancellationToken) -> Result<()> {
    let Some(address) = listen else {
        shutdown.cancelled().await;
        return Ok(());
    };
    let readiness = Arc::new(Readiness { check, last: Mutex::default() });
    let app = Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(ready))
        .with_state(readiness);
    web::serve("probes", ports::listen(address)?, app, Limits::default(), shutdown).await
}

/// Runs a service with its probes beside it. When one of the two ends, `ended` is cancelled for the other.
pub async fn serve_beside(
    service: impl Future<Output = Result<()>>,
    listen: Option<SocketAddr>,
    check: Arc<dyn ReadyCheck>,
    ended: &CancellationToken,
) -> Result<()> {
    let probes = serve(listen, check, ended.clone());
    let (served, probes) = tokio::join!(part(ended, service), part(ended, probes));
    served.and(probes)
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> (StatusCode, Json<Value>) {
    match readiness.now().await {
        Ok(()) => (StatusCode::OK, Json(json!({"status": "ready"}))),
        Err(why) => {
            let body = json!({"error": format!("not ready: {why}"), "code": Code::Unavailable.as_str()});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicU8, Ordering},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    /// Ready at first, then not, then never done.
    #[derive(Debug, Default)]
    struct Stages(AtomicU8);

    #[async_trait]
    impl ReadyCheck for Stages {
        async fn check(&self) -> Result<()> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(()),
                1 => Err(Error::new(Code::Unavailable, "the database cannot be reached")),
                _ => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn a_probe_has_the_reason_and_does_not_hang_with_a_dependency() {
        let readiness = Readiness { check: Arc::new(Stages::default()), last: Mutex::default() };
        assert_eq!(readiness.now().await, Ok(()));
        assert_eq!(readiness.now().await, Ok(()), "a fresh result is used again");
        *readiness.last.lock().await = None;
        assert_eq!(readiness.now().await, Err("the database cannot be reached".to_owned()));
        *readiness.last.lock().await = None;
        assert_eq!(readiness.now().await, Err("a dependency did not answer within 1 s".to_owned()));
    }

    #[tokio::test]
    async fn probes_are_served_until_the_shutdown() {
        let port = ports::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap().port();
        let (at, stop) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CancellationToken::new());
        let stages = Stages::default();
        stages.0.store(1, Ordering::Relaxed);
        let serving = tokio::spawn(serve(Some(at), Arc::new(stages), stop.clone()));
        for (path, status, text) in [("/healthz", "200", "ok"), ("/readyz", "503", "the database cannot be reached")] {
            let mut stream = loop {
                // The server is bound once its task has begun.
                match TcpStream::connect(at).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.get(9..12) == Some(status) && answer.contains(text), "{answer}");
        }
        stop.cancel();
        serving.await.unwrap().unwrap();
        assert!(TcpStream::connect(at).await.is_err());
    }
}
