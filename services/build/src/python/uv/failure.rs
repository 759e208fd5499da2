//! The cause of a failure, in the resolver's essential words, without credentials and without this machine's paths.

use crate::python::{
    Target,
    known_distributions::module_named,
    process,
    wheel_alternatives::{Versions, without_wheel},
};
use hoistway_model::{Code, Error};
use std::path::Path;

/// The number of lines of proof that an error carries.
const MAX_DETAILS: usize = 60;
/// The longest essential text and the longest line of proof, in characters.
const MAX_TEXT: usize = 500;

/// The beginning of uv's line about an address that it could not read.
const FETCH: &str = "Failed to fetch:";

/// What uv says when no versions satisfy the requirements.
const NO_SOLUTION: &str = "No solution found";
/// The end of what uv says about a package that no index has.
const NOT_THERE: &str = " was not found in the package registry";

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

    /// The program does not know a platform to install for.
    pub(super) fn unknown_platform(self, target: &Target) -> Error {
        let text = format!(
            "{}: the uv on this machine cannot install for {}: update it, or the base image",
            self.subject(),
            target.named_for_wheels()
        );
        Error::new(Code::RequirementFailed, text)
    }

    /// The program ended with these lines; `platform` names what wheels had to fit.
    pub(super) fn failed(self, stderr: &[String], data: &Path, platform: &str) -> Error {
        let lines: Vec<String> = stderr.iter().map(|line| masked(line, data)).collect();
        let essence = essence(&lines);
        let text = match WithoutWheel::of(&lines) {
            Some(found) => without_wheel(&found.package, found.versions(), platform),
            None => match missing(&essence).and_then(module_named) {
                Some((module, name)) => format!("{essence}; did you mean \"{name}\", which has the module {module}?"),
                None => essence,
            },
        };
        let message = format!("{}: {text}", self.subject());
        Error::new(Code::RequirementFailed, message).with_details(lines.into_iter().take(MAX_DETAILS))
    }
}

/// Whether all wheels were there, and could not be put into one directory: two have a file in different ways.
pub(super) fn is_of_directory(error: &Error) -> bool {
    says(error, "Failed to install: ")
}

/// Whether an index does not have a file of a lock, or has another one.
pub fn is_gone(error: &Error) -> bool {
    let signs = [NO_SOLUTION, "Hash mismatch", "404 Not Found"];
    error.message.starts_with(Doing::Install.subject()) && signs.iter().any(|sign| says(error, sign))
}

/// Whether no versions satisfy the requirements, although there are some of each package.
pub fn is_unsatisfiable(error: &Error) -> bool {
    says(error, NO_SOLUTION) && !says(error, NOT_THERE)
}

/// Whether a line of proof has these words.
fn says(error: &Error, words: &str) -> bool {
    error.details.iter().any(|line| line.contains(words))
}

/// A package of which the resolver found no wheel for this Python, at least not of the versions that it needs.
#[derive(Debug)]
pub(super) struct WithoutWheel {
    pub package: String,
    /// Whether other versions may have one.
    pub may_have_others: bool,
    version: Option<String>,
}

impl WithoutWheel {
    /// The first one that the resolver's proof names. Wheels for other Pythons only count in the first step of the
    /// proof.
    pub(super) fn of(lines: &[String]) -> Option<Self> {
        let proof = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        let first = || Self::named(&without_markers(&essence(lines)), " no wheels with a matching ");
        Self::named(&without_markers(&proof), " no usable wheels").or_else(first)
    }

    fn named(proof: &str, cause: &str) -> Option<Self> {
        let (before, verb) = proof[..proof.find(cause)?].rsplit_once(' ')?;
        let (before, package) = before.rsplit_once(' ')?;
        let end = package.find(['[', '=', '<', '>', '!', '~']).unwrap_or(package.len());
        // It is given to the resolver again.
        let is_name = |text: &str| {
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(fine)
        };
        if !is_name(&package[..end]) {
            return None;
        }
        let version = package.split_once("==").map(|(_, version)| version.to_owned()).filter(|_| verb == "has");
        let may_have_others = !before.ends_with("all versions of");
        Some(Self { package: package[..end].to_owned(), may_have_others, version })
    }

    fn versions(&self) -> Versions<'_> {
        match &self.version {
            Some(version) => Versions::One(version),
            None if self.may_have_others => Versions::Allowed,
            None => Versions::All,
        }
    }
}

/// The text without the markers of packages, which are in braces.
fn without_markers(proof: &str) -> String {
    let mut parts = proof.split('{');
    let first = parts.next().unwrap_or_default();
    [first].into_iter().chain(parts.filter_map(|part| Some(part.split_once('}')?.1))).collect()
}

/// The package that no index has.
fn missing(essence: &str) -> Option<&str> {
    essence.split_once(NOT_THERE)?.0.rsplit(' ').next()
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
        Doing::Resolve.failed(&lines, Path::new("/data"), "this Python and platform").message
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
    fn a_module_in_place_of_a_package_is_answered_with_the_package() {
        let of = |name: &str| {
            message(&format!(
                "  cause: Because {name} was not found in the package registry and you require {name}, we can conclude that\n"
            ))
        };
        assert!(of("pil").ends_with(r#"and you require pil; did you mean "pillow", which has the module PIL?"#));
        assert!(of("yaml").ends_with(r#"did you mean "pyyaml", which has the module yaml?"#));
        assert!(of("unheard-of").ends_with("you require unheard-of"));
    }

    #[test]
    fn a_version_without_a_wheel_is_told_from_a_package_without_any() {
        for (cause, want) in [
            (
                "numpy==1.19.0 has no usable wheels and you require numpy==1.19.0",
                "numpy 1.19.0 has no wheel that fits this Python and platform, and",
            ),
            ("old==1 depends on lxml==4.6.0 and lxml==4.6.0 has no usable wheels", "lxml 4.6.0 has no wheel that fits"),
            (
                "torch==1.0.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require torch==1.0.0",
                "torch 1.0.0 has no wheel that fits",
            ),
            (
                "tensorflow{sys_platform != 'darwin'}==2.11.1 has no wheels with a matching Python ABI tag and rasa==3.6.0 depends on it",
                "tensorflow 2.11.1 has no wheel that fits",
            ),
            (
                "all versions of dlib have no usable wheels and you require dlib",
                "dlib has no wheel that fits this Python and platform, and",
            ),
            (
                "all of:\n      numpy<=1.9.3\n      numpy>=1.10.4,<=1.19.5\n  have no usable wheels and only",
                "numpy has no wheel that fits this Python and platform in the versions that the requirements allow, and",
            ),
        ] {
            let message =
                message(&format!("error: No solution found\n  cause: Because {cause}, we can conclude that\n"));
            assert!(message.starts_with(&format!("the requirements cannot be resolved: {want}")), "{message}");
        }
        for option in ["--find-links", "-e", "https://host/x", "", "."] {
            let lines = [format!("  cause: Because all versions of {option} have no usable wheels and you")];
            assert!(WithoutWheel::of(&lines).is_none(), "{option}");
        }
        let later = "  cause: Because there is no version of six==99 and you require six==99, we can conclude\n  And because torch==1.0.0 has no wheels with a matching Python ABI tag\n";
        assert!(message(later).ends_with("Because there is no version of six==99 and you require six==99"));
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
