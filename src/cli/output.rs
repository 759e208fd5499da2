//! Standard output: text for people, JSON for programs.

use super::{Failure, Outcome};
use hoistway_kit::telemetry::controls_display;
use serde_json::Value;
use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

/// Removes terminal control characters: text of agents, packages and users is data, wherever it is shown.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let controls = |c: char| controls_display(c) && !matches!(c, '\n' | '\t');
    match text.contains(controls) {
        true => text.replace(controls, "").into(),
        false => text.into(),
    }
}

/// Removes line ends too, so that the text stays in one row of a table.
pub fn one_line(text: &str) -> String {
    text.replace(controls_display, "")
}

fn write_to(out: &mut (impl Write + IsTerminal), text: &str) -> io::Result<()> {
    // A file or a program receives the original bytes.
    let text = if out.is_terminal() { harmless(text) } else { text.into() };
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Prints text. A reader that closes the pipe (`| head`) ends the command quietly.
pub fn print(text: &str) -> Outcome<()> {
    match write_to(&mut io::stdout().lock(), text) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|e| Failure::new(format!("standard output: {e}"))),
    }
}

/// Prints a line.
pub fn line(text: &str) -> Outcome<()> {
    print(&format!("{text}\n"))
}

/// Prints indented JSON.
pub fn json(value: &Value) -> Outcome<()> {
    line(&format!("{value:#}"))
}

/// Prints an answer, as the API's JSON or as text.
pub fn answer(value: &Value, as_json: bool, shown: impl FnOnce(&Value) -> String) -> Outcome<()> {
    if as_json { json(value) } else { line(&shown(value)) }
}

/// Prints progress on standard error, so that standard output contains the answer alone.
pub fn progress(text: &str) {
    // Nothing can be reported when standard error is closed.
    let _ = write_to(&mut io::stderr().lock(), &format!("{text}\n"));
}

/// Formats rows under a heading, with columns aligned.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| one_line(cell))).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading.map(str::to_owned)).chain(&rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Returns a field of an answer as text; empty when it is absent.
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

    #[test]
    fn what_is_shown_controls_no_terminal_and_a_cell_is_no_row() {
        assert_eq!(harmless("a\tb\n\u{1b}]52;c;QQ==\u{7}c\r\u{9b}2J\u{7f}é"), "a\tb\n]52;c;QQ==c2Jé");
        assert_eq!(harmless("pay \u{202e}eciovni\u{2069}\u{2028}\u{200f}שלום"), "pay eciovniשלום");
        let rows = [["a\nforged  Running".to_owned(), "\u{1b}[2JPending".to_owned()]];
        assert_eq!(table(["NAME", "PHASE"], &rows), "NAME              PHASE\naforged  Running  [2JPending\n");
    }
}
