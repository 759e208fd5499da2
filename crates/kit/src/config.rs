//! Layered configuration: defaults, then a TOML file, then `HOISTWAY_SERVICE_*` environment variables. Flags come last
//! and are the caller's. An unknown key is an error, because a misspelt setting is worse than none.
//!
//! A file may have a table for each service, such as `[gateway]`, so that one file serves all programs. A program with
//! one service reads its own table and the keys outside of tables ([`load`]). A program with several services has its
//! own settings outside, passes each service its table ([`load_part`]) and sets some of their settings itself.

use crate::env_check;

use figment::{
    Figment,
    error::Kind,
    providers::{Format, Serialized, Toml},
    value::{Dict, Value},
};
use hoistway_model::{Code, Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The tables of a shared file, one for each service.
pub const TABLES: [&str; 5] = ["agent", "build", "egress", "gateway", "tool-registry"];

/// The separator of the keys of nested tables in the name of a variable.
const NESTING: &str = "__";

/// Loads the configuration of `service` (such as `tool-registry`, whose variables begin with
/// `HOISTWAY_TOOL_REGISTRY_`). `T` carries `#[serde(deny_unknown_fields)]`; its `Default` is the first layer. Errors
/// are one line.
pub fn load<T>(service: &str, file: Option<&Path>) -> Result<T>
where
    T: DeserializeOwned + Serialize + Default,
{
    env_check::check([])?;
    load_with(service, file, env::vars_os())
}

fn load_with<T>(service: &str, file: Option<&Path>, vars: impl Iterator<Item = (OsString, OsString)>) -> Result<T>
where
    T: DeserializeOwned + Serialize + Default,
{
    let file = file.map(File::read).transpose()?;
    let content = file.as_ref().map(|file| file.of(service));
    let layer = file.iter().zip(&content).next().map(|(file, content)| (file.path.display().to_string(), content));
    layered(service, layer, &[], vars)
}

/// A configuration file shared by several services: settings of the program, and a table for each service.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    content: Dict,
}

impl File {
    /// Reads the file, which must exist.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
        let content = Figment::from(Toml::string(&text)).extract::<Dict>();
        let content = content.map_err(|e| explain("", Some(&path.display().to_string()), &[], &e))?;
        Ok(Self { path: path.to_owned(), content })
    }

    /// Returns the settings of a program with several services: everything but their tables.
    pub fn program<T>(&self) -> Result<T>
    where
        T: DeserializeOwned + Serialize + Default,
    {
        layered("", Some((self.path.display().to_string(), &self.outside())), &[], std::iter::empty())
    }

    /// Returns the settings of a program with one service: the keys outside of all tables, and its own table.
    fn of(&self, service: &str) -> Dict {
        let mut content = self.outside();
        if let Some(Value::Dict(_, table)) = self.content.get(service) {
            content.extend(table.clone());
        }
        content
    }

    fn outside(&self) -> Dict {
        let table = |key: &str, value: &Value| TABLES.contains(&key) && matches!(value, Value::Dict(..));
        self.content.iter().filter(|(key, value)| !table(key, value)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// Loads the configuration of `service` in a program with several: its table in `file`, then its variables. Keys that
/// the program sets itself are refused.
pub fn load_part<T>(service: &str, file: Option<&File>, decided: &[&str]) -> Result<T>
where
    T: DeserializeOwned + Serialize + Default,
{
    load_part_with(service, file, decided, env::vars_os())
}

fn load_part_with<T>(
    service: &str,
    file: Option<&File>,
    decided: &[&str],
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> Result<T>
where
    T: DeserializeOwned + Serialize + Default,
{
    let table = match file.and_then(|file| Some((file, file.content.get(service)?))) {
        None => None,
        Some((file, Value::Dict(_, table))) => Some((format!("{}: [{service}]", file.path.display()), table)),
        Some((file, _)) => return Err(wrong(format!("{}: {service}: a table is expected", file.path.display()))),
    };
    layered(service, table, decided, vars)
}

/// Merges the defaults, the layer of a file with the name of its origin, and the variables.
fn layered<T>(
    service: &str,
    file: Option<(String, &Dict)>,
    decided: &[&str],
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> Result<T>
where
    T: DeserializeOwned + Serialize + Default,
{
    let mut base = Figment::from(Serialized::defaults(T::default()));
    let mut variables = if service.is_empty() { Vec::new() } else { Variable::of(service, vars)? };
    let ours = |key: &str| decided.contains(&key);
    let refused = |place: String| wrong(format!("{place}: this program decides it itself"));
    if let Some(variable) = variables.iter().find(|v| v.path.first().is_some_and(|key| ours(key))) {
        return Err(refused(variable.name.clone()));
    }
    if let Some((place, content)) = &file {
        if let Some(key) = content.keys().find(|key| ours(key)) {
            return Err(refused(format!("{place} {key}")));
        }
        base = base.merge(Serialized::defaults(content));
    }
    let file = file.map(|(place, _)| place);
    loop {
        let mut layers = base.clone();
        for variable in &variables {
            layers = layers.merge(Serialized::defaults(variable.nested()));
        }
        let error = match layers.extract::<T>() {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        // A value that looks like a number or a boolean may be meant as text: it is retried as text before it is
        // refused.
        match variables.iter_mut().find(|v| v.path == error.path && v.parsed.is_some()) {
            Some(variable) if matches!(error.kind, Kind::InvalidType(..)) => variable.parsed = None,
            _ => return Err(explain(service, file.as_deref(), &variables, &error)),
        }
    }
}

/// Returns `$XDG_DATA_HOME/hoistway`, or `~/.local/share/hoistway`, where the home is `$HOME` or the one in the
/// system's user database. Empty when there is none; [`data_dir`] refuses that.
pub fn xdg_data_dir() -> PathBuf {
    default_data_dir(env::var_os("XDG_DATA_HOME").map(PathBuf::from), env::home_dir()).unwrap_or_default()
}

fn default_data_dir(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let data = xdg.filter(|dir| dir.is_absolute());
    let data = data.or_else(|| home.filter(|dir| dir.is_absolute()).map(|home| home.join(".local/share")));
    data.map(|dir| dir.join("hoistway"))
}

/// Returns the absolute path of the configured data directory, else of the default one. There is no fallback to the
/// working directory: data there is lost at the next start from another directory.
pub fn data_dir(chosen: Option<PathBuf>) -> Result<PathBuf> {
    let dir = chosen.unwrap_or_else(xdg_data_dir);
    if dir.as_os_str().is_empty() {
        let text = "there is no home directory to keep data in: name a directory with --data-dir (separate programs: \
                    the setting data_dir), or set HOME or XDG_DATA_HOME";
        return Err(wrong(text.to_owned()));
    }
    std::path::absolute(&dir).map_err(|e| Error::internal("finding the data directory", e))
}

/// One environment variable of a service.
struct Variable {
    name: String,
    path: Vec<String>,
    text: String,
    parsed: Option<Value>,
}

impl Variable {
    fn of(service: &str, vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<Self>> {
        let prefix = prefix(service);
        let mut found = Vec::new();
        for (name, value) in vars {
            let Some(name) = name.to_str().filter(|n| n.len() > prefix.len() && n.starts_with(&prefix)) else {
                continue;
            };
            let text = value.into_string().map_err(|_| wrong(format!("{name} is not valid UTF-8")))?;
            let path = name[prefix.len()..].to_ascii_lowercase().split(NESTING).map(str::to_owned).collect();
            let parsed = text.parse().ok();
            found.push(Self { name: name.to_owned(), path, text, parsed });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Returns the value inside the tables that the name denotes.
    fn nested(&self) -> Dict {
        let leaf = self.parsed.clone().unwrap_or_else(|| Value::from(self.text.clone()));
        let mut keys = self.path.iter().rev().cloned();
        let innermost = Dict::from([(keys.next().unwrap_or_default(), leaf)]);
        keys.fold(innermost, |inner, key| Dict::from([(key, Value::from(inner))]))
    }
}

fn prefix(service: &str) -> String {
    format!("HOISTWAY_{}_", service.to_ascii_uppercase().replace('-', "_"))
}

fn wrong(message: String) -> Error {
    Error::new(Code::InvalidArgument, message)
}

/// Makes an error of one line: the source, the key and the problem. Values are not shown, they may be secrets.
fn explain(service: &str, file: Option<&str>, variables: &[Variable], error: &figment::Error) -> Error {
    let mut path = error.path.clone();
    if let Kind::UnknownField(key, _) = &error.kind
        && path.last() != Some(key)
    {
        path.push(key.clone());
    }
    let place = match variables.iter().find(|v| v.path.starts_with(&path) && !path.is_empty()) {
        Some(variable) => variable.name.clone(),
        None => match file {
            Some(file) if path.is_empty() => file.to_owned(),
            Some(file) => format!("{file}: {}", path.join(".")),
            None => format!("configuration of {service}: {}", path.join(".")),
        },
    };
    let what = match &error.kind {
        Kind::UnknownField(key, known) => {
            let near = known.iter().filter_map(|known| Some((env_check::similar(key, known)?, known)));
            let meant = near.min_by_key(|(distance, _)| *distance);
            let hint = meant.map_or(String::new(), |(_, known)| format!(", did you mean {known}?"));
            format!("unknown key{hint}; known keys: {}", known.join(", "))
        }
        Kind::UnknownVariant(_, known) => format!("must be one of {}", known.join(", ")),
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("{expected} expected"),
        Kind::MissingField(key) => format!("key \"{key}\" is missing"),
        Kind::Message(text) => one_line(text),
        other => one_line(&other.to_string()),
    };
    wrong(format!("{place}: {what}"))
}

/// Shortens an error of the TOML parser, which quotes the line: its first line has the position, its last one the
/// problem.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => format!("{first}: {last}"),
        (first, _) => first.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        listen: String,
        key: Option<String>,
        builds: u32,
        limits: Limits,
        log: Format,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        memory_mb: u64,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Format {
        #[default]
        Human,
        Json,
    }

    impl Default for Config {
        fn default() -> Self {
            Self { listen: "127.0.0.1:1".into(), key: None, builds: 2, limits: Limits::default(), log: Format::Human }
        }
    }

    fn load(file: Option<&str>, vars: &[(&str, &str)]) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hoistway.toml");
        std::fs::write(&path, file.unwrap_or_default()).unwrap();
        let vars: Vec<_> = vars.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect();
        load_with("tool-registry", file.map(|_| path.as_path()), vars.into_iter()).map_err(|e| {
            let message = e.message.replace(&path.display().to_string(), "FILE");
            Error::new(e.code, message)
        })
    }

    #[test]
    fn later_layers_win() {
        let config = load(
            Some("listen = 'file'\nbuilds = 3\n[limits]\nmemory_mb = 1"),
            &[
                ("HOISTWAY_TOOL_REGISTRY_BUILDS", "4"),
                ("HOISTWAY_TOOL_REGISTRY_LIMITS__MEMORY_MB", "64"),
                ("HOISTWAY_TOOL_REGISTRY_LOG", "json"),
                ("HOISTWAY_BUILD_LISTEN", "somebody else's"),
                ("HOISTWAY_LOG", "debug"),
            ],
        )
        .unwrap();
        let expected = Config {
            listen: "file".into(),
            builds: 4,
            limits: Limits { memory_mb: 64 },
            log: Format::Json,
            ..Config::default()
        };
        assert_eq!(config, expected);
        assert_eq!(load(None, &[]).unwrap(), Config::default());
    }

    #[test]
    fn data_is_kept_in_a_home_or_where_it_is_said_and_nowhere_else() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (xdg, home, dir) in [
            (path("/x"), path("/h"), path("/x/hoistway")),
            (path("x"), path("/h"), path("/h/.local/share/hoistway")),
            (None, path("/h"), path("/h/.local/share/hoistway")),
            (None, path("h"), None),
            (path(""), None, None),
        ] {
            assert_eq!(default_data_dir(xdg, home), dir);
        }
        assert_eq!(data_dir(path("/d")).unwrap(), Path::new("/d"));
        let e = data_dir(path("")).unwrap_err();
        assert!(e.code == Code::InvalidArgument && e.message.contains("--data-dir"), "{e}");
    }

    #[test]
    fn text_that_looks_like_a_number_stays_text() {
        let vars = [("HOISTWAY_TOOL_REGISTRY_LISTEN", "8092"), ("HOISTWAY_TOOL_REGISTRY_KEY", "true")];
        let config = load(None, &vars).unwrap();
        assert_eq!((config.listen.as_str(), config.key.as_deref()), ("8092", Some("true")));
    }

    #[test]
    fn errors_are_one_line_that_names_the_key() {
        let known = "known keys: listen, key, builds, limits, log";
        for (file, vars, message) in [
            (Some("listn = ''"), &[][..], format!("FILE: listn: unknown key, did you mean listen?; {known}")),
            (Some("[limits]\ncpu = 1"), &[], "FILE: limits.cpu: unknown key; known keys: memory_mb".into()),
            (Some("builds = 'x'"), &[], "FILE: builds: u32 expected".into()),
            (
                None,
                &[("HOISTWAY_TOOL_REGISTRY_LISTN", "x")],
                format!("HOISTWAY_TOOL_REGISTRY_LISTN: unknown key, did you mean listen?; {known}"),
            ),
            (
                None,
                &[("HOISTWAY_TOOL_REGISTRY_LIMITS__CPU", "x")],
                "HOISTWAY_TOOL_REGISTRY_LIMITS__CPU: unknown key; known keys: memory_mb".into(),
            ),
            (None, &[("HOISTWAY_TOOL_REGISTRY_BUILDS", "many")], "HOISTWAY_TOOL_REGISTRY_BUILDS: u32 expected".into()),
            (
                None,
                &[("HOISTWAY_TOOL_REGISTRY_LOG", "xml")],
                "HOISTWAY_TOOL_REGISTRY_LOG: must be one of human, json".into(),
            ),
        ] {
            let e = load(file, vars).unwrap_err();
            assert_eq!((e.code, e.message), (Code::InvalidArgument, message));
        }
        let broken = load(Some("listen = \n"), &[]).unwrap_err().message;
        assert!(broken.starts_with("FILE: TOML parse error at line 1") && broken.lines().count() == 1, "{broken}");
    }

    #[test]
    fn several_services_share_a_file() {
        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Program {
            data_dir: Option<String>,
        }

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hoistway.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            File::read(&path)
        };
        let message = |e: Error| e.message.replace(&path.display().to_string(), "FILE");
        let part = |file: &File, decided: &[&str], vars: &[(&str, &str)]| {
            let vars: Vec<_> = vars.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect();
            load_part_with::<Config>("build", Some(file), decided, vars.into_iter()).map_err(message)
        };

        let file = read("data_dir = '/x'\n[build]\nbuilds = 3\n[build.limits]\nmemory_mb = 1\n[agent]\nx = 1").unwrap();
        assert_eq!(file.program::<Program>().unwrap().data_dir.as_deref(), Some("/x"));
        let config = part(&file, &["listen"], &[("HOISTWAY_BUILD_LIMITS__MEMORY_MB", "2")]).unwrap();
        assert_eq!((config.builds, config.limits.memory_mb), (3, 2));
        let none = load_part_with::<Config>("build", None, &[], std::iter::empty()).unwrap();
        assert_eq!(none, Config::default());

        let file = read("builds = 3\nkey = 'flat'\n[tool-registry]\nbuilds = 4\n[build]\nbuilds = 5").unwrap();
        let alone = load_with::<Config>("tool-registry", Some(&file.path), std::iter::empty()).unwrap();
        assert_eq!((alone.builds, alone.key.as_deref()), (4, Some("flat")));

        let ours = "this program decides it itself";
        let set = [("HOISTWAY_BUILD_LISTEN", "x")];
        assert_eq!(part(&file, &["listen"], &set).unwrap_err(), format!("HOISTWAY_BUILD_LISTEN: {ours}"));
        let file = read("data_dir = '/x'\n[build]\nbuilds = 3").unwrap();
        assert_eq!(part(&file, &["builds"], &[]).unwrap_err(), format!("FILE: [build] builds: {ours}"));
        let file = read("build = 1").unwrap();
        assert_eq!(part(&file, &[], &[]).unwrap_err(), "FILE: build: a table is expected");
        let file = read("datadir = 1").unwrap();
        let unknown = file.program::<Program>().map_err(message).unwrap_err();
        assert_eq!(unknown, "FILE: datadir: unknown key, did you mean data_dir?; known keys: data_dir");
        let file = read("[build]\nlistn = 1").unwrap();
        assert!(
            part(&file, &[], &[]).unwrap_err().starts_with("FILE: [build]: listn: unknown key, did you mean listen?")
        );
        let broken = read("[build").map_err(message).unwrap_err();
        assert!(broken.starts_with("FILE: TOML parse error at line 1"), "{broken}");
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let e = load_with::<Config>("build", Some(Path::new("/nonexistent/h.toml")), std::iter::empty()).unwrap_err();
        assert!(e.message.starts_with("/nonexistent/h.toml: "), "{e}");
    }
}
