//! Metrics of the calls that the services of this process answer.

use super::spans::code_name;
use crate::metrics::{Counter, Histogram};
use hoistway_model::metric::Family;
use std::time::Duration;
use tonic::Code;

/// Process-wide, since the servers of all services of a process are counted as one.
static CALLS: Counter = Counter::new(
    "hoistway_rpc_server_calls_total",
    "gRPC calls between services, by the status of the answer.",
    &["rpc_service", "rpc_method", "status"],
);
static DURATIONS: Histogram = Histogram::new(
    "hoistway_rpc_server_duration_seconds",
    "Time from a gRPC call to the head of its answer.",
    &["rpc_service", "rpc_method"],
);

/// Counts an answered call. Unknown methods are counted as one, and so are those of strangers, who cannot create series.
pub(super) fn answered(service: &str, method: &str, status: Code, took: Duration) {
    let is_unknown = matches!(status, Code::Unimplemented | Code::Unauthenticated);
    let (service, method) = if is_unknown { ("unknown", "unknown") } else { (service, method) };
    CALLS.inc(&[service, method, code_name(status)]);
    DURATIONS.observe(&[service, method], took);
}

/// Returns what was measured in this process, whose other metrics have the label `service` too.
pub(crate) fn families(service: &str) -> [Family; 2] {
    [CALLS.family(), DURATIONS.family()].map(|mut family| {
        family
            .samples
            .iter_mut()
            .for_each(|sample| sample.labels.insert(0, ("service".to_owned(), service.to_owned())));
        family
    })
}
