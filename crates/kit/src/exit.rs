//! The exit of a process that could not start: one line on standard error, and a status that tells a configuration
//! error from other failures.

use hoistway_model::{Code, Error};
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// The status for a wrong command line or configuration (`EX_USAGE` of sysexits).
pub const USAGE: u8 = 64;

/// Reports why the process cannot start: 64 for bad configuration ([`Code::InvalidArgument`]), else 1 with the whole
/// source chain, because the operator at the terminal is the one who can act on it.
pub fn fatal(error: &Error) -> ExitCode {
    say(&line(error));
    ExitCode::from(match error.code {
        Code::InvalidArgument => USAGE,
        _ => 1,
    })
}

/// Reports a wrong configuration or command line, status 64.
pub fn usage(message: &str) -> ExitCode {
    fatal(&Error::new(Code::InvalidArgument, message))
}

fn line(error: &Error) -> String {
    let chain = error.chain();
    let text = if chain.is_empty() { error.message.clone() } else { format!("{}: {chain}", error.message) };
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace(crate::telemetry::controls_display, "")
}

fn say(line: &str) {
    // There is no other place to report to when standard error is closed.
    let _ = writeln!(io::stderr(), "hoistway: {line}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_line_with_the_chain() {
        let e = Error::internal("opening the database", io::Error::other("disk\n  \u{1b}gone"));
        assert_eq!(line(&e), "internal error while opening the database: disk gone");
    }
}
