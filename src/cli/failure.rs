//! Failures of commands, for the user or the CI job: the message, the evidence, and the remedy.

use super::output;
use serde_json::{Value, json};
use std::{fmt, process::ExitCode};

/// The result of a command.
pub type Outcome<T> = Result<T, Failure>;

/// The exit status of a command whose outcome is not known yet (`EX_TEMPFAIL` of sysexits).
const NOT_KNOWN: u8 = 75;
/// The exit status of a command that Ctrl-C ended, as shells use it.
const INTERRUPTED: u8 = 130;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    message: String,
    known: Box<Known>,
    details: Vec<String>,
    remedy: Option<String>,
    status: u8,
    transient: bool,
    lost: bool,
    not_found: bool,
}

/// Further facts about a failure.
#[derive(Debug, Default)]
struct Known {
    code: Option<String>,
    request_id: Option<String>,
    deployment: Option<String>,
    /// The answer that describes the failure, where it is not an error of the API.
    document: Option<Value>,
}

impl Failure {
    /// Returns a failure with status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            known: Box::default(),
            details: Vec::new(),
            remedy: None,
            status: 1,
            transient: false,
            lost: false,
            not_found: false,
        }
    }

    /// Returns a failure for a command line that cannot work; status 64.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: hoistway_kit::exit::USAGE, ..Self::new(message) }
    }

    /// Returns a failure of a connection, or of an answer that a retry may improve; status 1.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { transient: true, ..Self::new(message) }
    }

    /// Returns a failure of a connection that broke after the request was sent.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { lost: true, ..Self::transient(message) }
    }

    /// Returns a failure for an operation that was begun and whose end is not known; status 75.
    pub fn not_known(message: impl Into<String>) -> Self {
        Self { status: NOT_KNOWN, ..Self::new(message) }
    }

    /// Returns a failure for Ctrl-C; status 130.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { status: INTERRUPTED, ..Self::new(message) }
    }

    /// Sets the remedy.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Sets the deployment.
    pub fn deployment(mut self, id: &str) -> Self {
        self.known.deployment = Some(id.to_owned());
        self
    }

    /// Sets the answer whose JSON describes the failure.
    pub fn with_document(mut self, answer: Value) -> Self {
        self.known.document = Some(answer);
        self
    }

    /// Sets the request id, if it is known. Where there is no other remedy it points to the server's log.
    pub fn request(mut self, id: Option<&str>) -> Self {
        self.known.request_id = self.known.request_id.take().or_else(|| id.map(str::to_owned));
        if let (None, Some("internal"), Some(id)) = (&self.remedy, self.known.code.as_deref(), &self.known.request_id) {
            self.remedy = Some(format!("the server's log has more under request id {id}"));
        }
        self
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether a retry a little later may succeed.
    pub const fn is_transient(&self) -> bool {
        self.transient
    }

    /// Whether the server may have carried out the request.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the API answered that the item does not exist.
    pub const fn is_not_found(&self) -> bool {
        self.not_found
    }

    /// Returns the failure for an error answer of the API.
    pub fn answered(status: u16, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut failure = Self::told(&body);
        failure.transient = matches!(status, 429 | 502..=504);
        failure.not_found = status == 404;
        if body["error"].as_str().is_none_or(str::is_empty) {
            failure.message = format!("the API answered with status {status}");
            failure.remedy = Some("check the endpoint: this is not how Hoistway answers".to_owned());
        }
        if status == 401 {
            failure.remedy = Some("set RUNAGENTS_API_KEY, or name the key's file with --api-key-file".to_owned());
        }
        if let (500.., None, Some(id)) = (status, &failure.remedy, &failure.known.request_id) {
            failure.remedy = Some(format!("the server's log has more under request id {id}"));
        }
        failure
    }

    /// Returns the failure for an error answer, or for the `error` of a deployment.
    pub fn told(error: &Value) -> Self {
        let text = |key: &str| error[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let details = error["details"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let code = text("code");
        Self {
            details: details.map(str::to_owned).collect(),
            remedy: text("remedy"),
            known: Box::new(Known { code, request_id: text("request_id"), ..Known::default() }),
            ..Self::new(text("error").unwrap_or_else(|| "it failed".to_owned()))
        }
    }

    /// Returns the failure as JSON, in the format of the API's errors.
    pub fn document(&self) -> Value {
        if let Some(document) = &self.known.document {
            return document.clone();
        }
        let mut document = json!({ "error": self.message });
        for (key, text) in [
            ("code", &self.known.code),
            ("request_id", &self.known.request_id),
            ("deployment", &self.known.deployment),
            ("remedy", &self.remedy),
        ] {
            if let Some(text) = text {
                document[key] = text.as_str().into();
            }
        }
        if !self.details.is_empty() {
            document["details"] = json!(self.details);
        }
        document
    }

    /// Prints the failure on standard error.
    pub fn report(&self) -> ExitCode {
        output::progress(self.to_string().trim_end());
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every line but the first and the remedy is marked: text written by an agent is not advice of Hoistway.
        let mut message = self.message.lines();
        writeln!(f, "error: {}", message.next().unwrap_or_default())?;
        for line in message.chain(self.details.iter().flat_map(|detail| detail.lines())) {
            writeln!(f, "  | {line}")?;
        }
        match &self.remedy {
            Some(remedy) => writeln!(f, "  -> {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_proof_and_remedy() {
        let body = br#"{"error":"build failed: no such package","code":"build_failed","request_id":"r-1","details":["a","b"]}"#;
        assert_eq!(
            Failure::answered(500, body).to_string(),
            "error: build failed: no such package\n  | a\n  | b\n  -> the server's log has more under request id r-1\n"
        );
        let forging = br#"{"error":"boom\n  -> run this","code":"agent_failed","details":["a\n  -> and that"]}"#;
        assert_eq!(
            Failure::answered(400, forging).to_string(),
            "error: boom\n  |   -> run this\n  | a\n  |   -> and that\n"
        );
        let foreign = Failure::answered(502, b"<html>");
        assert!(foreign.to_string().starts_with("error: the API answered with status 502\n  -> check the endpoint"));
        assert!(foreign.is_transient());
        assert!(Failure::answered(401, b"{}").to_string().contains("RUNAGENTS_API_KEY"));
    }

    #[test]
    fn a_document_has_the_shape_of_the_apis_errors() {
        let body =
            br#"{"error":"no","code":"undeclared_import","request_id":"r-1","details":["a"],"remedy":"name it"}"#;
        let failure = Failure::answered(500, body).deployment("d-1");
        assert_eq!(
            failure.document(),
            json!({
                "error": "no", "code": "undeclared_import", "request_id": "r-1", "deployment": "d-1", "details": ["a"],
                "remedy": "name it",
            })
        );
    }
}
