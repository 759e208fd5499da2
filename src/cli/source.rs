//! The source files of a directory, as a deploy sends them.

use super::{Failure, Outcome};
use ignore::WalkBuilder;
use std::{collections::BTreeMap, fs, path::Path};

/// Directories that hold what tools made, not what people wrote.
const NOT_SOURCE: [&str; 6] = ["__pycache__", "node_modules", "venv", "env", "dist", "site-packages"];
/// The most bytes of all files together: the API takes 32 MiB, and JSON adds to them.
const MAX_BYTES: u64 = 24 << 20;
/// The most files that a deploy takes, whatever the server's own bound.
const MAX_FILES: usize = 2_000;
/// The file that names what is not deployed, in the format of `.gitignore`, which counts too.
const IGNORE_FILE: &str = ".hoistwayignore";

/// What was found.
#[derive(Debug, Default)]
pub struct Source {
    /// The files by their name relative to the directory, with `/`.
    pub files: BTreeMap<String, String>,
    /// What cannot be sent, and why.
    pub skipped: Vec<String>,
}

/// Reads a directory, or one file. Hidden files (`.env` among them), links, and what `.gitignore` or
/// `.hoistwayignore` name stay where they are.
pub fn read(path: &Path) -> Outcome<Source> {
    let meta = fs::metadata(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let mut source = Source::default();
    if meta.is_file() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let text = fs::read_to_string(path)
            .map_err(|e| Failure::usage(format!("{} is not a source file: {e}", path.display())))?;
        source.files.insert(name, text);
        return Ok(source);
    }
    let (mut total, mut largest) = (0, (0, String::new()));
    for entry in walk(path) {
        let entry = entry.map_err(|e| Failure::new(e.to_string()))?;
        let file = entry.path();
        let below = file.strip_prefix(path).unwrap_or(file);
        if entry.depth() > 0 && entry.path_is_symlink() {
            source.skipped.push(format!("{} is a link", below.display()));
        }
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
        let Some(name) = parts.map(|parts| parts.join("/")) else {
            source.skipped.push(format!("the name of {} is not UTF-8", below.display()));
            continue;
        };
        let size = entry.metadata().map_err(|e| Failure::new(format!("{name}: {e}")))?.len();
        total += size;
        if size > largest.0 {
            largest = (size, name.clone());
        }
        if total > MAX_BYTES {
            let (size, name) = largest;
            let whole = format!("{} holds more than {} MiB", path.display(), MAX_BYTES >> 20);
            return Err(Failure::usage(format!("{whole}; the largest file seen is {name} with {size} bytes"))
                .remedy(format!("name what is not source in {IGNORE_FILE}")));
        }
        if source.files.len() >= MAX_FILES {
            return Err(Failure::usage(format!("{} holds more than {MAX_FILES} files", path.display()))
                .remedy(format!("name what is not source in {IGNORE_FILE}")));
        }
        let bytes = fs::read(file).map_err(|e| Failure::new(format!("{name}: {e}")))?;
        match String::from_utf8(bytes) {
            Ok(text) => drop(source.files.insert(name, text)),
            Err(_) => source.skipped.push(format!("{name} is not UTF-8 text")),
        }
    }
    if source.files.is_empty() {
        return Err(Failure::usage(format!("{} holds no source files", path.display())));
    }
    Ok(source)
}

fn walk(path: &Path) -> ignore::Walk {
    WalkBuilder::new(path)
        .require_git(false)
        .git_global(false)
        .ignore(false)
        .follow_links(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .sort_by_file_name(Ord::cmp)
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            if !entry.file_type().is_some_and(|kind| kind.is_dir()) {
                return !name.ends_with(".pyc");
            }
            // A directory with a `pyvenv.cfg` is a virtual environment, whatever it is called.
            entry.depth() == 0 || !NOT_SOURCE.contains(&&*name) && !entry.path().join("pyvenv.cfg").exists()
        })
        .build()
}

/// A name for the agent of a directory or file: lower case letters, digits and hyphens.
pub fn agent_name(path: &Path) -> Outcome<String> {
    let whole = fs::canonicalize(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let stem = if whole.is_file() { whole.file_stem() } else { whole.file_name() };
    let text = stem.map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        return Err(Failure::usage("the directory's name makes no agent name").remedy("give one with --name"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_people_wrote_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("agent.py", &b"x = 1\n"[..]),
            ("lib/util.py", b""),
            ("data/logo.png", b"\x89PNG\xff"),
            (".env", b"KEY=secret"),
            (".git/config", b"x"),
            ("__pycache__/agent.cpython-311.pyc", b"x"),
            ("my-env/pyvenv.cfg", b"x"),
            ("my-env/lib/x.py", b"x"),
            (".gitignore", b"*.log\n"),
            (".hoistwayignore", b"notes/\n"),
            ("run.log", b"x"),
            ("notes/todo.md", b"x"),
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        std::os::unix::fs::symlink("agent.py", dir.path().join("link.py")).unwrap();
        let source = read(dir.path()).unwrap();
        assert_eq!(source.files.keys().collect::<Vec<_>>(), ["agent.py", "lib/util.py"]);
        assert_eq!(source.skipped, ["data/logo.png is not UTF-8 text", "link.py is a link"]);
        assert_eq!(read(&dir.path().join("agent.py")).unwrap().files["agent.py"], "x = 1\n");
        assert!(read(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn names_are_dns_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("My_Agent (2)");
        fs::create_dir(&path).unwrap();
        assert_eq!(agent_name(&path).unwrap(), "my-agent--2");
    }
}
