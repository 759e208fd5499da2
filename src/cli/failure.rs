//! What went wrong, for the person or the CI job in front of it: what happened, the proof, and what to do.

use super::output;
use serde_json::{Value, json};
use std::{fmt, process::ExitCode};

/// The result of a command.
pub type Outcome<T> = Result<T, Failure>;

/// The status of a command whose outcome is not known yet (`EX_TEMPFAIL` of sysexits).
const NOT_KNOWN: u8 = 75;
/// The status of a command that Ctrl-C ended, as shells give it.
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

/// What else is known of it.
#[derive(Debug, Default)]
struct Known {
    code: Option<String>,
    request_id: Option<String>,
    deployment: Option<String>,
    /// The answer that says what failed, where that is no error of the API.
    document: Option<Value>,
}

impl Failure {
    /// Something that failed; status 1.
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

    /// A command line that cannot work; status 64.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: hoistway_kit::exit::USAGE, ..Self::new(message) }
    }

    /// A connection that failed, or an answer that another try may better; status 1.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { transient: true, ..Self::new(message) }
    }

    /// A connection that broke after the request was sent.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { lost: true, ..Self::transient(message) }
    }

    /// What was begun has not ended as far as is known; status 75.
    pub fn not_known(message: impl Into<String>) -> Self {
        Self { status: NOT_KNOWN, ..Self::new(message) }
    }

    /// Ctrl-C; status 130.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { status: INTERRUPTED, ..Self::new(message) }
    }

    /// With what to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Of this deployment.
    pub fn deployment(mut self, id: &str) -> Self {
        self.known.deployment = Some(id.to_owned());
        self
    }

    /// Whose JSON is an answer that says what failed.
    pub fn with_document(mut self, answer: Value) -> Self {
        self.known.document = Some(answer);
        self
    }

    /// That came of this request, if it is known; who knows no other remedy looks into the server's log.
    pub fn request(mut self, id: Option<&str>) -> Self {
        self.known.request_id = self.known.request_id.take().or_else(|| id.map(str::to_owned));
        if let (None, Some("internal"), Some(id)) = (&self.remedy, self.known.code.as_deref(), &self.known.request_id) {
            self.remedy = Some(format!("the server's log has more under request id {id}"));
        }
        self
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same call may do better a little later.
    pub const fn is_transient(&self) -> bool {
        self.transient
    }

    /// Whether the server may have done what it was asked for.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the API says that there is no such thing.
    pub const fn is_not_found(&self) -> bool {
        self.not_found
    }

    /// An error answer of the API.
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

    /// What an error answer, or the `error` of a deployment, says.
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

    /// As JSON, shaped as the API's errors are.
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

    /// Says it on standard error.
    pub fn report(&self) -> ExitCode {
        output::progress(self.to_string().trim_end());
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every line but the first and the remedy is marked: what an agent wrote is no advice of Hoistway's.
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
