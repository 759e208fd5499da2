//! Standard output: text for people, JSON for programs.

use super::{Failure, Outcome};
use serde_json::Value;
use std::io::{self, Write};

/// Prints text. A reader that went away (`| head`) ends the command quietly.
pub fn print(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|e| Failure::new(format!("standard output: {e}"))),
    }
}

/// Prints a line.
pub fn line(text: &str) -> Outcome<()> {
    print(&format!("{text}\n"))
}

/// Prints JSON as people read it.
pub fn json(value: &Value) -> Outcome<()> {
    line(&format!("{value:#}"))
}

/// Prints an answer, as the API's JSON or as text.
pub fn answer(value: &Value, as_json: bool, shown: impl FnOnce(&Value) -> String) -> Outcome<()> {
    if as_json { json(value) } else { line(&shown(value)) }
}

/// What is said while something goes on: on standard error, so that standard output is the answer alone.
pub fn progress(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Rows under a heading, in columns that fit.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading.map(str::to_owned)).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A field of an answer as text; empty when it is absent.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit() {
        let rows = [["a".to_owned(), "Running".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "PHASE"], &rows), "NAME    PHASE\na       Running\nlonger\n");
    }
}
