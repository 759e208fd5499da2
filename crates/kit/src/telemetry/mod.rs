//! Logs on standard error, trace context in and out of headers, and the request id of a call.

use hoistway_model::{Code, Error, Result};
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::{SpanContext, TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use serde::{Deserialize, Serialize};
use std::{
    env,
    future::Future,
    io::{self, IsTerminal},
    str::FromStr,
    sync::Arc,
};
use tracing::{Instrument, Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

mod export;
mod human;
mod json;
mod outage;
mod stderr;
mod trace_parent;

pub use export::Telemetry;
pub use human::controls_display;
pub use outage::dropped_spans;
pub use stderr::{HeldLines, hold_lines};
pub use trace_parent::{TraceParent, UNTRACED, set_attribute, set_error, within};

/// The variable with the log filter, such as `info,hoistway::rpc=debug,sqlx::query=debug`.
pub const LOG_VARIABLE: &str = "HOISTWAY_LOG";

/// The header, and the gRPC metadata key, of the request id.
pub const REQUEST_ID: &str = "x-request-id";
const MAX_REQUEST_ID: usize = 128;
/// The header of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, coloured on a terminal.
    #[default]
    Human,
    /// One JSON object for each line.
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(Error::new(Code::InvalidArgument, "the log format must be \"human\" or \"json\"")),
        }
    }
}

/// The fields of spans that a line shows, unless the event has them itself. Their values contain no space.
const SHOWN: [&str; 3] = ["request_id", "deployment", "agent"];

/// The lines that are logged by default. A pool of connections replaces broken ones by itself: a statement that fails
/// is logged where it fails.
const LOGGED: &str = "info,sqlx::postgres::notice=error,sqlx_core::pool=error";

/// Starts logging and tracing for this process. Called once, by `main`, which keeps the result until its end; libraries
/// only emit.
pub fn init(service_name: &str, format: LogFormat) -> Result<Telemetry> {
    let directives = env::var(LOG_VARIABLE).ok().filter(|directives| !directives.is_empty());
    let filter = EnvFilter::builder()
        .parse(directives.as_deref().unwrap_or(LOGGED))
        .map_err(|e| Error::new(Code::InvalidArgument, format!("{LOG_VARIABLE}: {e}")))?;
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Human => fmt::layer()
            .fmt_fields(human::SpanFields)
            .event_format(human::HumanFormat)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(stderr::Stderr)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .map_event_format(|format| json::JsonFormat::new(format.flatten_event(true)))
            .with_writer(stderr::Stderr)
            .boxed(),
    };

    // Spans have ids whatever is logged and exported, so that a trace crosses every service unbroken.
    let (provider, telemetry) = export::start(service_name)?;
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(service_name.to_owned()))
        .with_location(false)
        .with_target(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_exported).with_max_level_hint(Level::INFO));
    global::set_text_map_propagator(TraceContextPropagator::new());

    tracing_subscriber::registry()
        .with(
            lines.with_filter(
                filter
                    .and(filter_fn(outage::is_no_failed_batch).with_max_level_hint(Level::TRACE))
                    .or(filter_fn(is_context).with_max_level_hint(Level::INFO)),
            ),
        )
        .with(spans)
        .try_init()
        .map_err(|e| Error::internal("starting telemetry", e))?;
    Ok(telemetry)
}

/// Whether a span is part of a trace.
fn is_exported(meta: &Metadata<'_>) -> bool {
    is_context(meta) && meta.target() != UNTRACED
}

/// Whether a span has the fields that lines of its request, deployment or agent show, also where a filter leaves only
/// warnings of the lines.
fn is_context(meta: &Metadata<'_>) -> bool {
    meta.is_span() && *meta.level() <= Level::INFO
}

/// Writes the W3C trace context of the current span into `headers`.
pub fn inject(headers: &mut HeaderMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|p| p.inject_context(&context, &mut HeadersOut(headers)));
}

/// Returns the W3C `traceparent` of the current span.
pub fn traceparent() -> Option<String> {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    headers.get(TRACEPARENT)?.to_str().ok().map(str::to_owned)
}

/// Returns the trace context that a caller sent in `headers`, or else that of `traceparent`.
pub fn remote_context(headers: &HeaderMap, traceparent: Option<&str>) -> Option<Context> {
    let extract = |headers: &HeaderMap| {
        let context = global::get_text_map_propagator(|p| p.extract_with_context(&Context::new(), &HeadersIn(headers)));
        context.span().span_context().is_valid().then_some(context)
    };
    extract(headers).or_else(|| {
        let value = HeaderValue::from_str(traceparent?).ok()?;
        extract(&HeaderMap::from_iter([(HeaderName::from_static(TRACEPARENT), value)]))
    })
}

/// Writes the trace context of `span` into `headers`, replacing any other.
pub fn inject_span(span: &SpanContext, headers: &mut HeaderMap) {
    let context = Context::new().with_remote_span_context(span.clone());
    global::get_text_map_propagator(|p| p.inject_context(&context, &mut HeadersOut(headers)));
}

/// Returns the caller's span in `headers`, if they have one.
pub fn remote_parent(headers: &HeaderMap) -> TraceParent {
    TraceParent::of(remote_context(headers, None))
}

/// Returns the trace id of the current span: 32 hexadecimal digits.
pub fn current_trace_id() -> Option<String> {
    trace_id(&Span::current())
}

/// Returns the trace id of `span`.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| context.trace_id().to_string())
}

tokio::task_local! {
    static CURRENT_REQUEST_ID: Arc<str>;
}

/// Runs `future` with a request id that all its outgoing calls carry. Tasks that it spawns have none.
pub async fn with_request_id<F: Future>(id: impl Into<Arc<str>>, future: F) -> F::Output {
    CURRENT_REQUEST_ID.scope(id.into(), future).await
}

/// The span and the request id of a task, to be passed to another one.
#[derive(Debug, Clone)]
pub struct Origin {
    span: Span,
    request_id: Option<Arc<str>>,
}

impl Origin {
    /// Returns those of the current task.
    pub fn current() -> Self {
        Self { span: Span::current(), request_id: request_id() }
    }

    /// Runs `future` with this span and request id.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        let future = future.instrument(self.span);
        match self.request_id {
            Some(id) => with_request_id(id, future).await,
            None => future.await,
        }
    }
}

/// Returns the request id of the current task.
pub fn request_id() -> Option<Arc<str>> {
    CURRENT_REQUEST_ID.try_with(Arc::clone).ok()
}

/// Returns the request id that a caller sent, if it is short and plain enough to be logged and passed on.
pub fn request_id_of(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    (!id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic())).then_some(id)
}

struct HeadersOut<'a>(&'a mut HeaderMap);

impl Injector for HeadersOut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

struct HeadersIn<'a>(&'a HeaderMap);

impl Extractor for HeadersIn<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Starts tracing. It is process-wide, so the tests share one start.
    pub(crate) fn start() {
        static STARTED: std::sync::OnceLock<()> = std::sync::OnceLock::new();
        STARTED.get_or_init(|| std::mem::forget(init("test", LogFormat::Human).unwrap()));
    }

    #[test]
    fn a_trace_goes_on_over_headers() {
        start();
        let mut headers = HeaderMap::new();
        let caller = tracing::info_span!("caller");
        let sent = caller.in_scope(|| {
            inject(&mut headers);
            current_trace_id().unwrap()
        });
        assert!(headers["traceparent"].to_str().unwrap().contains(&sent));

        let callee = tracing::info_span!("callee");
        remote_parent(&headers).adopt(&callee);
        assert_eq!(callee.in_scope(current_trace_id), Some(sent.clone()));

        let stranger = tracing::info_span!("stranger");
        remote_parent(&HeaderMap::new()).adopt(&stranger);
        let other = stranger.in_scope(current_trace_id).unwrap();
        assert_ne!(other, sent);
        assert!(init("again", LogFormat::Json).is_err());
    }

    #[tokio::test]
    async fn the_request_id_belongs_to_the_task() {
        assert_eq!(request_id(), None);
        let inner = with_request_id("req-1", async { request_id() }).await;
        assert_eq!(inner.as_deref(), Some("req-1"));
    }

    #[test]
    fn odd_request_ids_are_dropped() {
        for (value, taken) in [("req-1", true), ("", false), ("a b", false), (&"x".repeat(129), false)] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(REQUEST_ID), value.parse().unwrap())]);
            assert_eq!(request_id_of(&headers).is_some(), taken, "{value}");
        }
    }
}
