//! One error type with two texts: the public one, which is sent to the user, and the source chain, which is logged once
//! where the error leaves the process and goes no further.

use std::fmt;

/// The kind of an error, shared by gRPC status, HTTP status and the `code` member of error bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is wrong; the message names the field.
    InvalidArgument,
    /// No credential, or not a valid one.
    Unauthenticated,
    /// The credential is valid and not allowed to do this.
    PermissionDenied,
    /// The named object does not exist.
    NotFound,
    /// The HTTP method does not exist on this path.
    MethodNotAllowed,
    /// The object exists, is in use or has another state than the call needs.
    Conflict,
    /// The call came too late: its deployment was undone or taken over.
    Aborted,
    /// The request body is larger than the limit.
    PayloadTooLarge,
    /// A queue, quota or concurrency limit is full; try again later.
    ResourceExhausted,
    /// The disk is too full to go on.
    InsufficientStorage,
    /// The caller cancelled the call or a shutdown ended the work.
    Cancelled,
    /// The time limit passed.
    DeadlineExceeded,
    /// Not reachable now; a retry can help.
    Unavailable,
    /// A defect or an environment failure of the platform itself.
    Internal,
    /// The source or its requirements cannot be built.
    BuildFailed,
    /// A source file does not compile; details name file and line.
    SyntaxError,
    /// A requirement cannot be resolved or installed.
    RequirementFailed,
    /// A module is imported that no requirement provides.
    UndeclaredImport,
    /// The agent ended or failed before it was ready.
    AgentStartFailed,
    /// The agent was not ready within the time limit of a start.
    StartTimeout,
    /// The source contains nothing that can be invoked.
    NothingToInvoke,
    /// The image's registry does not have the image.
    ImageNotFound,
    /// The image cannot run on this runtime.
    UnsupportedImage,
    /// The agent's code raised while answering.
    AgentError,
    /// The agent's process ended while answering.
    AgentCrashed,
}

impl Code {
    /// Every code, for tables and tests.
    pub const ALL: [Code; 25] = [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::Conflict,
        Code::Aborted,
        Code::PayloadTooLarge,
        Code::ResourceExhausted,
        Code::InsufficientStorage,
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Unavailable,
        Code::Internal,
        Code::BuildFailed,
        Code::SyntaxError,
        Code::RequirementFailed,
        Code::UndeclaredImport,
        Code::AgentStartFailed,
        Code::StartTimeout,
        Code::NothingToInvoke,
        Code::ImageNotFound,
        Code::UnsupportedImage,
        Code::AgentError,
        Code::AgentCrashed,
    ];

    /// Returns the text of the `code` member, the HTTP status and the gRPC status number. The only place with these
    /// numbers.
    const fn row(self) -> (&'static str, u16, i32) {
        match self {
            Code::InvalidArgument => ("invalid_argument", 400, 3),
            Code::Unauthenticated => ("unauthenticated", 401, 16),
            Code::PermissionDenied => ("permission_denied", 403, 7),
            Code::NotFound => ("not_found", 404, 5),
            Code::MethodNotAllowed => ("method_not_allowed", 405, 12),
            Code::Conflict => ("conflict", 409, 9),
            Code::Aborted => ("aborted", 409, 10),
            Code::PayloadTooLarge => ("payload_too_large", 413, 11),
            Code::ResourceExhausted => ("resource_exhausted", 429, 8),
            Code::InsufficientStorage => ("insufficient_storage", 507, 8),
            Code::Cancelled => ("cancelled", 503, 1),
            Code::DeadlineExceeded => ("deadline_exceeded", 504, 4),
            Code::Unavailable => ("unavailable", 503, 14),
            Code::Internal => ("internal", 500, 13),
            Code::BuildFailed => ("build_failed", 500, 9),
            Code::SyntaxError => ("syntax_error", 500, 9),
            Code::RequirementFailed => ("requirement_failed", 500, 9),
            Code::UndeclaredImport => ("undeclared_import", 500, 9),
            Code::AgentStartFailed => ("agent_start_failed", 500, 9),
            Code::StartTimeout => ("start_timeout", 500, 9),
            Code::NothingToInvoke => ("nothing_to_invoke", 500, 9),
            Code::ImageNotFound => ("image_not_found", 500, 9),
            Code::UnsupportedImage => ("unsupported_image", 500, 9),
            Code::AgentError => ("agent_error", 500, 2),
            Code::AgentCrashed => ("agent_crashed", 502, 2),
        }
    }

    /// Returns the text in the `code` member of an error body.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Returns the HTTP status of the response.
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// Returns the gRPC status number.
    pub const fn grpc(self) -> i32 {
        self.row().2
    }

    /// Returns the recipient's remedy, where the error's own text does not include one.
    pub const fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Code::PermissionDenied => "use a key with that scope; `POST /api/keys` makes one",
            Code::SyntaxError => {
                "correct the line, and deploy again; only files that the entry point reaches are judged"
            }
            Code::UndeclaredImport => "name the package in requirements.txt, pyproject.toml or `requirements`",
            Code::RequirementFailed => "correct the requirement, or the package index that the server uses",
            Code::ImageNotFound => "push the image, or correct its name",
            Code::UnsupportedImage => "deploy the source instead of an image",
            Code::StartTimeout => {
                "move what does not end out of the import, or give the start more time, and deploy again"
            }
            Code::NothingToInvoke => "define handler(message), or name the object to call agent, graph, crew or app",
            Code::AgentStartFailed => {
                "what the agent wrote is in the details and in its logs; correct it and deploy again"
            }
            Code::InsufficientStorage => "make room on the server's disk",
            Code::ResourceExhausted => "try again a little later",
            Code::Unavailable => "try again a little later, unless the text says what to do",
            _ => return None,
        })
    }

    /// Parses a result of [`Code::as_str`].
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|c| c.as_str() == text)
    }

    /// Returns the code that best describes a bare gRPC status, for peers that send no detail.
    pub fn from_grpc(number: i32) -> Code {
        match number {
            1 => Code::Cancelled,
            3 | 11 => Code::InvalidArgument,
            4 => Code::DeadlineExceeded,
            5 => Code::NotFound,
            6 | 9 => Code::Conflict,
            7 => Code::PermissionDenied,
            8 => Code::ResourceExhausted,
            10 => Code::Aborted,
            14 => Code::Unavailable,
            16 => Code::Unauthenticated,
            _ => Code::Internal,
        }
    }

    /// Whether a retry of the same call may succeed.
    pub const fn is_transient(self) -> bool {
        matches!(self, Code::Unavailable | Code::DeadlineExceeded)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of every fallible call between crates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure with its public text, supporting details and, inside this process only, its cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of failure.
    pub code: Code,
    /// The public text: the failure, its place, and the remedy. Never internals, never secrets.
    pub message: String,
    /// The path of the offending request field, such as `env[0].name`; it is part of `message` as well.
    pub field: Option<String>,
    /// Lines that support the message: a traceback, a resolver's output, the last log lines.
    pub details: Vec<String>,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// Creates an error with a public text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, details: Vec::new(), source: None }
    }

    /// Creates a 400 about one field: the text becomes `FIELD: MESSAGE`.
    pub fn field(field: impl Into<String>, message: impl fmt::Display) -> Self {
        let field = field.into();
        Self { field: Some(field.clone()), ..Self::new(Code::InvalidArgument, format!("{field}: {message}")) }
    }

    /// Creates a [`Code::NotFound`] for `kind "name"`.
    pub fn not_found(kind: &str, name: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("{kind} \"{name}\" not found"))
    }

    /// Creates a [`Code::Internal`]: the public text contains only the activity, `source` stays inside and is logged.
    pub fn internal(doing: &str, source: impl Into<Source>) -> Self {
        Self { source: Some(source.into()), ..Self::new(Code::Internal, format!("internal error while {doing}")) }
    }

    /// Replaces the cause, which is kept for the log.
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Replaces the details.
    pub fn with_details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details = details.into_iter().collect();
        self
    }

    /// Prepends `prefix` to the public text.
    pub fn prefixed(mut self, prefix: &str) -> Self {
        self.message = format!("{prefix}{}", self.message);
        self
    }

    /// Copies the public part, for another recipient of the same failure; the cause stays with the first.
    pub fn public(&self) -> Self {
        Self { field: self.field.clone(), details: self.details.clone(), ..Self::new(self.code, self.message.clone()) }
    }

    /// Returns the source chain as one line for the log, outermost first; empty when there is none.
    pub fn chain(&self) -> String {
        let mut out = String::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            if !out.is_empty() {
                out.push_str(": ");
            }
            out.push_str(&cause.to_string());
            next = cause.source();
        }
        out
    }
}

/// Returns the text of the innermost cause of an error of a library, which is the informative one.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// The most characters of a request's text that an error repeats.
pub const MAX_EXCERPT: usize = 100;

/// Returns an excerpt of a request's text for an error: escaped, and cut after [`MAX_EXCERPT`] characters.
pub fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_EXCERPT).collect::<String>().escape_debug().to_string();
    if text.chars().nth(MAX_EXCERPT).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_round_trip_by_their_text() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(code));
            assert!((400..600).contains(&code.http_status()));
        }
    }

    #[test]
    fn the_chain_stays_out_of_the_public_text() {
        let e = Error::internal("reading the journal", std::io::Error::other("/secret/path"));
        assert_eq!(e.to_string(), "internal error while reading the journal");
        assert_eq!(e.chain(), "/secret/path");
    }
}
