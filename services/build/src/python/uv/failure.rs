//! What went wrong, in the resolver's essential words, without credentials and without this machine's paths.

use crate::python::{alternatives::without_wheel, process};
use hoistway_model::{Code, Error};
use std::path::Path;

/// How many lines of proof an error carries.
const MAX_DETAILS: usize = 60;
/// The longest essential text and the longest line of proof, in characters.
const MAX_TEXT: usize = 500;

/// How uv begins the line about an address that it could not read.
const FETCH: &str = "Failed to fetch:";

/// The two things that are done with requirements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Resolve,
    Install,
}

impl Doing {
    const fn subject(self) -> &'static str {
        match self {
            Doing::Resolve => "the requirements cannot be resolved",
            Doing::Install => "the requirements cannot be installed",
        }
    }

    /// The program was cut off or could not be started.
    pub(super) fn did_not_end(self, failure: process::Failure) -> Error {
        match failure {
            process::Failure::Io(e) => Error::internal("running uv", e),
            other => Error::new(Code::RequirementFailed, format!("{}: {other}", self.subject())),
        }
    }

    /// The kernel ended the program.
    pub(super) fn cut_off(self, why: &str, stderr: &[String], data: &Path) -> Error {
        let lines = stderr.iter().rev().take(MAX_DETAILS).rev().map(|line| masked(line, data));
        Error::new(Code::RequirementFailed, format!("{}: uv: {why}", self.subject())).with_details(lines)
    }

    /// The program ended with these lines.
    pub(super) fn failed(self, stderr: &[String], data: &Path) -> Error {
        let lines: Vec<String> = stderr.iter().map(|line| masked(line, data)).collect();
        let message = match only_from_source(&lines) {
            Some(package) => format!("{}: {}", self.subject(), without_wheel(package)),
            None => format!("{}: {}", self.subject(), essence(&lines)),
        };
        Error::new(Code::RequirementFailed, message).with_details(lines.into_iter().take(MAX_DETAILS))
    }
}

/// The package that the resolver could have only from source.
fn only_from_source(lines: &[String]) -> Option<&str> {
    let hint = lines.iter().find_map(|line| line.split_once("Wheels are required for `"));
    let (package, _) = hint?.1.split_once('`')?;
    // The hint also comes along when versions from before wheels are the only ones left; that is not the cause then.
    lines.iter().any(|line| line.contains("no usable wheels") || line.contains("--no-build")).then_some(package)
}

/// The first cause, up to where the resolver begins to conclude; of a chain of network errors also the last.
fn essence(lines: &[String]) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut inside = false;
    for line in lines {
        let text = line.trim();
        match text.split_once("cause: ").or_else(|| text.split_once("╰─▶ ")).or_else(|| text.split_once("Caused by: "))
        {
            Some((_, cause)) => {
                inside = true;
                causes.push(cause.to_owned());
            }
            None if text.starts_with("hint:") || text.starts_with("error:") => inside = false,
            None if inside && line.starts_with(' ') => {
                if let Some(cause) = causes.last_mut() {
                    cause.push(' ');
                    cause.push_str(text);
                }
            }
            None => inside = false,
        }
    }
    let text = match &causes[..] {
        [] => {
            let error = lines.iter().rev().find_map(|line| line.trim().strip_prefix("error: "));
            error.or(lines.last().map(String::as_str)).unwrap_or("uv did not say why").to_owned()
        }
        [.., last] if lines.iter().any(|line| line.contains(FETCH)) => {
            let what = lines.iter().find_map(|line| line.split_once(FETCH)).map_or("", |(_, what)| what);
            format!("the package index did not answer as it should:{what}: {last}")
        }
        [first, ..] => first.clone(),
    };
    let end = text.find(" we can conclude").unwrap_or(text.len());
    let text = text[..end].trim_end_matches(" and").trim_end_matches([',', ' ']);
    text.chars().take(MAX_TEXT).collect()
}

/// The line without user names and passwords in addresses, with the data directory's path shortened.
pub(super) fn masked(line: &str, data: &Path) -> String {
    let line = match data.to_str() {
        Some(path) if path.len() > 1 => line.replace(path, "DATA"),
        _ => line.to_owned(),
    };
    let mut out = String::with_capacity(line.len());
    let mut rest = line.as_str();
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '`' | '"' | '\''));
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(at) => {
                out.push_str("***");
                &after[at..]
            }
            None => after,
        };
    }
    out.push_str(rest);
    out.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        Doing::Resolve.failed(&lines, Path::new("/data")).message
    }

    #[test]
    fn the_essential_line_is_the_message() {
        for (stderr, want) in [
            (
                "error: No solution found when resolving dependencies\n  cause: Because no-such was not found in the package registry and you require no-such==1, we can conclude that your requirements are unsatisfiable.\n",
                "Because no-such was not found in the package registry and you require no-such==1",
            ),
            (
                "  × No solution found when resolving dependencies:\n  ╰─▶ Because there is no version of numpy==99 and you require numpy==99,\n      we can conclude that your requirements are unsatisfiable.\n",
                "Because there is no version of numpy==99 and you require numpy==99",
            ),
            (
                "error: Request failed after 3 retries in 9.3s\n  cause: Failed to fetch: http://u:p@127.0.0.1:9/simple/six/\n  cause: error sending request\n  cause: Connection refused (os error 111)\n",
                "the package index did not answer as it should: http://***@127.0.0.1:9/simple/six/: Connection refused (os error 111)",
            ),
            ("warning: x\nerror: Unexpected 'q'\n", "Unexpected 'q'"),
            ("", "uv did not say why"),
        ] {
            assert_eq!(message(stderr), format!("the requirements cannot be resolved: {want}"));
        }
    }

    #[test]
    fn a_package_without_a_wheel_is_said_plainly() {
        let stderr = "error: No solution found when resolving dependencies\n  cause: Because requests<=1.2.3 has no usable wheels and only the following versions\n\nhint: Wheels are required for `requests` because building from source is disabled for all packages (i.e., with `--no-build`)\n";
        assert!(message(stderr).contains("requests has no wheel"), "{}", message(stderr));
    }

    #[test]
    fn credentials_and_paths_are_masked() {
        for (line, want) in [
            ("at https://u:p@ss@host/x?y and git+ssh://t@h", "at https://***@host/x?y and git+ssh://***@h"),
            ("https://host/a@b `http://k@h`", "https://host/a@b `http://***@h`"),
            ("/data/cache/uv is full", "DATA/cache/uv is full"),
        ] {
            assert_eq!(masked(line, Path::new("/data")), want);
        }
    }
}
