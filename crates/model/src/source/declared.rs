//! The requirements that a source declares, in the first file that has any.

use super::{
    REQUIREMENTS_FILE, Requirements, RequiresPython, SourceFiles, encoding, field, pyproject::Project, script_header,
    unread_manifests,
};
use crate::{Error, Result};

/// The file whose `[project]` lists the packages to install when there are no other requirements.
const PROJECT_FILE: &str = "pyproject.toml";

/// The declarations of a source.
pub(crate) struct Declared {
    /// The packages to install; `None` if nothing declares them.
    pub requirements: Option<Requirements>,
    /// The Python that it requires.
    pub requires_python: Option<RequiresPython>,
}

impl Declared {
    /// Reads the requirements of the request (`given`), else those of [`REQUIREMENTS_FILE`], else of [`PROJECT_FILE`],
    /// else of the entry file's PEP 723 header. The Python requirement of the last two always applies, if they can be
    /// parsed. If neither file at the top lists anything, those beside the entry point apply: it is one of several
    /// programs.
    pub fn read(
        files: &SourceFiles,
        entry_point: &str,
        given: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let mut found = Self::of_directory(files, "", given, warnings)?;
        if found.requirements.is_none()
            && let Some(end) = entry_point.rfind('/')
        {
            let mut of_these = Vec::new();
            match Self::of_directory(files, &entry_point[..=end], None, &mut of_these) {
                Ok(beside) => {
                    warnings.append(&mut of_these);
                    found.requirements = beside.requirements;
                    found.requires_python = found.requires_python.or(beside.requires_python);
                }
                // The user has not chosen this file.
                Err(fault) => warnings.push(format!("{fault}; this file is not read, and the imports decide")),
            }
        }
        let header = script_header::read(files.get(entry_point).unwrap_or_default());
        if found.requirements.is_none() {
            found.requirements = match &header {
                Ok(header) => header.as_ref().and_then(|header| header.dependencies.clone()),
                Err(fault) => return Err(Error::field(format!("{} (script header)", field(entry_point)), fault)),
            };
        }
        if found.requirements.is_none() {
            warnings.extend(unread_manifests::warnings(files, entry_point));
        }
        let of_header = header.ok().flatten().and_then(|header| header.requires_python);
        found.requires_python = found.requires_python.or(of_header);
        Ok(found)
    }

    /// Reads the declarations of the request or of the files of one directory, which is empty or ends in a slash.
    fn of_directory(
        files: &SourceFiles,
        directory: &str,
        given: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let project_file = format!("{directory}{PROJECT_FILE}");
        let project = files.get(&project_file).map(|content| {
            std::str::from_utf8(content).map_err(|e| format!("is not UTF-8: {e}")).and_then(Project::parse)
        });
        let of_project = || match &project {
            Some(Ok(project)) => project.requirements(&field(&project_file)),
            Some(Err(fault)) => Err(Error::field(field(&project_file), fault)),
            None => Ok(None),
        };
        let requirements = match listed(files, &format!("{directory}{REQUIREMENTS_FILE}"), given, of_project, warnings)?
        {
            Some(listed) => Some(listed),
            None => of_project()?,
        };
        let requires_python = project.and_then(Result::ok).and_then(|project| project.requires_python);
        Ok(Self { requirements, requires_python })
    }
}

/// Reads the requirements of the request, or of a requirements file; an empty list counts as absent. If they name the
/// project itself, which is not installed, its dependencies replace it.
fn listed(
    files: &SourceFiles,
    file: &str,
    given: Option<&str>,
    of_project: impl Fn() -> Result<Option<Requirements>>,
    warnings: &mut Vec<String>,
) -> Result<Option<Requirements>> {
    let (place, name, text) = match (given, files.get(file)) {
        (Some(text), _) => ("requirements".to_owned(), "", text.into()),
        (None, Some(content)) => {
            let text = encoding::decode(content).map_err(|fault| Error::field(field(file), fault))?;
            (format!("{} (requirements)", field(file)), file, text)
        }
        (None, None) => return Ok(None),
    };
    let content = Requirements::read(&place, name, &text, files)?;
    warnings.extend(content.warnings);
    let mut requirements = content.requirements;
    if !name.is_empty() && !content.own_project && requirements.text().is_empty() {
        return Ok(None);
    }
    if content.own_project {
        match of_project() {
            Ok(Some(own)) => requirements.extend(own).map_err(|fault| Error::field(place, fault))?,
            // The project does not declare its dependencies, so the imports decide.
            Ok(None) if requirements.is_empty() => return Ok(None),
            Err(e) if requirements.is_empty() => return Err(e),
            // A list exported with the project, as by `uv export`, is complete.
            Ok(None) | Err(_) => {}
        }
    }
    Ok(Some(requirements))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::build::BuildSource;

    #[test]
    fn requirements_are_the_requests_then_the_files() {
        let parse = |files: &[(&str, &str)], requirements| {
            let files = [("agent.py", "")].iter().chain(files).map(|(n, t)| (n.to_string(), t.to_string()));
            let source = BuildSource::parse(files.collect(), None, requirements)?;
            Ok::<_, Error>((source.requirements.map(|r| r.text().to_owned()), source.requires_python.is_some()))
        };
        let project = (PROJECT_FILE, "[project]\nrequires-python = '>=3.10'\ndependencies = ['c']");
        let given = Some("a\n".to_owned());
        assert_eq!(parse(&[("requirements.txt", "b"), project], Some("a")).unwrap(), (given, true));
        assert_eq!(parse(&[("requirements.txt", "b"), project], None).unwrap(), (Some("b\n".to_owned()), true));
        assert_eq!(parse(&[project], None).unwrap(), (Some("c\n".to_owned()), true));
        assert_eq!(parse(&[(PROJECT_FILE, "[tool.x]")], None).unwrap(), (None, false));
        let broken = (PROJECT_FILE, "[project");
        let e = parse(&[broken], None).unwrap_err();
        assert_eq!(e.field.as_deref(), Some("source_files[\"pyproject.toml\"]"));
        assert_eq!(parse(&[broken], Some("a")).unwrap(), (Some("a\n".to_owned()), false));
        let hostile = (PROJECT_FILE, "[project]\ndependencies = ['--index-url https://x']");
        let e = parse(&[hostile], None).unwrap_err();
        assert!(e.message.starts_with("source_files[\"pyproject.toml\"] (project.dependencies[0]): "), "{e}");
    }

    fn parsed(files: &[(&str, &str)]) -> Result<(Option<String>, Vec<String>)> {
        let all = [("agent.py", "import six")].iter().chain(files).map(|(n, t)| (n.to_string(), t.to_string()));
        let mut warnings = Vec::new();
        let source = BuildSource::parse_with_warnings(all.collect(), Some("agent.py"), None, &mut warnings)?;
        Ok((source.requirements.map(|r| r.text().to_owned()), warnings))
    }

    #[test]
    fn a_header_counts_when_no_file_lists_requirements() {
        const HEADER: (&str, &str) =
            ("agent.py", "# /// script\n# requires-python = '>=3.10'\n# dependencies = ['c']\n# ///\n");
        let requirements = |files: &[(&str, &str)]| parsed(files).unwrap().0;
        assert_eq!(requirements(&[HEADER]).as_deref(), Some("c\n"));
        assert_eq!(requirements(&[HEADER, (PROJECT_FILE, "[tool.x]")]).as_deref(), Some("c\n"));
        assert_eq!(requirements(&[HEADER, (PROJECT_FILE, "[project]\ndependencies = ['p']")]).as_deref(), Some("p\n"));
        assert_eq!(requirements(&[HEADER, (REQUIREMENTS_FILE, "r")]).as_deref(), Some("r\n"));
        let broken = ("agent.py", "# /// script\n# dependencies = [\n# ///\n");
        let e = parsed(&[broken]).unwrap_err();
        assert_eq!(e.field.as_deref(), Some("source_files[\"agent.py\"] (script header)"));
        assert_eq!(parsed(&[broken, (REQUIREMENTS_FILE, "r")]).unwrap().0.as_deref(), Some("r\n"));
    }

    #[test]
    fn a_file_that_lists_nothing_is_as_if_absent() {
        let header = ("agent.py", "# /// script\n# dependencies = ['c']\n# ///\n");
        for empty in ["", "# later\n", "--only-binary :all:\n"] {
            assert_eq!(parsed(&[header, (REQUIREMENTS_FILE, empty)]).unwrap().0.as_deref(), Some("c\n"), "{empty:?}");
            assert_eq!(parsed(&[(REQUIREMENTS_FILE, empty)]).unwrap().0, None);
        }
        let bounds = parsed(&[(REQUIREMENTS_FILE, "-c c.txt"), ("c.txt", "six<2")]).unwrap().0;
        assert_eq!(bounds.as_deref(), Some("~ six<2\n"));
    }

    #[test]
    fn lists_beside_the_entry_point_count_where_none_is_at_the_top() {
        let of = |files: &[(&str, &str)]| {
            let entry = "services/bot/main.py";
            let all = [(entry, "import six")].into_iter().chain(files.iter().copied());
            let all = all.map(|(n, t)| (n.to_string(), t.to_string())).collect();
            let source = BuildSource::parse_with_warnings(all, Some(entry), None, &mut Vec::new()).unwrap();
            source.requirements.map(|r| r.text().to_owned())
        };
        let beside = ("services/bot/requirements.txt", "-r ../base.txt\nsix");
        let base = ("services/base.txt", "idna");
        assert_eq!(of(&[beside, base]).as_deref(), Some("idna\nsix\n"));
        assert_eq!(of(&[beside, base, (REQUIREMENTS_FILE, "attrs")]).as_deref(), Some("attrs\n"));
        let project = ("services/bot/pyproject.toml", "[project]\ndependencies = ['p']");
        assert_eq!(of(&[project]).as_deref(), Some("p\n"));
        assert_eq!(of(&[project, ("pyproject.toml", "[tool.ruff]")]).as_deref(), Some("p\n"));
        assert_eq!(of(&[project, ("pyproject.toml", "[project]\ndependencies = ['q']")]).as_deref(), Some("q\n"));
        assert_eq!(of(&[("services/other/requirements.txt", "six")]), None);
        assert_eq!(of(&[project, (REQUIREMENTS_FILE, "# none\n")]).as_deref(), Some("p\n"));
    }

    #[test]
    fn a_list_beside_the_entry_point_that_cannot_be_used_is_a_warning_and_the_top_decides_about_python() {
        let of = |files: &[(&str, &str)]| {
            let entry = "services/bot/main.py";
            let all = [(entry, "import six")].into_iter().chain(files.iter().copied());
            let mut warnings = Vec::new();
            let all = all.map(|(n, t)| (n.to_string(), t.to_string())).collect();
            let source = BuildSource::parse_with_warnings(all, Some(entry), None, &mut warnings).unwrap();
            (source.requirements.is_some(), source.requires_python.is_some(), warnings)
        };
        let (listed, _, warnings) =
            of(&[("services/bot/requirements.txt", "-i https://packages.example.com/simple\nsix")]);
        assert!(!listed && warnings[0].contains("services/bot/requirements.txt"), "{warnings:?}");
        let broken = ("services/bot/pyproject.toml", "[project");
        assert!(!of(&[broken]).0 && of(&[broken]).2[0].contains("services/bot/pyproject.toml"));
        let top = ("pyproject.toml", "[project]\nname = 'all'\nversion = '1'\nrequires-python = '>=3.99'");
        let (listed, python, _) = of(&[top, ("services/bot/pyproject.toml", "[project]\ndependencies = ['p']")]);
        assert!(listed && python);
    }

    #[test]
    fn a_header_behind_a_byte_order_mark_counts() {
        let marked = ("agent.py", "\u{feff}# /// script\n# dependencies = ['c']\n# ///\n");
        assert_eq!(parsed(&[marked]).unwrap().0.as_deref(), Some("c\n"));
    }

    #[test]
    fn the_project_itself_stands_for_what_it_depends_on() {
        let project = (PROJECT_FILE, "[project]\nname = 'shop'\ndependencies = ['p']");
        let of = |text, more: &[(&str, &str)]| {
            let files: Vec<_> = [(REQUIREMENTS_FILE, text)].iter().chain(more).copied().collect();
            let (requirements, warnings) = parsed(&files)?;
            assert_eq!(warnings.len(), 1 + usize::from(requirements.is_none() && files.len() > 1), "{warnings:?}");
            Ok::<_, Error>(requirements)
        };
        assert_eq!(of("-e .\nsix==1.16.0", &[project]).unwrap().as_deref(), Some("six==1.16.0\np\n"));
        assert_eq!(of("-e .", &[]).unwrap(), None);
        assert_eq!(of("-e .", &[("setup.py", "setup(install_requires=['x'])")]).unwrap(), None);
        let poetry = (PROJECT_FILE, "[tool.poetry.dependencies]\nx = '1'");
        assert_eq!(of("-e .\nsix", &[poetry]).unwrap().as_deref(), Some("six\n"));
        assert!(of("-e .", &[poetry]).is_err());
    }
}
