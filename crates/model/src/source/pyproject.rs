//! `pyproject.toml` as a source of requirements: `[project]` of PEP 621 and nothing else. The project itself is not
//! built or installed, its files are the agent's source; so no build backend runs, and declarations that need one
//! (dynamic dependencies) are refused.

use super::{
    Requirements, RequiresPython,
    requirements::{OF_THE_OPERATOR, normalised},
};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Value;

/// The largest file in bytes.
const MAX_BYTES: usize = 256 << 10;

/// The parts of the file that are relevant to a build.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// `requires-python`.
    pub requires_python: Option<RequiresPython>,
    name: Option<String>,
    dependencies: Dependencies,
}

#[derive(Debug, Clone, PartialEq)]
enum Dependencies {
    /// The file does not declare them.
    Silent,
    Listed(Vec<String>),
    /// They are in a place that is not read: the place and the message.
    Elsewhere(&'static str, String),
}

#[derive(Deserialize)]
struct File {
    project: Option<Table>,
    tool: Option<Tools>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    name: Option<Value>,
    requires_python: Option<Value>,
    dependencies: Option<Value>,
    dynamic: Option<Value>,
}

/// Tables of other tools that set the sources of packages.
#[derive(Deserialize)]
pub(super) struct Tools {
    poetry: Option<Poetry>,
    uv: Option<UvTable>,
}

#[derive(Deserialize)]
struct Poetry {
    dependencies: Option<Value>,
}

#[derive(Deserialize)]
struct UvTable {
    sources: Option<BTreeMap<String, Value>>,
    index: Option<Value>,
}

impl Project {
    /// Parses the file; the error describes the problem.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("{} bytes are too many, {MAX_BYTES} is the limit", text.len()));
        }
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            format!("line {line}: is not TOML: {}", e.message().replace('\n', "; "))
        })?;
        let poetry = file.tool.as_ref().and_then(|tools| tools.poetry.as_ref());
        let Some(project) = file.project else {
            let dependencies = match poetry.and_then(|poetry| poetry.dependencies.as_ref()) {
                Some(_) => Dependencies::Elsewhere(
                    "tool.poetry.dependencies",
                    "only [project] dependencies are read: add them (`poetry` 2 reads them too) or give `requirements`"
                        .into(),
                ),
                None => Dependencies::Silent,
            };
            return Ok(Self { requires_python: None, name: None, dependencies });
        };
        let requires_python = requires_python("project.requires-python", project.requires_python)?;
        let name = project.name.as_ref().and_then(Value::as_str).map(normalised);
        let dynamic = strings("project.dynamic", project.dynamic)?.unwrap_or_default();
        let listed = strings("project.dependencies", project.dependencies)?;
        let dependencies = if dynamic.iter().any(|field| field == "dependencies") {
            let why = "\"dependencies\" is dynamic, which only the project's build backend could work out, and that is \
                       not run: list them in project.dependencies or give `requirements`";
            Dependencies::Elsewhere("project.dynamic", why.into())
        } else {
            listed.map_or(Dependencies::Silent, Dependencies::Listed)
        };
        let dependencies = match dependencies {
            Dependencies::Listed(listed) => match redirected(&listed, file.tool.as_ref()) {
                Some((place, why)) => Dependencies::Elsewhere(place, why),
                None => Dependencies::Listed(listed),
            },
            other => other,
        };
        Ok(Self { requires_python, name, dependencies })
    }

    /// Returns the requirements; `None` if the file declares none. An error names `field` and the place in it.
    pub fn requirements(&self, field: &str) -> Result<Option<Requirements>> {
        let listed = match &self.dependencies {
            Dependencies::Silent => return Ok(None),
            Dependencies::Elsewhere(place, why) => return Err(Error::field(format!("{field} ({place})"), why)),
            Dependencies::Listed(listed) => listed,
        };
        // The place is in parentheses as with requirements.txt; the index comes from the list.
        let requirements = Requirements::from_list("project.dependencies", listed.iter().map(String::as_str))
            .map_err(|e| placed(field, e))?;
        match requirements.iter().position(|requirement| Some(&requirement.name) == self.name.as_ref()) {
            Some(index) => {
                let why = "is the project itself, whose files are the source; a package of that name may be anybody's";
                Err(Error::field(format!("{field} (project.dependencies[{index}])"), why))
            }
            None => Ok(Some(requirements)),
        }
    }
}

fn placed(field: &str, error: Error) -> Error {
    let place = error.field.clone().unwrap_or_default();
    let why = error.message.strip_prefix(&place).map_or(error.message.as_str(), |rest| rest.trim_start_matches(": "));
    Error::field(format!("{field} ({place})"), why)
}

/// Parses a table's `requires-python`; an error names the place.
pub(super) fn requires_python(place: &str, value: Option<Value>) -> Result<Option<RequiresPython>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => RequiresPython::parse(&text).map(Some).ok_or_else(|| {
            let shown: String = text.chars().take(100).collect();
            format!("{place}: \"{}\" is not a list like \">=3.10,<4\"", shown.escape_debug())
        }),
        Some(_) => Err(format!("{place}: must be a string")),
    }
}

/// Parses a list of strings; an error names the place.
pub(super) fn strings(place: &str, value: Option<Value>) -> Result<Option<Vec<String>>, String> {
    let wrong = || format!("{place}: must be a list of strings");
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| if let Value::String(text) = item { Ok(text) } else { Err(wrong()) })
            .collect::<Result<_, _>>()
            .map(Some),
        Some(_) => Err(wrong()),
    }
}

/// Returns the uv table that takes a dependency from elsewhere than the operator's index, with a message.
pub(super) fn redirected(listed: &[String], tools: Option<&Tools>) -> Option<(&'static str, String)> {
    let uv = tools?.uv.as_ref()?;
    let named = |text: &String| {
        normalised(text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).next().unwrap_or_default())
    };
    let is_elsewhere =
        |name: &String| uv.sources.iter().flat_map(BTreeMap::keys).any(|source| normalised(source) == *name);
    if let Some(found) = listed.iter().map(named).find(is_elsewhere) {
        let why = format!("takes {found} from another place than the package index, which is not supported");
        return Some(("tool.uv.sources", why));
    }
    (uv.index.is_some() && !listed.is_empty()).then(|| ("tool.uv.index", OF_THE_OPERATOR.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(toml: &str) -> Option<String> {
        Project::parse(toml).unwrap().requirements("f").unwrap().map(|r| r.text().to_owned())
    }

    #[test]
    fn the_projects_dependencies_are_the_requirements() {
        let toml = "[build-system]\nrequires = ['hatchling']\nbuild-backend = 'hatchling.build'\n\
                    [project]\nname = 'My.Agent'\nversion = '1'\nrequires-python = '>=3.10'\n\
                    dependencies = ['Open_AI>=1', \"x; python_version < '3.12'\"]\n\
                    [project.optional-dependencies]\ndev = ['pytest']\n[tool.uv.sources]\nother = { path = '.' }\n";
        assert_eq!(text(toml).unwrap(), "open-ai>=1\nx ; python_version < \"3.12\"\n");
        assert!(Project::parse(toml).unwrap().requires_python.unwrap().admits((3, 11, 0)));
        assert_eq!(text("[project]\nname = 'x'\ndependencies = []").unwrap(), "");
        for silent in ["", "[tool.ruff]\nline-length = 120", "[project]\nname = 'x'", "[tool.poetry]\nname = 'x'"] {
            assert_eq!(text(silent), None, "{silent}");
        }
    }

    #[test]
    fn what_is_not_read_is_refused_and_said() {
        for (toml, words) in [
            ("x = ", "line 1: is not TOML"),
            ("[project]\ndependencies = 'x'", "project.dependencies: must be a list of strings"),
            ("[project]\ndependencies = [1]", "project.dependencies: must be a list of strings"),
            ("[project]\nrequires-python = '^3.10'", "project.requires-python: \"^3.10\""),
            ("[project]\nrequires-python = 3.10", "project.requires-python: must be a string"),
            ("[project]\ndynamic = ['version', 'dependencies']", "f (project.dynamic): \"dependencies\" is dynamic"),
            ("[tool.poetry.dependencies]\npython = '^3.10'", "f (tool.poetry.dependencies): only [project]"),
            ("[project]\ndependencies = ['six', '-e .']", "f (project.dependencies[1]): \"-e .\" is an option"),
            ("[project]\ndependencies = ['a @ file:///x']", "names an address"),
            ("[project]\nname = 'My_Agent'\ndependencies = ['my-agent[all]']", "is the project itself"),
            (
                "[project]\ndependencies = ['My.Lib[x]>=1']\n[tool.uv.sources]\nmy-lib = { git = 'https://x' }",
                "f (tool.uv.sources): takes my-lib from another place",
            ),
        ] {
            let told = match Project::parse(toml) {
                Err(fault) => fault,
                Ok(project) => project.requirements("f").expect_err(toml).message,
            };
            assert!(told.contains(words), "{toml}: {told}");
        }
    }
}
