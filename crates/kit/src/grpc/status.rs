//! Converts the model's errors to gRPC statuses and back. Code text, field and details travel in the status details;
//! the source chain stays here and is logged once, where the status is made.

use bytes::Bytes;
use hoistway_model::{Code, Error};
use prost::Message;
use std::error::Error as _;
use tonic::Status;

// Both travel in HTTP/2 headers, which peers bound at 8 KiB and more: the details in base64 (4/3), the message
// percent-encoded. Together with names and the rest they stay below that.
const MAX_DETAIL: usize = 4 << 10;
const MAX_MESSAGE: usize = 2 << 10;
/// The longest path of a field in bytes; longer ones are an attack on the limit above.
const MAX_FIELD: usize = 512;

/// `hoistway.common.v1.ErrorDetail`, the content of `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorDetail {
    /// The text of [`Code::as_str`].
    #[prost(string, tag = "1")]
    pub code: String,
    /// The path of the offending request field, or empty.
    #[prost(string, tag = "2")]
    pub field: String,
    /// Lines that support the message. If there are too many, the last ones are kept.
    #[prost(string, repeated, tag = "3")]
    pub details: Vec<String>,
}

/// Converts `error` to a status in `map_err` at the server boundary. Logs its source chain.
pub fn to_status(error: Error) -> Status {
    log(&error);
    make(&error)
}

/// Returns the error that a status carries. For a status without detail, such as a lost connection, the nearest code.
pub fn from_status(status: Status) -> Error {
    if let Ok(detail) = ErrorDetail::decode(status.details())
        && let Some(code) = Code::parse(&detail.code)
    {
        let mut error = Error::new(code, status.message()).with_details(detail.details);
        error.field = (!detail.field.is_empty()).then_some(detail.field);
        return if status.source().is_some() { error.with_source(status) } else { error };
    }
    // Only local failures have a source: the connection broke, and the effect on the peer is unknown.
    if status.source().is_some() {
        return Error::new(Code::Unavailable, "the connection to a service was lost").with_source(status);
    }
    // tonic's own timer on the server, in case it fires first.
    if status.code() == tonic::Code::Cancelled && status.message() == "Timeout expired" {
        return Error::new(Code::DeadlineExceeded, "the time limit of the call passed");
    }
    let code = Code::from_grpc(status.code().into());
    match code {
        // Internal details of a peer are not for users.
        Code::Internal => Error::internal("calling a service", status),
        _ => Error::new(code, status.message()),
    }
}

/// Makes the status without logging.
pub(super) fn make(error: &Error) -> Status {
    let mut detail = ErrorDetail {
        code: error.code.as_str().to_owned(),
        field: cut(error.field.as_deref().unwrap_or_default(), MAX_FIELD, |_| 1),
        details: Vec::new(),
    };
    let mut room = MAX_DETAIL - detail.encoded_len();
    for line in error.details.iter().rev() {
        // Each line costs a tag and a length.
        let Some(left) = room.checked_sub(line.len() + 4) else {
            if detail.details.is_empty() {
                detail.details.push(tail(line, room - 4));
            }
            break;
        };
        room = left;
        detail.details.push(line.clone());
    }
    detail.details.reverse();
    let message = cut(&error.message, MAX_MESSAGE, |byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' | b':' | b',' => 1,
        _ => 3,
    });
    Status::with_details(tonic::Code::from(error.code.grpc()), message, Bytes::from(detail.encode_to_vec()))
}

fn log(error: &Error) {
    let (code, message, chain) = (error.code, &error.message, error.chain());
    match code {
        // Without a cause it comes from another service, which has logged it.
        _ if chain.is_empty() => tracing::debug!(target: "hoistway::error", %code, "{message}"),
        Code::Internal | Code::InsufficientStorage => {
            tracing::error!(target: "hoistway::error", %code, cause = chain, "{message}");
        }
        _ => tracing::warn!(target: "hoistway::error", %code, cause = chain, "{message}"),
    }
}

/// Returns the longest beginning of `text` that costs at most `limit`, with an ellipsis if it is cut.
fn cut(text: &str, limit: usize, cost: impl Fn(u8) -> usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.bytes().map(&cost).sum::<usize>() <= limit {
        return text.to_owned();
    }
    let mut room = limit - ELLIPSIS.bytes().map(&cost).sum::<usize>();
    let mut out = String::new();
    for c in text.chars() {
        let bytes = c.encode_utf8(&mut [0; 4]).bytes().map(&cost).sum();
        match room.checked_sub(bytes) {
            Some(left) => room = left,
            None => break,
        }
        out.push(c);
    }
    out + ELLIPSIS
}

/// Returns the last bytes of a line that is too long on its own.
fn tail(line: &str, limit: usize) -> String {
    let mut start = line.len().saturating_sub(limit);
    while !line.is_char_boundary(start) {
        start += 1;
    }
    line[start..].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use http::HeaderMap;

    fn header_bytes(status: &Status) -> usize {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    #[test]
    fn every_error_comes_back_as_it_was() {
        for code in Code::ALL {
            let mut error = Error::new(code, "tool \"stripe\" – nöt found")
                .with_details(["line 1".to_owned(), "line 2".to_owned()]);
            error.field = Some("tools_to_create[0].port".to_owned());
            let mut headers = HeaderMap::new();
            to_status(error).add_header(&mut headers).unwrap();
            let back = from_status(Status::from_header_map(&headers).unwrap());
            assert_eq!(back.code, code);
            assert_eq!(back.message, "tool \"stripe\" – nöt found");
            assert_eq!(back.field.as_deref(), Some("tools_to_create[0].port"));
            assert_eq!(back.details, ["line 1", "line 2"]);
        }
    }

    #[test]
    fn the_source_is_not_sent() {
        let status = to_status(Error::internal("reading a tool", std::io::Error::other("/secret/path")));
        assert_eq!(status.message(), "internal error while reading a tool");
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }

    #[test]
    fn headers_stay_small_and_the_last_lines_survive() {
        let lines = (0..10_000).map(|i| format!("line {i} of a très long log"));
        let mut long = Error::new(Code::BuildFailed, "\"ü\"".repeat(10_000)).with_details(lines);
        long.field = Some("f".repeat(10_000));
        let status = to_status(long);
        assert!(header_bytes(&status) < 8 << 10, "{}", header_bytes(&status));
        let back = from_status(status);
        assert_eq!(back.details.last().unwrap(), "line 9999 of a très long log");
        assert!(back.details.len() > 50 && back.message.ends_with('…'));

        let one_line = Error::new(Code::BuildFailed, "x").with_details(["é".repeat(10_000)]);
        let status = to_status(one_line);
        assert!(header_bytes(&status) < 8 << 10);
        assert!(from_status(status).details[0].len() > 3000);

        let empty_lines = Error::new(Code::BuildFailed, "x").with_details(vec![String::new(); 10_000]);
        assert!(header_bytes(&to_status(empty_lines)) < 8 << 10);
    }

    #[test]
    fn a_bare_status_gets_the_nearest_code() {
        assert_eq!(from_status(Status::not_found("no such thing")).code, Code::NotFound);
        let hidden = from_status(Status::internal("h2 protocol error"));
        assert_eq!((hidden.code, hidden.message.contains("h2")), (Code::Internal, false));
        let lost = from_status(Status::from_error("connection reset".into()));
        assert_eq!((lost.code, lost.message.contains("reset")), (Code::Unavailable, false));
    }
}
