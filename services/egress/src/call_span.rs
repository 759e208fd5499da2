//! The span of one call, by OpenTelemetry's conventions for HTTP clients and for generative AI: a child of the agent's
//! own span where the agent passes its trace context on, else of the invoke within which it calls. Never a header or a
//! query, and a prompt only where the operator has turned that on.

use crate::calls::CallRecord;
use hoistway_kit::{
    invoke_statement::InvokeStatement,
    telemetry::{self, TraceParent},
};
use hoistway_model::{Name, egress::CallTarget, usage::UsageSums};
use http::HeaderMap;
use opentelemetry::{
    KeyValue,
    global::{self, BoxedSpan},
    trace::{Span, SpanKind, Status, Tracer},
};
use std::borrow::Cow;

const TRACER: &str = "hoistway-egress";
const OPERATION: &str = "gen_ai.operation.name";

/// Returns the span of the log lines of a call with these headers: they name the agent, and the request and the trace
/// that it calls within.
pub(crate) fn for_lines(agent: &Name, headers: &HeaderMap, invoke: &InvokeStatement) -> tracing::Span {
    let parent = telemetry::remote_parent(headers).trace_id();
    let parent = parent.or_else(|| TraceParent::parse(invoke.traceparent.as_deref()?).trace_id());
    tracing::info_span!(
        target: telemetry::UNTRACED,
        "call",
        %agent,
        request_id = invoke.request_id,
        trace_id = parent,
    )
}

/// A span that ends with its call. Without an export of spans there is none.
#[derive(Debug, Default)]
pub(crate) struct CallSpan(Option<BoxedSpan>);

impl CallSpan {
    /// Begins the span of a call with these headers.
    pub(crate) fn begin(headers: &HeaderMap, invoke: &InvokeStatement) -> Self {
        let parent = telemetry::remote_context(headers, invoke.traceparent.as_deref()).unwrap_or_default();
        let tracer = global::tracer(TRACER);
        let builder = tracer.span_builder("call").with_kind(SpanKind::Client);
        let mut span = tracer.build_with_context(builder, &parent);
        if !span.is_recording() {
            return Self(None);
        }
        let request_id = invoke.request_id.clone();
        span.set_attributes(request_id.map(|id| KeyValue::new("hoistway.request_id", id)));
        Self(Some(span))
    }

    /// It is the call of a tool.
    pub(crate) fn tool(&mut self, name: &str) {
        self.is(format!("execute_tool {name}"), || {
            vec![KeyValue::new(OPERATION, "execute_tool"), KeyValue::new("gen_ai.tool.name", name.to_owned())]
        });
    }

    /// It is the call of a model; `provider` is the kind of its provider.
    pub(crate) fn model(&mut self, operation: &'static str, provider: &'static str, model: &str) {
        self.is(format!("{operation} {model}"), || {
            vec![
                KeyValue::new(OPERATION, operation),
                KeyValue::new("gen_ai.provider.name", provider),
                KeyValue::new("gen_ai.request.model", model.to_owned()),
            ]
        });
    }

    /// It asks the model this, as JSON.
    pub(crate) fn prompt(&mut self, messages: impl FnOnce() -> Option<String>) {
        if let Some(span) = &mut self.0 {
            span.set_attributes(messages().map(|messages| KeyValue::new("gen_ai.input.messages", messages)));
        }
    }

    fn is(&mut self, name: impl Into<Cow<'static, str>>, attributes: impl FnOnce() -> Vec<KeyValue>) {
        if let Some(span) = &mut self.0 {
            span.update_name(name);
            span.set_attributes(attributes());
        }
    }

    /// Lets the called host go on with the trace, if the agent has passed one on.
    pub(crate) fn continue_in(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.0
            && telemetry::remote_context(headers, None).is_some()
        {
            telemetry::inject_span(span.span_context(), headers);
        }
    }

    /// Ends it with what came of the call. `provider_error` is the type of the error that a model provider named.
    pub(crate) fn end(&mut self, record: &CallRecord, provider_error: Option<String>, used: Option<&UsageSums>) {
        let Some(mut span) = self.0.take() else { return };
        if record.target.is_none() {
            span.update_name(record.method.clone());
        }
        let provider = match &record.target {
            Some(CallTarget::ModelProvider(name)) => Some(name),
            Some(CallTarget::Tool(_)) | None => None,
        };
        let (host, port) = host_and_port(&record.origin);
        let failed = record.status.filter(|status| *status >= 400).map(|status| status.to_string());
        let error = provider_error.or(record.refused.or(record.broken).map(str::to_owned)).or(failed);
        let attributes = [
            record.agent.as_ref().map(|agent| KeyValue::new("gen_ai.agent.name", agent.to_string())),
            record.revision.map(|revision| KeyValue::new("gen_ai.agent.id", revision.to_string())),
            provider.map(|name| KeyValue::new("hoistway.model_provider", name.to_string())),
            Some(KeyValue::new("http.request.method", record.method.clone())),
            record.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))),
            host.map(|host| KeyValue::new("server.address", host.to_owned())),
            port.map(|port| KeyValue::new("server.port", i64::from(port))),
            used.map(|used| tokens("gen_ai.usage.input_tokens", used.input_tokens)),
            used.map(|used| tokens("gen_ai.usage.output_tokens", used.output_tokens)),
            error.clone().map(|error| KeyValue::new("error.type", error)),
        ];
        span.set_attributes(attributes.into_iter().flatten());
        if error.is_some() {
            span.set_status(Status::error(record.error.clone().unwrap_or_default()));
        }
        span.end();
    }
}

fn tokens(key: &'static str, count: u64) -> KeyValue {
    KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX))
}

/// Of `SCHEME://HOST` or `SCHEME://HOST:PORT`.
fn host_and_port(origin: &str) -> (Option<&str>, Option<u16>) {
    let Some((scheme, place)) = origin.split_once("://") else { return (None, None) };
    let default = if scheme == "https" { 443 } else { 80 };
    match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (Some(host), port.parse().ok()),
        _ => (Some(place), Some(default)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_host_and_a_port() {
        for (origin, host, port) in [
            ("https://api.example", "api.example", 443),
            ("http://tool:8080", "tool", 8080),
            ("http://[::1]", "[::1]", 80),
            ("https://[::1]:8443", "[::1]", 8443),
        ] {
            assert_eq!(host_and_port(origin), (Some(host), Some(port)), "{origin}");
        }
        assert_eq!(host_and_port(""), (None, None));
    }
}
