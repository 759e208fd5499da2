//! Errors as the distribution specification writes them: `{"errors":[{"code","message","detail"}]}`.

use axum::response::{IntoResponse, Response};
use hoistway_model::{Code, Error};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// The specification's codes, and three that every client of the older Docker protocol knows as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    /// The registry cannot do it now.
    Unavailable,
    /// A defect or an environment failure of the registry itself.
    Unknown,
}

impl ErrorCode {
    /// The code's text and the status that usually goes with it.
    const fn row(self) -> (&'static str, u16) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", 404),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", 400),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", 404),
            Self::DigestInvalid => ("DIGEST_INVALID", 400),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", 400),
            Self::ManifestInvalid => ("MANIFEST_INVALID", 400),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", 404),
            Self::NameInvalid => ("NAME_INVALID", 400),
            Self::NameUnknown => ("NAME_UNKNOWN", 404),
            Self::SizeInvalid => ("SIZE_INVALID", 400),
            Self::Unauthorized => ("UNAUTHORIZED", 401),
            Self::Denied => ("DENIED", 403),
            Self::Unsupported => ("UNSUPPORTED", 405),
            Self::TooManyRequests => ("TOOMANYREQUESTS", 429),
            Self::Unavailable => ("UNAVAILABLE", 503),
            Self::Unknown => ("UNKNOWN", 500),
        }
    }
}

/// A request that is refused, with everything its answer says.
#[derive(Debug)]
pub(super) struct Refusal(Box<Parts>);

#[derive(Debug)]
struct Parts {
    code: ErrorCode,
    status: u16,
    message: String,
    detail: Value,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal with the code's usual status.
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (_, status) = code.row();
        Self(Box::new(Parts { code, status, message: message.into(), detail: Value::Null, headers: Vec::new() }))
    }

    /// The same with another status.
    pub(super) fn status(mut self, status: u16) -> Self {
        self.0.status = status;
        self
    }

    /// The same with the specification's unstructured `detail`.
    pub(super) fn detail(mut self, detail: Value) -> Self {
        self.0.detail = detail;
        self
    }

    /// The same with a header.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// A limit on concurrency is reached; clients wait and come again.
    pub(super) fn busy(message: &str) -> Self {
        Self::new(ErrorCode::TooManyRequests, message).header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// The status of the answer.
    #[cfg(test)]
    pub(super) fn status_code(&self) -> u16 {
        self.0.status
    }
}

impl From<Error> for Refusal {
    /// The answer for an error of the store. The cause is logged here and goes no further.
    fn from(error: Error) -> Self {
        let code = match error.code {
            Code::NotFound => ErrorCode::NameUnknown,
            Code::PermissionDenied | Code::Conflict => ErrorCode::Denied,
            Code::ResourceExhausted => ErrorCode::TooManyRequests,
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::InsufficientStorage => {
                ErrorCode::Unavailable
            }
            _ => ErrorCode::Unknown,
        };
        let status = match error.code {
            Code::InvalidArgument => 500,
            code => code.http_status(),
        };
        if status >= 500 {
            tracing::error!(error = %error, cause = %error.chain(), "registry request failed");
        }
        Self::new(code, error.message).status(status)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let parts = *self.0;
        let (code, _) = parts.code.row();
        let mut error = json!({ "code": code, "message": parts.message });
        if !parts.detail.is_null() {
            error["detail"] = parts.detail;
        }
        let status = StatusCode::from_u16(parts.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(json!({ "errors": [error] }))).into_response();
        response.headers_mut().extend(parts.headers);
        response
    }
}
