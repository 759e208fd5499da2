//! Metrics of the process that runs a service: its resources, its connections, its answered calls, its certificates,
//! its spans.

use crate::{connection_limits::open_connections, grpc, metrics::family, telemetry, tls};
use hoistway_model::digest;
use hoistway_model::metric::{Family, Kind, Metrics};
use std::fs;

/// The clock ticks per second in `/proc`, the same on every supported architecture.
const TICKS: f64 = 100.0;

/// Returns the metrics of a service, with those of its process. Reads files: call it off the runtime's threads.
pub fn of_service(service: &str, of_service: Vec<Family>) -> Metrics {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may contain anything, fields are counted from the third.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let process = format!("{}/{}/{}/{}", boot.trim(), namespace.display(), std::process::id(), number(22));
    let mut of_process = process_families(service, number);
    of_process.extend(grpc::metrics::families(service));
    of_process.extend([connections(service), certificates(service)]);
    Metrics { process, of_process, of_service }
}

fn process_families(service: &str, stat: impl Fn(usize) -> f64) -> Vec<Family> {
    let one = |kind, name, help, value| family(kind, name, help, [([("service", service.to_owned())], value)]);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let fds = fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count().saturating_sub(1));
    let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|t| t.parse::<f64>().ok());
    let cpu = (stat(14) + stat(15)) / TICKS;
    vec![
        one(Kind::Counter, "process_cpu_seconds_total", "Processor time used, by user and system.", cpu),
        one(Kind::Gauge, "process_resident_memory_bytes", "Resident memory.", kilobytes("VmRSS:") * 1024.0),
        one(Kind::Gauge, "process_open_fds", "Open file descriptors.", fds as f64),
        one(Kind::Gauge, "process_threads", "Threads.", stat(20)),
        one(
            Kind::Counter,
            "hoistway_hashed_bytes_total",
            "Bytes of which digests were computed.",
            digest::hashed_bytes() as f64,
        ),
        one(
            Kind::Counter,
            "hoistway_trace_dropped_spans_total",
            "Spans of batches that the collector did not take; those beyond the queue are not counted.",
            telemetry::dropped_spans() as f64,
        ),
        one(
            Kind::Gauge,
            "process_start_time_seconds",
            "When the process began, since the epoch.",
            booted.unwrap_or(0.0) + stat(22) / TICKS,
        ),
    ]
}

/// The open connections of the process' listeners.
fn connections(service: &str) -> Family {
    let counts = open_connections().into_iter();
    let samples = counts.flat_map(|(listener, (strangers, known))| {
        [("false", strangers), ("true", known)].map(|(authenticated, count)| {
            let labels = [("service", service), ("listener", listener), ("authenticated", authenticated)];
            (labels.map(|(name, value)| (name, value.to_owned())), count as f64)
        })
    });
    let help = "Open connections of each listener, with and without a credential that was shown on them.";
    family(Kind::Gauge, "hoistway_open_connections", help, samples)
}

/// When the certificates of the process expire.
fn certificates(service: &str) -> Family {
    let times = tls::expiry_times().into_iter();
    family(
        Kind::Gauge,
        "hoistway_certificate_expiry_timestamp_seconds",
        "When a certificate expires, since the epoch: the earliest of its chain.",
        times.map(|(setting, at)| ([("service", service.to_owned()), ("setting", setting.to_owned())], at as f64)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_known_and_measured() {
        let (one, two) = (of_service("a", Vec::new()), of_service("b", Vec::new()));
        assert_eq!(one.process, two.process);
        assert!(one.process.contains("pid:["), "{}", one.process);
        for family in one.of_process.iter().filter(|f| f.kind == Kind::Gauge && f.name.starts_with("process_")) {
            assert!(family.samples[0].value > 0.0, "{}", family.name);
        }
    }
}
