//! A pip requirements file, with its included files. Its lines about the sources of packages are ignored or refused,
//! since the operator chooses these.

use super::{
    CONSTRAINT, FileContent, MAX_BYTES,
    line::{self, quoted},
    option::{Meaning, meaning},
};
use crate::{
    Error, Result,
    source::{self, SourceFiles, encoding},
};
use std::collections::BTreeSet;

/// The deepest nesting of included files.
const MAX_DEPTH: usize = 20;
/// The most warnings about one list; further ones are dropped.
const MAX_WARNINGS: usize = 50;

/// Parses `text`, the file `name` of the source; an empty name is the request's own text.
pub(super) fn read(field: &str, name: &str, text: &str, files: &SourceFiles) -> Result<FileContent> {
    let (read, content) = (BTreeSet::new(), FileContent::default());
    let mut reader = Reader { files, read, depth: 0, content, strict: false };
    reader.read.insert((name.to_owned(), false));
    reader.text(field, name, text, false)?;
    let Reader { mut content, strict, .. } = reader;
    let (with, without): (Vec<_>, Vec<_>) = content.requirements.iter().partition(|item| !item.hashes.is_empty());
    if let (Some(_), Some(item), false) = (with.first(), without.first(), name.is_empty()) {
        let text = "has no hash, and others have: any file of it is installed, and of what they depend on";
        content.warnings.push(format!("{field}: {}", quoted(&item.line, text)));
    }
    match content.requirements.iter().find(|item| strict && item.hashes.is_empty()) {
        Some(item) => Err(Error::field(field, format!("\"{}\" has no hash, and --require-hashes is given", item.line))),
        None => Ok(content),
    }
}

struct Reader<'a> {
    files: &'a SourceFiles,
    /// Files that need not be read again, with their role: constraints, or requirements.
    read: BTreeSet<(String, bool)>,
    /// The number of open files, each included by the one before.
    depth: usize,
    content: FileContent,
    /// Whether every requirement must have a hash.
    strict: bool,
}

impl Reader<'_> {
    fn text(&mut self, field: &str, name: &str, text: &str, constraint: bool) -> Result<()> {
        if text.len() > MAX_BYTES {
            return Err(Error::field(field, format!("{} bytes are too many, {MAX_BYTES} is the limit", text.len())));
        }
        for (number, line) in logical_lines(text) {
            // The canonical text is not a file.
            let done = match line.strip_prefix(CONSTRAINT).filter(|_| name.is_empty()) {
                Some(line) => self.requirement(line, true),
                None => options(&line).try_for_each(|one| self.line(field, name, number, one, constraint)),
            };
            done.map_err(|fault| match fault {
                Fault::Line(fault) => Error::field(field, format!("line {number}: {fault}")),
                Fault::Elsewhere(error) => error,
            })?;
        }
        Ok(())
    }

    fn line(&mut self, field: &str, name: &str, number: usize, line: &str, constraint: bool) -> Result<(), Fault> {
        let Some((option, value)) = option(line) else {
            if is_own_project(line) {
                return self.own_project(field, name, number, line, constraint);
            }
            return self.requirement(line, constraint);
        };
        match option {
            "-r" | "--requirement" => self.include(name, line, value, constraint),
            "-c" | "--constraint" => self.include(name, line, value, true),
            "-e" | "--editable" if is_own_project(value) => self.own_project(field, name, number, line, constraint),
            // An error describes the requirement without the option.
            "-e" | "--editable" => self.requirement(value, constraint),
            "--require-hashes" => {
                self.strict = true;
                Ok(())
            }
            _ => match meaning(option, value) {
                Meaning::Needless(why) => {
                    self.warn(field, number, line, why);
                    Ok(())
                }
                Meaning::Refused(why) => Err(Fault::Line(quoted(line, &why))),
            },
        }
    }

    fn requirement(&mut self, line: &str, constraint: bool) -> Result<(), Fault> {
        let requirement = line::requirement(line)?;
        Ok(self.content.requirements.add(requirement, constraint)?)
    }

    /// Handles the project itself as a requirement. Tools write such a line into files; in a request it is a mistake.
    fn own_project(
        &mut self,
        field: &str,
        name: &str,
        number: usize,
        line: &str,
        constraint: bool,
    ) -> Result<(), Fault> {
        const WHAT: &str = "is the source itself, which is there and not installed";
        if name.is_empty() {
            return Err(Fault::Line(quoted(line, &format!("{WHAT}: leave the line out"))));
        }
        self.content.own_project |= !constraint;
        let extras = if line.contains('[') { "; list the packages of its extras" } else { "" };
        self.warn(field, number, line, &format!("{WHAT}{extras}"));
        Ok(())
    }

    fn warn(&mut self, field: &str, number: usize, line: &str, what: &str) {
        if self.content.warnings.len() < MAX_WARNINGS {
            self.content.warnings.push(format!("{field}: line {number}: {}", quoted(line, what)));
        }
    }

    /// Includes a file named by the file `from`, relative to it.
    fn include(&mut self, from: &str, line: &str, path: &str, constraint: bool) -> Result<(), Fault> {
        if path.contains("://") {
            return Err(Fault::Line(quoted(line, "names an address; put the file into the source and name it there")));
        }
        let missing = || Fault::Line(quoted(line, "names a file that is not in the source"));
        let name = joined(from, &path.replace("\\ ", " ")).ok_or_else(missing)?;
        let content = self.files.get(&name).ok_or_else(missing)?;
        if !self.read.insert((name.clone(), constraint)) {
            return Ok(());
        }
        if self.depth == MAX_DEPTH {
            return Err(Fault::Line(quoted(line, &format!("includes files more than {MAX_DEPTH} deep"))));
        }
        let field = source::field(&name);
        let text = encoding::decode(content).map_err(|fault| Fault::Elsewhere(Error::field(field.as_str(), fault)))?;
        self.depth += 1;
        let done = self.text(&field, &name, &text, constraint).map_err(Fault::Elsewhere);
        self.depth -= 1;
        done
    }
}

/// A problem with a line, or with a line of an included file.
enum Fault {
    Line(String),
    Elsewhere(Error),
}

impl From<String> for Fault {
    fn from(fault: String) -> Self {
        Self::Line(fault)
    }
}

/// Splits a line into its options, each with its value; a line without a leading option is one piece.
fn options(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line).filter(|line| !line.is_empty());
    std::iter::from_fn(move || {
        let line = rest.take()?;
        let begins = |at: &usize| line.starts_with('-') && line[at + 1..].starts_with('-');
        let end = line.match_indices([' ', '\t']).map(|(at, _)| at).find(begins);
        let (one, others) = line.split_at(end.unwrap_or(line.len()));
        rest = Some(others.trim_start()).filter(|others| !others.is_empty());
        Some(one.trim_end())
    })
}

/// Parses an option and its value, without quotes: `--name value`, `--name=value`, `-n value`, `-nvalue`.
fn option(line: &str) -> Option<(&str, &str)> {
    let end = match line.strip_prefix("--") {
        Some(_) => line.find([' ', '\t', '=']).unwrap_or(line.len()),
        None if line.starts_with('-') => line.char_indices().nth(2).map_or(line.len(), |(at, _)| at),
        None => return None,
    };
    let (option, value) = line.split_at(end);
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    Some((option, value.trim_matches(['"', '\''])))
}

/// Whether a requirement is the directory itself, optionally with extras, a marker or a name for it.
fn is_own_project(text: &str) -> bool {
    let text = text.split_once(';').map_or(text, |(text, _)| text);
    let text = text.split_once("#egg=").map_or(text, |(text, _)| text).trim_end();
    let path = text.split_once('[').filter(|(_, extras)| extras.ends_with(']')).map_or(text, |(path, _)| path);
    let path = path.trim().strip_prefix("file:").unwrap_or(path.trim());
    path.starts_with('.') && path.split('/').all(|part| matches!(part, "" | "."))
}

/// Returns the name of the file at a path relative to that of another; `None` if it leads out of the source.
fn joined(from: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Returns lines with continuations joined and comments and blanks dropped, each with the number of its first physical
/// line.
fn logical_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (index, first) = lines.next()?;
        let mut line = first.to_owned();
        while line.ends_with('\\') && !line.trim_start().starts_with('#') {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push_str(next);
        }
        Some((index + 1, without_comment(&line).trim().to_owned()))
    })
    .filter(|(_, line)| !line.is_empty())
}

/// Removes a comment, which begins at the line's start or after white space, as in pip.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}
