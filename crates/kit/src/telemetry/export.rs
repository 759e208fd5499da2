//! Export of spans by OTLP, configured by OpenTelemetry's own environment variables: `OTEL_EXPORTER_OTLP_ENDPOINT`
//! turns it on.

use super::outage::{Cause, Reporting, Watched};
use hoistway_model::{Code, Error, Result};
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::{env, thread, time::Duration};

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const DISABLED: &str = "OTEL_SDK_DISABLED";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const PROTOCOL: &str = "http/protobuf";
/// The time limit of one batch, the connection included.
const LIMIT: Duration = Duration::from_secs(10);
/// The time limit of the last spans at the end of the program.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// The handle of the span export. Dropping it sends the last spans.
#[derive(Debug)]
#[must_use = "the last spans are lost without it"]
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Err(e) = self.provider.shutdown_with_timeout(LAST_SPANS) {
            tracing::debug!("the last spans were not exported: {e}");
        }
    }
}

/// Returns the provider of spans, which are exported if the environment configures it.
pub(super) fn start(service_name: &str) -> Result<(SdkTracerProvider, Telemetry)> {
    let mut builder = SdkTracerProvider::builder();
    let exporter = exporter()?;
    let exports = exporter.is_some();
    if let Some(exporter) = exporter {
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if variable(SERVICE_NAME).is_none() {
            resource = resource.with_service_name(service_name.to_owned());
        }
        builder = builder.with_resource(resource.build()).with_batch_exporter(exporter);
    }
    let provider = builder.build();
    if exports {
        // Without a global provider, spans that services create themselves cost nothing.
        global::set_tracer_provider(provider.clone());
    }
    Ok((provider.clone(), Telemetry { provider }))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn exporter() -> Result<Option<Reporting<SpanExporter>>> {
    let is_disabled = variable(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if is_disabled || ENDPOINTS.into_iter().find_map(variable).is_none() {
        return Ok(None);
    }
    match variable(EXPORTER).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(_) => return Err(wrong(EXPORTER, "must be \"otlp\" or \"none\"")),
    }
    for name in PROTOCOLS {
        if variable(name).is_some_and(|protocol| protocol != PROTOCOL) {
            return Err(wrong(name, "must be \"http/protobuf\", which collectors serve at port 4318"));
        }
    }
    let cause = Cause::default();
    let client = Watched::new(client()?, cause.clone());
    let built = SpanExporter::builder().with_http().with_http_client(client).build();
    built
        .map(|exporter| Some(Reporting::new(exporter, cause)))
        .map_err(|e| wrong(ENDPOINTS[1], &format!("spans cannot be exported: {e}")))
}

fn wrong(variable: &str, why: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("{variable}: {why}"))
}

/// Batches are sent by a thread of their own, with a blocking client. It cannot be created on the async runtime.
fn client() -> Result<reqwest::blocking::Client> {
    let building = thread::spawn(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::blocking::Client::builder().timeout(LIMIT).build()
    });
    let built = building.join().map_err(|_| Error::new(Code::Internal, "starting the export of spans"))?;
    built.map_err(|e| Error::internal("starting the export of spans", e))
}
