//! What an installer left in a directory, taken apart into the packages that it belongs to and made the same for
//! everybody: without notes about the installation, with commands that find their packages wherever they are, and with
//! bytecode that needs no check when it is loaded.

use super::{Interpreter, process};
use hoistway_model::{Code, Error, Result, image::SITE_DIR};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Compiles packages.
const SCRIPT: &str = include_str!("site.py");
/// What an installer writes about the installation.
const NOTES: [&str; 4] = ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"];
/// Where an installer puts commands.
const BIN: &str = "bin/";

/// The files of one package in a directory that it may share with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The normalised name of its distribution.
    pub name: String,
    /// The directory.
    pub root: PathBuf,
    /// Paths below it, sorted.
    pub files: Vec<String>,
    /// Bytes of them.
    pub size: u64,
}

/// What is in a directory.
#[derive(Debug, Default)]
pub struct Inventory {
    /// By name.
    pub packages: BTreeMap<String, Installed>,
    /// Packages that say of the same file that it has different content, and the file. What lies there is one's alone, so
    /// each of them has to be installed by itself.
    pub clashes: Vec<(String, String, String)>,
}

/// Takes stock of a directory that [`super::Uv::install`] filled, and normalises it. Blocks.
pub fn take_stock(root: &Path) -> Result<Inventory> {
    let failed = |e: io::Error| Error::internal("taking stock of installed packages", e);
    let mut inventory = Inventory::default();
    let mut owners: HashMap<String, (String, String)> = HashMap::new();
    let mut found: Vec<_> = fs::read_dir(root)
        .map_err(failed)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".dist-info"))
        .collect();
    found.sort_unstable();
    for dist_info in found {
        let stem = dist_info.trim_end_matches(".dist-info");
        let name = normalised(stem.rsplit_once('-').map_or(stem, |(name, _)| name));
        let record = match fs::read_to_string(root.join(&dist_info).join("RECORD")) {
            Ok(text) => text,
            Err(e) => {
                let text = format!("the package {name} has no list of its files that can be read");
                return Err(Error::new(Code::RequirementFailed, text).with_source(e));
            }
        };
        let mut package = Installed { name: name.clone(), root: root.to_owned(), files: Vec::new(), size: 0 };
        let mut kept = Vec::new();
        for line in record.lines() {
            let Some((path, content)) = record_line(line).filter(|(path, _)| is_kept(&dist_info, path)) else {
                continue;
            };
            if let Some((other, other_content)) = owners.get(&path)
                && *other_content != content
            {
                inventory.clashes.push((other.clone(), name.clone(), path.clone()));
            }
            owners.insert(path.clone(), (name.clone(), content));
            if !path.starts_with(BIN) {
                kept.push(line);
            }
            package.files.push(path);
        }
        kept.sort_unstable();
        fs::write(root.join(&dist_info).join("RECORD"), kept.join("\n") + "\n").map_err(failed)?;
        let commands = commands(&root.join(&dist_info)).map_err(failed)?;
        package.files.retain(|path| path.strip_prefix(BIN).is_none_or(|name| command(root, name, &commands)));
        package.files.sort_unstable();
        package.files.dedup();
        for path in &package.files {
            let meta = fs::symlink_metadata(root.join(path)).map_err(|e| {
                let text = format!("the package {name} lacks its file {}", path.escape_debug());
                Error::new(Code::RequirementFailed, text).with_source(e)
            })?;
            package.size += meta.len();
        }
        inventory.packages.insert(name, package);
    }
    Ok(inventory)
}

/// A distribution's name as PEP 503 has it; extras are none of it.
pub fn normalised(name: &str) -> String {
    let name = name.split('[').next().unwrap_or(name).trim();
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

/// Path and the rest of a line of RECORD; quotes are there when the path has a comma or a quote in it.
fn record_line(line: &str) -> Option<(String, String)> {
    let (path, rest) = match line.strip_prefix('"') {
        None => line.split_once(',').map(|(path, rest)| (path.to_owned(), rest))?,
        Some(quoted) => {
            let end = quoted.replace("\"\"", "\0\0").find('"')?;
            (quoted[..end].replace("\"\"", "\""), quoted.get(end + 2..)?)
        }
    };
    (!path.is_empty()).then(|| (path, rest.to_owned()))
}

/// Whether a recorded file goes into the image: not notes, nor bytecode that others compiled, nor what lies outside.
fn is_kept(dist_info: &str, path: &str) -> bool {
    let inside = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let note = path.strip_prefix(dist_info).and_then(|rest| rest.strip_prefix('/'));
    inside && !note.is_some_and(|note| NOTES.contains(&note)) && !path.split('/').any(|part| part == "__pycache__")
}

/// The package's own commands, `name` to `module:attribute`.
fn commands(dist_info: &Path) -> io::Result<BTreeMap<String, String>> {
    let text = match fs::read_to_string(dist_info.join("entry_points.txt")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text?,
    };
    let mut section = "";
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[console_scripts]"
            && let Some((name, target)) = line.split_once('=')
        {
            let target = target.split('[').next().unwrap_or_default();
            found.insert(name.trim().to_owned(), target.trim().to_owned());
        }
    }
    Ok(found)
}

/// Makes a command independent of this machine; false if that cannot be done. An installer writes the interpreter's
/// path into what it generates, and into scripts of the package's own.
fn command(root: &Path, name: &str, commands: &BTreeMap<String, String>) -> bool {
    let path = root.join(BIN).join(name);
    let Some(target) = commands.get(name) else {
        // A program, or a script for another interpreter than Python.
        return fs::read(&path).is_ok_and(|bytes| {
            let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
            !(first.starts_with(b"#!") && first.windows(6).any(|word| word == b"python"))
        });
    };
    let names = |text: &str| {
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        };
        text.split('.').all(word)
    };
    let Some((module, attribute)) = target.split_once(':') else { return false };
    let (module, attribute) = (module.trim(), attribute.trim());
    if !names(module) || !names(attribute) {
        return false;
    }
    let first = attribute.split('.').next().unwrap_or_default();
    let script = format!(
        "#!/usr/bin/env python3\nimport os, site, sys\n\
         sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))\n\
         site.addsitedir(sys.path[0])\n\
         from {module} import {first}\nsys.exit({attribute}())\n"
    );
    fs::write(&path, script).is_ok()
}

/// One package for the script.
#[derive(Debug, Serialize)]
struct Sources<'a> {
    root: &'a Path,
    files: Vec<&'a str>,
    out: &'a Path,
}

/// Compiles packages, each into a directory of its own. `limit` is for all of them.
pub async fn compile(packages: &[(&Installed, PathBuf)], interpreter: &Interpreter, limit: Duration) -> Result<()> {
    let sources = |package: &'_ Installed| -> Vec<String> {
        package.files.iter().filter(|f| f.ends_with(".py") && !f.starts_with(BIN)).cloned().collect()
    };
    let listed: Vec<Vec<String>> = packages.iter().map(|(package, _)| sources(package)).collect();
    let todo: Vec<Sources<'_>> = packages
        .iter()
        .zip(&listed)
        .filter(|(_, files)| !files.is_empty())
        .map(|((package, out), files)| Sources {
            root: &package.root,
            files: files.iter().map(String::as_str).collect(),
            out,
        })
        .collect();
    if todo.is_empty() {
        return Ok(());
    }
    let input = serde_json::to_vec(&todo).map_err(|e| Error::internal("compiling installed packages", e))?;
    let processes = thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
    // No -I: it would ignore the hash seed. Nothing else is inherited, and -P's work is done by -S and the cleared
    // environment: the script imports only built-in and standard modules.
    let mut command = process::command(&interpreter.executable, [("PYTHONHASHSEED", "0")]);
    command.args(["-s", "-S", "-B", "-c", SCRIPT, SITE_DIR]).arg(processes.to_string()).current_dir("/");
    match process::run(command, Some(&input), limit, &|_| ()).await {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => {
            let message = format!("the installed packages cannot be compiled: Python ended with {}", done.status);
            Err(Error::new(Code::BuildFailed, message).with_details(done.stderr.into_iter().rev().take(20).rev()))
        }
        Err(process::Failure::Io(e)) => Err(Error::internal("compiling installed packages", e)),
        Err(e) => Err(Error::new(Code::BuildFailed, format!("the installed packages cannot be compiled: {e}"))),
    }
}

/// The names of the packages that clash with others.
pub fn clashing(inventory: &Inventory) -> BTreeSet<String> {
    inventory.clashes.iter().flat_map(|(one, other, _)| [one.clone(), other.clone()]).collect()
}

#[cfg(test)]
mod tests;
