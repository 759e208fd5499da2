//! Reports outages of the collector of spans: one line at the beginning and one at the end, instead of two for each
//! batch.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tracing::Metadata;

/// The exporter's own lines about failed batches, which this module replaces.
const TARGET: &str = "opentelemetry-otlp";
const FAILED: &str = "Export.Failed.";

/// Whether a line is not one of the exporter's lines about failed batches.
pub(super) fn is_no_failed_batch(line: &Metadata<'_>) -> bool {
    line.target() != TARGET || !line.name().starts_with(FAILED)
}

/// The number of spans that this process has not exported, since its exporter is as global.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Returns the number of spans that this process could not export.
pub fn dropped_spans() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The reason why the last batch failed: its address and the error.
#[derive(Debug, Clone, Default)]
pub(super) struct Cause(Arc<Mutex<Option<String>>>);

impl Cause {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An HTTP client that records why a request failed, which the exporter's errors omit.
#[derive(Debug)]
pub(super) struct Watched<C> {
    client: C,
    cause: Cause,
}

impl<C> Watched<C> {
    pub(super) fn new(client: C, cause: Cause) -> Self {
        Self { client, cause }
    }
}

#[async_trait]
impl<C: HttpClient> HttpClient for Watched<C> {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let address = address(request.uri());
        let answer = self.client.send_bytes(request).await;
        *self.cause.lock() = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("{address} answered {}", answer.status())),
            Err(e) => Some(format!("{address}: {}", root(&**e))),
        };
        answer
    }
}

/// Formats the address without a password, which the authority may have.
fn address(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// Returns the innermost source of an error: the outer ones repeat the address.
fn root<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// An exporter that reports when it begins to fail and when it works again.
#[derive(Debug)]
pub(super) struct Reporting<E> {
    exporter: E,
    cause: Cause,
    /// The number of spans dropped since it began to fail; `None` while it works.
    dropped: Mutex<Option<usize>>,
}

/// A reported change.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Fails,
    Works { dropped: usize },
}

impl<E> Reporting<E> {
    pub(super) fn new(exporter: E, cause: Cause) -> Self {
        Self { exporter, cause, dropped: Mutex::default() }
    }

    fn news(&self, spans: usize, failed: bool) -> Option<News> {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if failed {
            let before = *dropped;
            *dropped = Some(before.unwrap_or_default() + spans);
            return before.is_none().then_some(News::Fails);
        }
        dropped.take().map(|dropped| News::Works { dropped })
    }
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        if exported.is_err() {
            DROPPED.fetch_add(spans as u64, Ordering::Relaxed);
        }
        match (self.news(spans, exported.is_err()), exported) {
            (Some(News::Fails), Err(e)) => {
                let cause = self.cause.lock().take().unwrap_or_else(|| e.to_string());
                tracing::warn!("spans are not exported, and are dropped until that works again: {cause}");
            }
            (Some(News::Works { dropped }), _) => {
                tracing::info!("spans are exported again; {dropped} were dropped meanwhile");
            }
            _ => {}
        }
        // The caller would only log the error, each time.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_at_its_beginning_and_its_end() {
        let exporter = Reporting::new((), Cause::default());
        let told = [(3, false), (5, true), (7, true), (1, false), (1, false), (2, true)]
            .map(|(spans, failed)| exporter.news(spans, failed));
        assert_eq!(told, [None, Some(News::Fails), None, Some(News::Works { dropped: 12 }), None, Some(News::Fails)]);
    }

    #[test]
    fn the_address_has_no_password() {
        let shown = |uri: &'static str| address(&Uri::from_static(uri));
        assert_eq!(shown("http://user:secret@collector:4318/v1/traces?key=secret"), "http://collector:4318/v1/traces");
        assert_eq!(shown("https://[::1]/v1/traces"), "https://[::1]/v1/traces");
    }
}
