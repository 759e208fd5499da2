//! The log format for programs: one JSON object for each line, with the ids that join lines at its top level.

use super::SHOWN;
use opentelemetry::{Context, trace::TraceContextExt};
use serde_json::{Map, Value};
use std::fmt;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

/// Adds to the lines of another format `trace_id` and `span_id`, and the fields of the spans around a line that
/// identify its request, deployment and agent.
#[derive(Debug)]
pub struct JsonFormat<F>(F);

impl<F> JsonFormat<F> {
    /// `format` writes lines that are JSON objects.
    pub const fn new(format: F) -> Self {
        Self(format)
    }
}

impl<S, N, F> FormatEvent<S, N> for JsonFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        let Some(members) = line.trim_end().strip_suffix('}') else { return writer.write_str(&line) };
        writer.write_str(members)?;
        let has = |name: &str| event.metadata().fields().field(name).is_some();
        let (trace, span) = Context::map_current(|context| {
            let span = context.span().span_context().clone();
            (span.trace_id(), span.is_valid().then(|| span.span_id()))
        });
        // A span that is for lines only may name the trace that they belong to.
        let of_trace = span.is_none().then_some("trace_id");
        let mut missing: Vec<&str> = SHOWN.into_iter().chain(of_trace).filter(|name| !has(name)).collect();
        for span in ctx.event_scope().into_iter().flatten() {
            if missing.is_empty() {
                break;
            }
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<N>>() else { continue };
            let fields: Map<String, Value> = serde_json::from_str(&fields.fields).unwrap_or_default();
            // The innermost span with the field wins.
            missing.retain(|name| match fields.get(*name) {
                Some(value) => write!(writer, ",\"{name}\":{value}").is_err(),
                None => true,
            });
        }
        if let Some(span) = span {
            write!(writer, ",\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"")?;
        }
        writeln!(writer, "}}")
    }
}
