//! Spans of one trace in several tasks, in several programs, and before and after a restart.

use super::remote_context;
use hoistway_model::Result;
use http::HeaderMap;
use opentelemetry::{
    Context,
    trace::{SpanContext, Status, TraceContextExt},
};
use std::future::Future;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of spans that only log lines show, and that are never exported: those of probes, and of calls between
/// services that belong to no trace because a background task makes them.
pub const UNTRACED: &str = "hoistway::untraced";

/// A span as the parent of spans in other tasks. Unlike a [`Span`] it does not keep the parent from ending.
#[derive(Debug, Clone, Default)]
pub struct TraceParent(Option<SpanContext>);

impl TraceParent {
    /// Returns the current span; none where the current task belongs to no trace.
    pub fn current() -> Self {
        Self::of_span(&Span::current())
    }

    /// Returns `span`; none where it is not part of a trace.
    pub fn of_span(span: &Span) -> Self {
        let context = span.context().span().span_context().clone();
        Self(context.is_valid().then_some(context))
    }

    /// Reads a W3C `traceparent`; none if it is not valid.
    pub fn parse(traceparent: &str) -> Self {
        Self::of(remote_context(&HeaderMap::new(), Some(traceparent)))
    }

    pub(super) fn of(context: Option<Context>) -> Self {
        Self(context.map(|context| context.span().span_context().clone()))
    }

    /// Returns the trace's id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> Option<String> {
        self.0.as_ref().map(|context| context.trace_id().to_string())
    }

    /// Whether there is a parent.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Makes it the parent of `span`, which must not have been entered yet. Without a parent the span stays as it is.
    pub fn adopt(&self, span: &Span) {
        if let Some(context) = &self.0 {
            // It fails only if tracing is not started, and then there is nothing to continue.
            let _ = span.set_parent(Context::new().with_remote_span_context(context.clone()));
        }
    }
}

/// Runs `work` within `span`, which is marked as failed if that is what comes of it.
pub async fn within<T>(span: Span, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = work.instrument(span.clone()).await;
    done.inspect_err(|e| set_error(&span, e.code.as_str()))
}

/// Marks `span` as failed. `error_type` is an error's code: its message may quote what nobody may export.
pub fn set_error(span: &Span, error_type: &'static str) {
    span.set_attribute("error.type", error_type);
    span.set_status(Status::error(""));
}

/// Sets an attribute of `span` that its log lines do not show.
pub fn set_attribute(span: &Span, key: &'static str, value: impl Into<opentelemetry::Value>) {
    span.set_attribute(key, value);
}
