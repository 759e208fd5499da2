//! The source files of a directory, as a deploy sends them. Generated and ignored files are left out and reported; a
//! file that cannot be sent is an error, so that no agent runs without one of its files.

use super::{Failure, Outcome};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hoistway_model::source::{MAX_FILES, encoding};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// The maximum size of all files as JSON, in bytes: the API accepts requests of 32 MiB.
const MAX_BYTES: usize = 31 << 20;
/// The number of largest files that are named when the limit is exceeded.
const LARGEST: usize = 3;
/// The number of left-out entries that are named for each reason.
const SHOWN: usize = 20;
/// The file that names files not to deploy, in the format of `.gitignore`; it has precedence over `.gitignore`.
const IGNORE_FILE: &str = ".hoistwayignore";

/// The source files found.
#[derive(Debug, Default)]
pub struct Source {
    /// The files by their name relative to the directory, with `/`: text, or `{"base64": …}`.
    pub files: BTreeMap<String, Value>,
    /// The bytes of their contents.
    pub bytes: usize,
    /// The names of entries that are not sent, by reason.
    left: BTreeMap<Reason, Vec<String>>,
}

/// The reason for which an entry is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Environment,
    Cache,
    VersionControl,
    Hidden,
    Ignored,
}

impl Source {
    /// Returns one line for each reason for which entries are not sent.
    pub fn left(&self) -> impl Iterator<Item = String> {
        self.left.iter().map(|(reason, names)| {
            let reason = match reason {
                Reason::Environment => "virtual environment",
                Reason::Cache => "cache",
                Reason::VersionControl => "version control",
                Reason::Hidden => "hidden",
                Reason::Ignored => "ignored",
            };
            let more = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("not sent ({reason}): {}{more}", names[..names.len().min(SHOWN)].join(", "))
        })
    }
}

/// Reads a directory, or one file.
pub fn read(path: &Path) -> Outcome<Source> {
    let meta = fs::metadata(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let mut walk = Walk::new(path)?;
    if meta.is_file() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        walk.add(name, path)?;
    } else {
        walk.directory(path, "")?;
    }
    if walk.source.files.is_empty() {
        return Err(Failure::usage(format!("{} holds no source files", path.display())));
    }
    Ok(walk.source)
}

struct Walk {
    root: PathBuf,
    /// The root without symbolic links.
    canonical: PathBuf,
    source: Source,
    /// The size that each file adds to the request, in bytes.
    sizes: Vec<(usize, String)>,
    total: usize,
    /// The ignore files that apply to the current directory, the nearest last.
    own: Vec<Gitignore>,
    git: Vec<Gitignore>,
}

impl Walk {
    fn new(root: &Path) -> Outcome<Self> {
        let canonical = fs::canonicalize(root).map_err(|e| Failure::usage(format!("{}: {e}", root.display())))?;
        let repository = canonical.ancestors().skip(1).find(|parent| parent.join(".git").exists());
        let mut git = Vec::new();
        if let Some(repository) = repository.filter(|_| !canonical.join(".git").exists()) {
            let mut above: Vec<&Path> =
                canonical.ancestors().skip(1).take_while(|parent| parent.starts_with(repository)).collect();
            above.reverse();
            git.extend(
                above
                    .into_iter()
                    .filter_map(|parent| rules(parent, ".gitignore").transpose())
                    .collect::<Outcome<Vec<_>>>()?,
            );
        }
        let (source, sizes, own) = (Source::default(), Vec::new(), Vec::new());
        Ok(Self { root: root.to_owned(), canonical, source, sizes, total: 0, own, git })
    }

    /// Reads a directory below the root; `prefix` is its name with a slash, or empty.
    fn directory(&mut self, directory: &Path, prefix: &str) -> Outcome<()> {
        let cannot = |e: io::Error| Failure::new(format!("{}: {e}", directory.display()));
        let mut entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(cannot)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        let depth = (self.own.len(), self.git.len());
        // A symbolic link to the root may have another path than the one that the ignore files above apply to.
        let real = self.canonical.join(prefix);
        self.own.extend(rules(&real, IGNORE_FILE)?);
        self.git.extend(rules(&real, ".gitignore")?);
        for entry in entries {
            self.entry(&entry, prefix)?;
        }
        self.own.truncate(depth.0);
        self.git.truncate(depth.1);
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry, prefix: &str) -> Outcome<()> {
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(|e| Failure::new(format!("{name}: {e}")))?;
        if let Some(reason) = self.reason(&path, prefix, kind.is_dir()) {
            let slash = if kind.is_dir() { "/" } else { "" };
            self.source.left.entry(reason).or_default().push(format!("{name}{slash}"));
            return Ok(());
        }
        if entry.file_name().to_str().is_none() {
            return Err(self.refused(&name, "its name is not UTF-8"));
        }
        if kind.is_dir() {
            return self.directory(&path, &format!("{name}/"));
        }
        if kind.is_symlink() {
            let inside = fs::canonicalize(&path).is_ok_and(|to| to.starts_with(&self.canonical) && to.is_file());
            if !inside {
                return Err(self.refused(&name, "it is a link to something that is no file of this directory"));
            }
        } else if !kind.is_file() {
            return Err(self.refused(&name, "it is neither a file nor a directory"));
        }
        self.add(name, &path)
    }

    /// Returns the reason for which an entry is not sent, if there is one.
    fn reason(&self, path: &Path, prefix: &str, is_dir: bool) -> Option<Reason> {
        let file_name = path.file_name().unwrap_or_default();
        let last = &*file_name.to_string_lossy();
        let environment = || ["pyvenv.cfg", "conda-meta"].iter().any(|mark| path.join(mark).exists());
        match last {
            ".git" | ".hg" | ".svn" | ".bzr" => return Some(Reason::VersionControl),
            "__pycache__" | "node_modules" if is_dir => return Some(Reason::Cache),
            _ if last.ends_with(".pyc") => return Some(Reason::Cache),
            _ if is_dir && environment() => return Some(Reason::Environment),
            _ if last.starts_with('.') => return Some(Reason::Hidden),
            _ => {}
        }
        let real = self.canonical.join(prefix).join(file_name);
        let rules = self.own.iter().rev().chain(self.git.iter().rev());
        let matched = rules.map(|rules| rules.matched(&real, is_dir)).find(|matched| !matched.is_none());
        matched.is_some_and(|matched| matched.is_ignore()).then_some(Reason::Ignored)
    }

    fn add(&mut self, name: String, path: &Path) -> Outcome<()> {
        let cannot = |e: io::Error| Failure::new(format!("{name}: {e}"));
        if fs::metadata(path).map_err(cannot)?.len() > MAX_BYTES as u64 {
            return Err(self.too_large(&[(MAX_BYTES, name)]));
        }
        let content = fs::read(path).map_err(cannot)?;
        self.source.bytes += content.len();
        let is_text = if name.ends_with(".py") {
            encoding::is_python_in_utf8(&content)
        } else {
            std::str::from_utf8(&content).is_ok()
        };
        let value = match String::from_utf8(content) {
            Ok(text) if is_text => Value::String(text),
            Ok(text) => in_base64(text.as_bytes()),
            Err(e) => in_base64(e.as_bytes()),
        };
        let size = size(&value);
        self.total += size;
        self.sizes.push((size, name.clone()));
        self.source.files.insert(name, value);
        if self.source.files.len() > MAX_FILES {
            return Err(Failure::usage(format!("{} holds more than {MAX_FILES} files", self.root.display()))
                .remedy(format!("name what is not source in {IGNORE_FILE}")));
        }
        if self.total > MAX_BYTES {
            self.sizes.sort_unstable_by(|a, b| b.cmp(a));
            return Err(self.too_large(&self.sizes));
        }
        Ok(())
    }

    fn too_large(&self, sizes: &[(usize, String)]) -> Failure {
        let largest: Vec<&str> = sizes.iter().take(LARGEST).map(|(_, name)| name.as_str()).collect();
        let whole = format!("{} holds more than {} MiB", self.root.display(), MAX_BYTES >> 20);
        Failure::usage(format!("{whole}; the largest so far: {}", largest.join(", ")))
            .remedy(format!("name what is not source in {IGNORE_FILE}"))
    }

    fn refused(&self, name: &str, why: &str) -> Failure {
        Failure::usage(format!("{name} cannot be sent: {why}"))
            .remedy(format!("copy what the agent needs of it, or name it in {IGNORE_FILE}"))
    }
}

/// Returns the rules of an ignore file of a directory, if it exists. Invalid lines of `.gitignore` are ignored, as in
/// git, and a line that is not UTF-8 does not affect other lines.
fn rules(directory: &Path, file: &str) -> Outcome<Option<Gitignore>> {
    let path = directory.join(file);
    if !path.is_file() {
        return Ok(None);
    }
    let is_own = file == IGNORE_FILE;
    let cannot = |why: String| {
        Failure::usage(format!("{}: {why}", path.display())).remedy("correct it, as .gitignore has it, in UTF-8")
    };
    let content = fs::read(&path).map_err(|e| cannot(e.to_string()))?;
    let text = match encoding::decode(&content) {
        Ok(text) => text,
        Err(why) if is_own => return Err(cannot(why)),
        Err(_) => content.split(|byte| *byte == b'\n').map(line_of).collect::<Vec<_>>().join("\n").into(),
    };
    let mut builder = GitignoreBuilder::new(directory);
    for (number, line) in text.lines().enumerate() {
        if let Err(e) = builder.add_line(Some(path.clone()), line)
            && is_own
        {
            return Err(cannot(format!("line {}: {e}", number + 1)));
        }
    }
    builder.build().map(Some).map_err(|e| cannot(e.to_string()))
}

/// Decodes a line as UTF-8, or else as Latin-1.
fn line_of(line: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(line).map_or_else(|_| line.iter().copied().map(char::from).collect(), Cow::Borrowed)
}

fn in_base64(content: &[u8]) -> Value {
    json!({ "base64": BASE64.encode(content) })
}

/// Returns the size of a file's content as JSON, in bytes.
fn size(value: &Value) -> usize {
    let escape = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    match value {
        Value::String(text) => text.len() + text.bytes().map(escape).sum::<usize>(),
        other => other["base64"].as_str().map_or(0, str::len),
    }
}

/// Derives the name of an agent from its directory or file: lower case letters, digits and hyphens.
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

    fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    #[test]
    fn everything_is_sent_but_what_nobody_wrote_or_wants_sent() {
        let dir = directory(&[
            ("agent.py", b"x = 1\n"),
            ("lib/util.py", b""),
            ("env/tools.py", b""),
            ("dist/words.py", b""),
            ("data/logo.png", b"\x89PNG\xff"),
            ("data/keep.log", b"x"),
            (".env", b"KEY=secret"),
            (".git/config", b"x"),
            ("__pycache__/agent.cpython-311.pyc", b"x"),
            ("my-env/pyvenv.cfg", b"x"),
            ("my-env/lib/x.py", b"x"),
            (".gitignore", b"*.log\nlib\n"),
            ("data/.gitignore", b"!keep.log\n"),
            (".hoistwayignore", b"notes/\n!lib\n"),
            ("run.log", b"x"),
            ("notes/todo.md", b"x"),
        ]);
        std::os::unix::fs::symlink("lib/util.py", dir.path().join("link.py")).unwrap();
        let source = read(dir.path()).unwrap();
        let sent: Vec<_> = source.files.keys().collect();
        let all =
            ["agent.py", "data/keep.log", "data/logo.png", "dist/words.py", "env/tools.py", "lib/util.py", "link.py"];
        assert_eq!(sent, all);
        assert_eq!(source.files["data/logo.png"], json!({"base64": "iVBOR/8="}));
        assert_eq!(
            source.left().collect::<Vec<_>>(),
            [
                "not sent (virtual environment): my-env/",
                "not sent (cache): __pycache__/",
                "not sent (version control): .git/",
                "not sent (hidden): .env, .gitignore, .hoistwayignore, data/.gitignore",
                "not sent (ignored): notes/, run.log",
            ]
        );
        assert_eq!(read(&dir.path().join("agent.py")).unwrap().files["agent.py"], "x = 1\n");
        assert!(read(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn names_and_rules_that_cannot_be_read_end_it_only_where_they_count() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let dir = directory(&[("agent.py", b""), (".gitignore", b"[z-a\n*.log\n"), ("x.log", b"")]);
        fs::write(dir.path().join(OsStr::from_bytes(b"caf\xe9.txt")), "").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("is not UTF-8"));
        fs::write(dir.path().join(IGNORE_FILE), "caf*\n").unwrap();
        assert_eq!(read(dir.path()).unwrap().files.keys().collect::<Vec<_>>(), ["agent.py"]);
        fs::write(dir.path().join(IGNORE_FILE), "[z-a\n").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("line 1: "));
        fs::write(dir.path().join(IGNORE_FILE), b"# Schl\xfcssel\nsecrets/\n").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("line 1 is not UTF-8"));
    }

    #[test]
    fn a_gitignore_in_another_encoding_holds() {
        let utf16: Vec<u8> = "\u{feff}secrets/\r\n*.log\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for rules in [&b"# Schl\xfcssel\nsecrets/\n*.log\n"[..], b"\xef\xbb\xbfsecrets/\n*.log", &utf16] {
            let dir = directory(&[("agent.py", b""), (".gitignore", rules), ("secrets/key", b""), ("x.log", b"")]);
            assert_eq!(read(dir.path()).unwrap().files.keys().collect::<Vec<_>>(), ["agent.py"]);
        }
    }

    #[test]
    fn ignore_files_above_hold_as_far_as_the_repository_goes() {
        let dir = directory(&[
            (".gitignore", b"*\n"),
            ("team/.git/config", b""),
            ("team/.gitignore", b"*.log\n"),
            ("team/bot/agent.py", b""),
            ("team/bot/run.log", b""),
        ]);
        let source = read(&dir.path().join("team/bot")).unwrap();
        assert_eq!(source.files.keys().collect::<Vec<_>>(), ["agent.py"]);
        assert_eq!(source.left().collect::<Vec<_>>(), ["not sent (ignored): run.log"]);
    }

    #[test]
    fn sources_keep_the_encoding_in_which_python_reads_them() {
        let latin = b"# coding: latin-1\nx = 'caf\xe9'\n";
        let dir = directory(&[
            ("latin.py", latin),
            ("looks.py", "# coding: latin-1\nx = 'é'\n".as_bytes()),
            ("utf8.py", "# coding: utf-8\nx = 'é'\n".as_bytes()),
            ("notes.txt", "# coding: latin-1\né\n".as_bytes()),
        ]);
        let files = read(dir.path()).unwrap().files;
        assert_eq!(files["latin.py"], in_base64(latin));
        assert!(files["looks.py"]["base64"].is_string());
        assert!(files["utf8.py"].is_string() && files["notes.txt"].is_string());
    }

    #[test]
    fn what_cannot_be_sent_ends_it_with_the_reason() {
        let link = |to: &str| {
            let dir = directory(&[("agent.py", b""), ("lib/x.py", b"")]);
            std::os::unix::fs::symlink(to, dir.path().join("link.py")).unwrap();
            read(dir.path()).unwrap_err().to_string()
        };
        for to in ["/etc/hostname", "absent.py", "lib"] {
            assert!(link(to).contains("link.py cannot be sent: it is a link"), "{to}");
        }
        let large = vec![0xff; 24 << 20];
        let dir = directory(&[("agent.py", b""), ("model.bin", &large)]);
        let text = read(dir.path()).unwrap_err().to_string();
        assert!(text.contains("31 MiB") && text.contains("model.bin"), "{text}");
    }

    #[test]
    fn names_are_dns_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("My_Agent (2)");
        fs::create_dir(&path).unwrap();
        assert_eq!(agent_name(&path).unwrap(), "my-agent--2");
    }
}
