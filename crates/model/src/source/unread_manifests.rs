//! Warnings about lists of packages that are not read: if a source has no other list, the user gets a warning with a
//! remedy.

use super::{REQUIREMENTS_FILE, SourceFiles};

/// Files of other tools, each with the text that marks a list, and the command that converts it to
/// [`REQUIREMENTS_FILE`]; empty: by hand.
const OF_TOOLS: [(&str, &str, &str); 11] = [
    ("Pipfile", "packages", ""),
    ("Pipfile.lock", "\"default\"", "pipenv requirements > requirements.txt"),
    ("uv.lock", "[[package]]", "uv export --no-dev --output-file requirements.txt"),
    ("poetry.lock", "[[package]]", "poetry export --output requirements.txt"),
    ("pdm.lock", "[[package]]", "pdm export --prod --output requirements.txt"),
    ("setup.py", "install_requires", ""),
    ("setup.cfg", "install_requires", ""),
    ("environment.yml", "dependencies", ""),
    ("environment.yaml", "dependencies", ""),
    ("conda.yml", "dependencies", ""),
    ("conda.yaml", "dependencies", ""),
];
/// The most files that a warning names before it gives the number of the others.
const MAX_NAMED: usize = 5;

/// Returns one warning for each file of another tool, and one for all pip lists under other names.
pub(super) fn warnings(files: &SourceFiles, entry_point: &str) -> Vec<String> {
    let list = format!("list them in {REQUIREMENTS_FILE}");
    let warning = |names: &str, are: &str, remedy: &str| {
        format!("{names} {are} not read for requirements, the imports decide: {remedy}")
    };
    let mut all = Vec::new();
    let beside = entry_point.rsplit_once('/').map(|(directory, _)| format!("{directory}/"));
    for (name, word, command) in OF_TOOLS {
        for name in ["", beside.as_deref().unwrap_or_default()].map(|place| format!("{place}{name}")) {
            if files.get(&name).is_some_and(|content| contains(content, word)) {
                let by = if command.is_empty() { String::new() } else { format!(" (`{command}`)") };
                all.push(warning(&name, "is", &format!("{list}{by}")));
            }
        }
    }
    all.dedup();
    let locks: Vec<&str> = files
        .iter()
        .filter(|(name, text)| is_pylock(name) && contains(text, "[[packages]]"))
        .map(|(name, _)| name)
        .collect();
    if !locks.is_empty() {
        all.push(warning(&named(&locks), are(&locks), &list));
    }
    let listing = |word: &str| {
        let found = files.iter().filter(|(name, text)| is_list(name, entry_point, word) && has_lines(text));
        found.map(|(name, _)| name).collect::<Vec<_>>()
    };
    let lists = listing("requirements");
    if let [first, ..] = lists[..] {
        let remedy = format!("give the list in {REQUIREMENTS_FILE}, which may include another with `-r {first}`");
        all.push(warning(&named(&lists), are(&lists), &remedy));
    }
    let bounds = listing("constraints");
    if let [first, ..] = bounds[..] {
        let remedy = format!("{list}, which may include bounds with `-c {first}`");
        all.push(warning(&named(&bounds), are(&bounds), &remedy));
    }
    all
}

/// Whether a name is `pylock.toml` or `pylock.NAME.toml` of PEP 751.
fn is_pylock(name: &str) -> bool {
    name.strip_prefix("pylock.").is_some_and(|rest| rest == "toml" || rest.ends_with(".toml") && !rest.contains('/'))
}

/// Whether a file's name is that of a pip list, of requirements or of constraints: `requirements.in`,
/// `requirements-prod.txt`, `requirements/base.txt`, at the top or beside the entry point.
fn is_list(name: &str, entry_point: &str, word: &str) -> bool {
    if name == REQUIREMENTS_FILE {
        return false;
    }
    let beside =
        entry_point.rsplit_once('/').and_then(|(directory, _)| name.strip_prefix(directory)?.strip_prefix('/'));
    let name = beside.unwrap_or(name);
    let Some(stem) = name.strip_suffix(".txt").or_else(|| name.strip_suffix(".in")) else { return false };
    match stem.split_once('/') {
        Some((directory, _)) => word == "requirements" && directory == word,
        None => stem.starts_with(word),
    }
}

/// Whether a text has more than comments.
fn has_lines(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).any(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn contains(content: &[u8], word: &str) -> bool {
    content.windows(word.len()).any(|window| window == word.as_bytes())
}

fn are(names: &[&str]) -> &'static str {
    if names.len() == 1 { "is" } else { "are" }
}

fn named(names: &[&str]) -> String {
    let shown = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::build::BuildSource;

    fn warned_at(entry: &str, files: &[(&str, &str)]) -> Vec<String> {
        let all = [(entry, "import six")]
            .into_iter()
            .chain(files.iter().copied())
            .map(|(n, t)| (n.to_string(), t.to_string()));
        let mut warnings = Vec::new();
        BuildSource::parse_with_warnings(all.collect(), Some(entry), None, &mut warnings).unwrap();
        warnings
    }

    fn warned(files: &[(&str, &str)]) -> Vec<String> {
        warned_at("agent.py", files)
    }

    #[test]
    fn files_of_other_tools_are_named_when_nothing_else_says_what_to_install() {
        assert_eq!(warned(&[("Pipfile", "[packages]"), ("environment.yml", "dependencies:\n- six")]).len(), 2);
        assert_eq!(warned(&[("setup.py", "setup()")]).len(), 0);
        assert_eq!(warned(&[("Pipfile", "[packages]"), ("requirements.txt", "six")]).len(), 0);
        let text = warned(&[("setup.py", "install_requires=[]")]).concat();
        assert_eq!(text, "setup.py is not read for requirements, the imports decide: list them in requirements.txt");
        for (name, text, command) in [
            ("uv.lock", "version = 1\n[[package]]\nname = 'six'", "`uv export --no-dev"),
            ("poetry.lock", "[[package]]\nname = 'six'", "`poetry export"),
            ("pylock.toml", "[[packages]]\nname = 'six'", "requirements.txt"),
            ("pylock.prod.toml", "[[packages]]\nname = 'six'", "requirements.txt"),
        ] {
            let warnings = warned(&[(name, text)]);
            assert!(warnings[0].starts_with(&format!("{name} is not read for requirements")), "{warnings:?}");
            assert!(warnings.len() == 1 && warnings[0].contains(command), "{warnings:?}");
            let project = ("pyproject.toml", "[project]\ndependencies = ['six']");
            assert_eq!(warned(&[(name, text), project]), [] as [&str; 0]);
        }
        assert_eq!(warned(&[("uv.lock", "version = 1\n")]).len(), 0);
    }

    #[test]
    fn lists_of_pip_under_other_names_are_named_together() {
        for name in ["requirements.in", "requirements-prod.txt", "requirements/base.txt", "requirements/a/b.in"] {
            let text = warned(&[(name, "six")]).concat();
            assert!(
                text.starts_with(&format!("{name} is not read")) && text.contains(&format!("`-r {name}`")),
                "{text}"
            );
        }
        let text = warned(&[("constraints.txt", "six<2")]).concat();
        assert!(text.starts_with("constraints.txt is not read") && text.contains("`-c constraints.txt`"), "{text}");
        let many: Vec<_> = (0..9).map(|n| format!("requirements/{n}.txt")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "six")).collect();
        let text = warned(&many).concat();
        assert!(text.contains("requirements/4.txt and 4 more are not read"), "{text}");
        for name in ["notes.txt", "docs/requirements.txt", "requirements/README.md", "vendor/requirements/x.txt"] {
            assert_eq!(warned(&[(name, "six")]).len(), 0, "{name}");
        }
        assert_eq!(warned(&[("requirements.in", "# nothing\n\n")]).len(), 0);
        for beside in [("app/requirements.in", "six"), ("app/Pipfile", "[packages]")] {
            assert!(warned_at("app/agent.py", &[beside]).concat().starts_with(beside.0));
            assert_eq!(warned_at("app/agent.py", &[beside, ("app/requirements.txt", "six")]).len(), 0);
        }
    }
}
