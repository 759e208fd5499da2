//! Places where files do not compile, as the one who deploys them is told.

use hoistway_model::{Code, Error};
use serde::Deserialize;

/// The number of syntax errors that are shown.
const MAX_ERRORS: usize = 10;
/// The advice for a file that is not in the encoding in which Python reads it.
pub const ENCODING_REMEDY: &str =
    "save the file as UTF-8, or declare its encoding in the first line: # -*- coding: latin-1 -*-";

/// A place where a file does not compile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Fault {
    /// The line.
    pub line: u32,
    offset: u32,
    text: String,
    /// The parser's words.
    pub message: String,
}

impl Fault {
    /// The advice, where the text of the error tells: such a file compiles for no version of Python.
    pub fn remedy(&self) -> Option<&'static str> {
        let is_about = |words: &[&str]| words.iter().any(|words| self.message.contains(words));
        if is_about(&["codec can't decode", "encoding", "null bytes"]) {
            Some(ENCODING_REMEDY)
        } else if self.text.trim_start().starts_with(['!', '%']) {
            Some("this is a notebook's command: leave the line out, and name packages in requirements.txt")
        } else if is_about(&[
            "'await' outside",
            "asynchronous comprehension outside",
            "'async with' outside",
            "'async for' outside",
        ]) {
            Some(
                "await needs an async function, such as `async def main():`; at a file's top level notebooks alone have it",
            )
        } else {
            None
        }
    }
}

/// The error about files that do not compile for a version of Python.
pub fn syntax_error(faults: &[(&str, Fault)], version: &str) -> Error {
    let mut details = Vec::new();
    for (file, fault) in faults.iter().take(MAX_ERRORS) {
        details.push(format!("  File \"{file}\", line {}", fault.line));
        let text = fault.text.trim_start();
        if !text.is_empty() {
            let indent = fault.text.chars().count() - text.chars().count();
            details.push(format!("    {text}"));
            let column = (fault.offset as usize).saturating_sub(1 + indent).min(text.chars().count());
            details.push(format!("    {}^", " ".repeat(column)));
        }
        details.push(format!("SyntaxError: {}", fault.message));
        details.extend(fault.remedy().map(str::to_owned));
    }
    // Code that is right may be too new.
    details.push(format!("agents run on Python {version}"));
    let more = match faults.len() {
        1 => String::new(),
        n => format!(" (and {} more file{})", n - 1, if n == 2 { "" } else { "s" }),
    };
    let message = match faults.first() {
        Some((file, fault)) => format!("syntax error in {file}, line {}: {}{more}", fault.line, fault.message),
        None => String::from("syntax error"),
    };
    Error::new(Code::SyntaxError, message).with_details(details)
}
