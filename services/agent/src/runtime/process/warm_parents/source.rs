//! The text of an agent's source, which tells what its imports may depend on.

use std::fs;
use std::path::{Path, PathBuf};

/// The most source that is searched, in bytes, and the most files and directories.
const MAX_SOURCE: u64 = 4 << 20;
const MAX_ENTRIES: usize = 5_000;

/// The text of an agent's own Python files, and of those that variables are read from.
#[derive(Debug, Default)]
pub(in crate::runtime::process) struct Source {
    texts: Vec<String>,
    /// All its directories.
    pub directories: Vec<PathBuf>,
}

impl Source {
    /// None for a source that is too large to be searched at each start.
    pub fn read(app_dir: &Path) -> Option<Self> {
        let (mut source, mut left, mut entries) = (Self::default(), MAX_SOURCE, 0);
        let mut todo = vec![app_dir.to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).ok()?.filter_map(Result::ok) {
                entries += 1;
                let (Ok(kind), name) = (entry.file_type(), entry.file_name()) else { return None };
                let name = name.to_string_lossy();
                if kind.is_dir() {
                    todo.push(entry.path());
                } else if name.ends_with(".py") || name.contains(".env") {
                    let text = fs::read(entry.path()).ok()?;
                    left = left.checked_sub(u64::try_from(text.len()).ok()?)?;
                    source.texts.push(String::from_utf8_lossy(&text).into_owned());
                }
                if entries > MAX_ENTRIES {
                    return None;
                }
            }
            source.directories.push(dir);
        }
        Some(source)
    }

    /// Whether the text is anywhere.
    pub fn mentions(&self, part: &str) -> bool {
        self.texts.iter().any(|text| text.contains(part))
    }

    /// Whether it may put other modules in the place of those that are imported.
    pub fn replaces_modules(&self) -> bool {
        const MODULES: &str = "sys.modules";
        let replaces = |rest: &str| {
            rest.starts_with('[') && !rest.starts_with("[__name__]")
                || [".pop", ".update", ".setdefault"].iter().any(|method| rest.starts_with(method))
        };
        self.texts.iter().any(|text| text.match_indices(MODULES).any(|(at, _)| replaces(&text[at + MODULES.len()..])))
    }

    /// Whether a word begins so in quotes.
    pub fn has_word_with(&self, beginning: &str) -> bool {
        ["\"", "'"].iter().any(|quote| self.mentions(&format!("{quote}{beginning}")))
    }

    /// Whether a text may be about the variable, as a string or in an assignment.
    pub fn names(&self, variable: &str) -> bool {
        let forms = [format!("\"{variable}\""), format!("'{variable}'"), format!("{variable}=")];
        forms.iter().any(|form| self.mentions(form))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_large_source_is_not_searched() {
        let dir = tempfile::tempdir().unwrap();
        let largest = "#".repeat(usize::try_from(MAX_SOURCE).unwrap());
        fs::write(dir.path().join("agent.py"), &largest).unwrap();
        assert!(Source::read(dir.path()).is_some());
        fs::write(dir.path().join("other.py"), "#").unwrap();
        assert!(Source::read(dir.path()).is_none());
    }
}
