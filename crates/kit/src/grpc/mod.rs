//! Both ends of gRPC: [`Server`] with token, deadline, trace context, health and reflection; [`Transport`], which is a
//! connection over TCP or a call in process; [`status`] between the model's errors and gRPC's.
//!
//! In process, a generated client calls the generated server through the same [`Server`] layers, only without HTTP/2
//! between them.

pub(crate) mod metrics;
mod middleware;
mod server;
mod spans;
pub mod status;
mod transport;

pub use server::Server;
pub use status::{from_status, to_status};
pub use transport::Transport;

use http::HeaderMap;
use std::time::Duration;

/// The largest message in bytes, for `max_decoding_message_size` of generated servers and clients.
pub const MAX_MESSAGE: usize = 48 << 20;

/// The deadline of a call that sets none.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// The longest deadline that a caller may set: that of a whole deployment.
pub const MAX_DEADLINE: Duration = Duration::from_secs(15 * 60);

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Parses the `grpc-timeout` header: at most eight digits and a unit.
fn parse_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Formats the header, in milliseconds where they fit into eight digits.
fn format_timeout(limit: Duration) -> String {
    match limit.as_millis() {
        millis @ 0..=99_999_999 => format!("{millis}m"),
        _ => format!("{}S", limit.as_secs().min(99_999_999)),
    }
}

#[cfg(test)]
mod tests;
