//! The spans of a call at both ends, by OpenTelemetry's conventions for RPC.

use crate::telemetry::{self, TraceParent};
use http::{Request, Response};
use tonic::{Code, body::Body};
use tracing::{Span, field::Empty};

/// Returns the span of a call that arrives: the child of its caller's. A background task's call belongs to no trace, and
/// only log lines show its span; so do strangers' calls, since the names in them are the callers'.
pub(super) fn of_server(request: &Request<Body>, is_admitted: bool) -> Span {
    let (service, method) = names(request.uri().path());
    let parent = telemetry::remote_parent(request.headers());
    let span = if is_admitted && parent.is_some() {
        tracing::info_span!(
            "grpc.server",
            otel.name = name(request.uri().path()),
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            request_id = Empty,
        )
    } else {
        tracing::info_span!(
            target: telemetry::UNTRACED,
            "grpc.server",
            rpc.service = service,
            rpc.method = method,
            request_id = Empty,
        )
    };
    parent.adopt(&span);
    if let Some(id) = telemetry::request_id_of(request.headers()) {
        span.record("request_id", id);
    }
    span
}

/// Returns the span of a call that leaves, and none for a background task, which belongs to no trace.
pub(super) fn of_client(request: &Request<Body>) -> Span {
    if !TraceParent::current().is_some() {
        return Span::none();
    }
    let (service, method) = names(request.uri().path());
    tracing::info_span!(
        "grpc.client",
        otel.name = name(request.uri().path()),
        otel.kind = "client",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
    )
}

/// Records the status that a call was answered with. By the conventions a server has not failed where its caller was
/// wrong.
pub(super) fn end_server(span: &Span, status: Code) {
    telemetry::set_attribute(span, "rpc.grpc.status_code", i64::from(i32::from(status)));
    let failed =
        [Code::Unknown, Code::DeadlineExceeded, Code::Unimplemented, Code::Internal, Code::Unavailable, Code::DataLoss];
    if failed.contains(&status) {
        telemetry::set_error(span, code_name(status));
    }
}

/// Records the status that a call came back with.
pub(super) fn end_client(span: &Span, status: Code) {
    telemetry::set_attribute(span, "rpc.grpc.status_code", i64::from(i32::from(status)));
    if status != Code::Ok {
        telemetry::set_error(span, code_name(status));
    }
}

/// Returns the status that is known when a response begins: that of every call that is not a stream.
pub(super) fn status(response: &Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// Splits `/package.Service/Method` into service and method.
pub(super) fn names(path: &str) -> (&str, &str) {
    path.strip_prefix('/').and_then(|rest| rest.split_once('/')).unwrap_or((path, ""))
}

fn name(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// Returns the name of a status in gRPC's specification.
pub(super) const fn code_name(status: Code) -> &'static str {
    match status {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
