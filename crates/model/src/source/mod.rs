//! The user's input of a build: source files, the entry point among them, and requirement lines. It is untrusted until
//! it is parsed into one of these types.

pub(crate) mod declared;
pub mod encoding;
pub mod pyproject;
mod requirements;
mod requires_python;
mod script_header;
mod unread_manifests;

pub use requirements::{Requirement, Requirements};
pub use requires_python::RequiresPython;

use crate::{Digest, Error, Result, digest::Hasher};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// The file of requirements if the request has none of its own.
pub(super) const REQUIREMENTS_FILE: &str = "requirements.txt";
/// The most files that one source may have.
pub const MAX_FILES: usize = 2_000;
/// The most bytes of names and contents together.
pub const MAX_BYTES: usize = 32 << 20;
/// The longest path in bytes.
pub const MAX_PATH: usize = 1_024;
/// The longest component of a path in bytes, the limit of file systems.
pub const MAX_COMPONENT: usize = 255;

/// The default names of entry points, in this order, when there are several Python files and no explicit one.
const USUAL_ENTRY_POINTS: [&str; 3] = ["agent.py", "main.py", "app.py"];
/// The most names that an error lists before it gives the number of the others.
const MAX_LISTED: usize = 20;

/// Source files whose names are normalised relative paths, so that unpacking cannot leave its directory. Clones share
/// the contents.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SourceFiles(Arc<BTreeMap<String, Vec<u8>>>);

impl SourceFiles {
    /// Parses the request's `source_files`; the error's field is `source_files["NAME"]`.
    pub fn parse<B: Into<Vec<u8>>>(map: BTreeMap<String, B>) -> Result<Self> {
        let map: BTreeMap<String, Vec<u8>> = map.into_iter().map(|(name, content)| (name, content.into())).collect();
        if map.len() > MAX_FILES {
            let message = format!("{} files are too many, {MAX_FILES} is the limit", map.len());
            return Err(Error::field("source_files", message));
        }
        let bytes = bytes(&map);
        if bytes > MAX_BYTES {
            let message = format!("{bytes} bytes are too many, {MAX_BYTES} is the limit");
            return Err(Error::field("source_files", message));
        }
        for name in map.keys() {
            if let Some(fault) = fault(name) {
                return Err(Error::field(field(name), fault));
            }
            let mut parents = name.match_indices('/').map(|(at, _)| &name[..at]);
            if let Some(parent) = parents.find(|parent| map.contains_key(*parent)) {
                let message = format!("\"{}\" is a file and cannot be a directory as well", parent.escape_debug());
                return Err(Error::field(field(name), message));
            }
        }
        Ok(Self(Arc::new(map)))
    }

    /// Returns the content of one file.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Returns names and contents, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, content)| (name.as_str(), content.as_slice()))
    }

    /// Returns the names of the Python files, in order.
    pub fn python(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(|name| name.ends_with(".py"))
    }

    /// Returns the number of files.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes of names and contents together.
    pub fn bytes(&self) -> usize {
        bytes(&self.0)
    }

    /// Returns the digest of names and contents.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        for (name, content) in self.0.iter() {
            hasher.member(name.as_bytes());
            hasher.member(content);
        }
        hasher.finish()
    }

    /// Returns the contents by name; copied if another clone exists.
    pub fn into_map(self) -> BTreeMap<String, Vec<u8>> {
        Arc::unwrap_or_clone(self.0)
    }
}

/// Shows names and sizes; contents would be long.
impl fmt::Debug for SourceFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, content)| (name, content.len()))).finish()
    }
}

fn bytes(map: &BTreeMap<String, Vec<u8>>) -> usize {
    map.iter().map(|(name, content)| name.len() + content.len()).sum()
}

/// Returns the path of one file in the request.
pub(crate) fn field(name: &str) -> String {
    format!("source_files[\"{}\"]", name.escape_debug())
}

/// Returns the problem with a file's name, if any.
fn fault(name: &str) -> Option<String> {
    let fixed = |text: &str| Some(text.to_owned());
    if name.is_empty() {
        return fixed("a file needs a name");
    }
    if name.len() > MAX_PATH {
        return Some(format!("the name has {} bytes, {MAX_PATH} is the limit", name.len()));
    }
    if name.contains('\0') {
        return fixed("the name contains NUL");
    }
    if name.contains(char::is_control) {
        return fixed("the name contains a control character");
    }
    if name.contains('\\') {
        return fixed("the name contains '\\'; directories are separated by '/'");
    }
    if name.starts_with('/') {
        return fixed("the name is absolute; names are relative to the source's root");
    }
    if name.ends_with('/') {
        return fixed("the name ends with '/'; only files are listed");
    }
    for part in name.split('/') {
        match part {
            "" => return fixed("the name contains '//'"),
            "." | ".." => return Some(format!("the name contains '{part}'; names are normalised and stay inside")),
            _ if part.len() > MAX_COMPONENT => {
                return Some(format!("a part of the name has {} bytes, {MAX_COMPONENT} is the limit", part.len()));
            }
            _ if part.starts_with(".wh.") => {
                return fixed("the name begins with '.wh.', which removes files in the layers of an image");
            }
            _ if is_device(part) => return Some(format!("'{part}' is a device's name on some systems")),
            _ => {}
        }
    }
    None
}

/// Whether Windows treats the component as a device, with any extension and in any letter case.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    match stem.as_str() {
        "con" | "prn" | "aux" | "nul" | "conin$" | "conout$" => true,
        _ => stem
            .strip_prefix("com")
            .or_else(|| stem.strip_prefix("lpt"))
            .is_some_and(|digit| matches!(digit.as_bytes(), [b'0'..=b'9'])),
    }
}

/// Chooses the runner's entry file: `given`, which must be a Python file of the source, or else the only one, or else
/// the first usual name at the root, or in `src`.
pub fn entry_point(files: &SourceFiles, given: Option<&str>) -> Result<String> {
    let candidates: Vec<&str> = files.python().collect();
    if let Some(given) = given.filter(|name| !name.trim().is_empty()) {
        let quoted = given.escape_debug();
        return match files.get(given) {
            Some(_) if given.ends_with(".py") => Ok(given.to_owned()),
            Some(_) => {
                let message = format!("\"{quoted}\" is not a Python file; {}", listing(&candidates));
                Err(Error::field("entry_point", message))
            }
            None => {
                let message = format!("\"{quoted}\" is not among the source_files; {}", listing(&candidates));
                Err(Error::field("entry_point", message))
            }
        };
    }
    if let [only] = candidates[..] {
        return Ok(only.to_owned());
    }
    let usual = ["", "src/"].into_iter().flat_map(|place| USUAL_ENTRY_POINTS.map(|name| format!("{place}{name}")));
    match usual.into_iter().find(|name| files.get(name).is_some()) {
        Some(usual) => Ok(usual),
        None => Err(Error::field("entry_point", format!("say which file to start; {}", listing(&candidates)))),
    }
}

fn listing(candidates: &[&str]) -> String {
    if candidates.is_empty() {
        return "there is no .py file: agents are written in Python, and a notebook has to be exported".to_owned();
    }
    let shown: Vec<String> = candidates.iter().take(MAX_LISTED).map(|name| name.escape_debug().to_string()).collect();
    let more = match candidates.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the .py files are: {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Code;

    fn files(names: &[&str]) -> SourceFiles {
        SourceFiles::parse(names.iter().map(|n| (n.to_string(), "x = 1\n".to_owned())).collect()).unwrap()
    }

    fn refused(name: &str) -> Error {
        let map = BTreeMap::from([("agent.py".to_owned(), String::new()), (name.to_owned(), String::new())]);
        SourceFiles::parse(map).expect_err(name)
    }

    #[test]
    fn hostile_names_are_refused_and_named() {
        let long = "a".repeat(256);
        let deep = "a/".repeat(600) + "b.py";
        for bad in [
            "../evil.py",
            "/etc/evil.py",
            "a/../../evil.py",
            "a\0.py",
            "",
            "con\\..\\x.py",
            "a//b.py/",
            "a//b.py",
            "./a.py",
            "a/./b.py",
            "a/",
            "..",
            ".",
            "a\n.py",
            "a\u{7f}.py",
            "a\u{85}.py",
            "NUL",
            "con.py",
            "x/Com1.txt",
            "lpt9",
            "aux .py",
            "C:\\x.py",
            &long,
            &deep,
        ] {
            let e = refused(bad);
            assert_eq!(e.code, Code::InvalidArgument, "{bad:?}");
            let field = format!("source_files[\"{}\"]", bad.escape_debug());
            assert_eq!(e.field.as_deref(), Some(field.as_str()));
            assert!(e.message.starts_with(&field), "{e}");
        }
    }

    #[test]
    fn ordinary_names_are_kept_as_they_are() {
        let names = [
            "agent.py",
            "a/b/c.py",
            ".env",
            "a..b/..c",
            "größe.py",
            "data/x y.json",
            "console.py",
            "com.py",
            "com10.py",
        ];
        assert_eq!(files(&names).len(), names.len());
    }

    #[test]
    fn a_file_is_no_directory() {
        let map = ["a", "a-b", "a/b.py"].map(|n| (n.to_owned(), String::new()));
        let e = SourceFiles::parse(map.into()).unwrap_err();
        assert_eq!(e.field.as_deref(), Some("source_files[\"a/b.py\"]"));
        files(&["a-b", "a/b.py", "a.py"]);
    }

    #[test]
    fn count_and_size_are_bounded() {
        let many = (0..=MAX_FILES).map(|i| (format!("f{i}.py"), String::new())).collect();
        assert_eq!(SourceFiles::parse(many).unwrap_err().field.as_deref(), Some("source_files"));
        let big = BTreeMap::from([("a.py".to_owned(), vec![0; MAX_BYTES])]);
        assert_eq!(SourceFiles::parse(big).unwrap_err().field.as_deref(), Some("source_files"));
    }

    #[test]
    fn the_digest_tells_names_and_contents_apart() {
        let of = |pairs: &[(&str, &str)]| {
            SourceFiles::parse(pairs.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect()).unwrap().digest()
        };
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
        assert_ne!(of(&[("a", "b1")]), of(&[("ab", "1")]));
        assert_ne!(of(&[("a", "1")]), of(&[("a", "2")]));
    }

    #[test]
    fn the_entry_point_is_given_alone_or_usual() {
        for (names, given, want) in [
            (&["x.py"][..], None, "x.py"),
            (&["pkg/only.py", "data.json"], None, "pkg/only.py"),
            (&["a.py", "agent.py", "main.py"], None, "agent.py"),
            (&["a.py", "app.py", "main.py"], None, "main.py"),
            (&["a.py", "app.py"], None, "app.py"),
            (&["src/app.py", "src/main.py", "src/tools.py"], None, "src/main.py"),
            (&["src/agent.py", "app.py"], None, "app.py"),
            (&["a.py", "b.py"], Some("b.py"), "b.py"),
            (&["x.py"], Some("  "), "x.py"),
        ] {
            assert_eq!(entry_point(&files(names), given).unwrap(), want);
        }
    }

    #[test]
    fn an_entry_point_that_cannot_be_decided_lists_the_candidates() {
        for (names, given, words) in [
            (&["agent.py"][..], Some("nope.py"), &["nope.py", "agent.py"][..]),
            (&["one.py", "two.py"], None, &["one.py", "two.py"]),
            (&["agent.py", "x.txt"], Some("x.txt"), &["x.txt", "not a Python file", "agent.py"]),
            (&["x.txt"], None, &["no .py file"]),
            (&["a/agent.py", "b.py"], None, &["a/agent.py", "b.py"]),
        ] {
            let e = entry_point(&files(names), given).unwrap_err();
            assert_eq!(e.field.as_deref(), Some("entry_point"));
            assert!(words.iter().all(|w| e.message.contains(w)), "{e}");
        }
    }
}
