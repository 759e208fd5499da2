//! The runner's message to its supervisor: whether its start has succeeded.

use hoistway_model::Code;
use serde::Deserialize;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// A runner's notice is one line; its error text or the names of modules are the longest part.
const MAX_NOTICE: usize = 512 << 10;
/// The times that an agent may take to begin writing its stack, to pause in it, and to write all of it. A
/// signal handler writes it.
const STACK_BEGIN: Duration = Duration::from_secs(1);
const STACK_LIMIT: Duration = Duration::from_secs(3);
const STACK_PAUSE: Duration = Duration::from_millis(200);

/// The runner's message once its start is decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// It answers requests.
    Ready,
    /// The agent's code could not be loaded; the traceback's last line, or what the runner says of it.
    Failed { code: Code, message: String, details: Vec<String> },
    /// It will not say anything: it closed the pipe, or wrote nonsense.
    Silent,
}

/// The connection with the runner's one notice, or of the stack that is requested before that.
pub(super) struct Notices<R> {
    pipe: R,
    read: Vec<u8>,
    modules: Option<Vec<String>>,
}

impl<R: AsyncRead + Unpin> Notices<R> {
    /// Nothing has been read of `pipe`.
    pub fn new(pipe: R) -> Self {
        Self { pipe, read: Vec::new(), modules: None }
    }

    /// Waits for the notice. Cancel safe.
    pub async fn next(&mut self) -> Notice {
        loop {
            if let Some(end) = self.read.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return self.parsed(&line);
            }
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer).await {
                Ok(got @ 1..) if self.read.len() < MAX_NOTICE => self.read.extend_from_slice(&buffer[..got]),
                _ => {
                    let line = std::mem::take(&mut self.read);
                    return self.parsed(&line);
                }
            }
        }
    }

    fn parsed(&mut self, line: &[u8]) -> Notice {
        let (notice, modules) = parse(line);
        self.modules = modules;
        notice
    }

    /// The modules that the agent has imported, in the order of their imports, if it was asked for them and is ready.
    pub fn take_modules(&mut self) -> Option<Vec<String>> {
        self.modules.take()
    }

    /// Reads the stacks of all threads until nothing more of them comes. The one that imports comes last: of too much
    /// the end is kept.
    pub async fn stack(&mut self) -> String {
        let (mut buffer, began) = ([0; 4096], Instant::now());
        let mut due = began + STACK_BEGIN;
        while Instant::now() < due
            && let Ok(Ok(got @ 1..)) = timeout_at(due, self.pipe.read(&mut buffer)).await
        {
            self.read.extend_from_slice(&buffer[..got]);
            self.read.drain(..self.read.len().saturating_sub(MAX_NOTICE));
            due = (Instant::now() + STACK_PAUSE).min(began + STACK_LIMIT);
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }
}

/// The codes that a runner may give its failure.
const START_CODES: [Code; 2] = [Code::StartTimeout, Code::NothingToInvoke];

fn parse(line: &[u8]) -> (Notice, Option<Vec<String>>) {
    #[derive(Deserialize)]
    #[serde(tag = "event", rename_all = "snake_case")]
    enum Line {
        Ready {
            modules: Option<Vec<String>>,
        },
        Failed {
            error: String,
            #[serde(default)]
            code: String,
            #[serde(default)]
            details: Vec<String>,
        },
    }
    match serde_json::from_slice(line) {
        Ok(Line::Ready { modules }) => (Notice::Ready, modules),
        Ok(Line::Failed { error: message, code, details }) => {
            let code = START_CODES.into_iter().find(|known| known.as_str() == code).unwrap_or(Code::AgentStartFailed);
            (Notice::Failed { code, message, details }, None)
        }
        Err(_) => (Notice::Silent, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[u8]) -> Notice {
        super::parse(line).0
    }

    #[test]
    fn notices_are_read_and_nonsense_is_none() {
        assert_eq!(parse(br#"{"event":"ready"}"#), Notice::Ready);
        let failed = |code, details: &[&str]| {
            let details = details.iter().map(|&line| line.to_owned()).collect();
            Notice::Failed { code, message: "E: x".to_owned(), details }
        };
        assert_eq!(parse(br#"{"event":"failed","error":"E: x"}"#), failed(Code::AgentStartFailed, &[]));
        let more = br#"{"event":"failed","error":"E: x","code":"nothing_to_invoke","details":["a"]}"#;
        assert_eq!(parse(more), failed(Code::NothingToInvoke, &["a"]));
        let other = br#"{"event":"failed","error":"E: x","code":"unauthenticated"}"#;
        assert_eq!(parse(other), failed(Code::AgentStartFailed, &[]), "a code that an agent may not give");
        for nonsense in ["", "{", "[]", r#"{"event":"other"}"#] {
            assert_eq!(parse(nonsense.as_bytes()), Notice::Silent);
        }
    }
}
