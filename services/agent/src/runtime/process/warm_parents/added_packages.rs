//! Whether an agent with more packages than a parent can be forked from it: only if all packages of the parent are among
//! its own, and would have been imported in the same way beside the others.

use super::Layers;
use super::layers::package;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Directories to which many packages add files: commands, which are not imported, and bytecode of modules, which come
/// with a file of their own.
const SHARED: [&str; 2] = ["bin", "__pycache__"];
/// The largest list of entry points that is read, in bytes.
const MAX_ENTRY_POINTS: u64 = 1 << 20;

/// What the packages of a parent looked for among the installed ones when they were imported.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Lookups {
    /// Whether they listed all that is installed.
    lists: bool,
    /// The names of files and directories.
    entries: BTreeSet<String>,
    /// The names of distributions that are not there.
    distributions: BTreeSet<String>,
}

impl Lookups {
    /// Why packages that imported `modules`, or did not find them, cannot come from a process with `own` layers where an
    /// agent has others. Blocks.
    pub fn differ(&self, modules: &BTreeSet<String>, own: &Layers, agents: &Layers) -> Option<String> {
        let Some(added) = added(&own.site_layers, &agents.site_layers) else {
            return Some("its packages come in other layers".to_owned());
        };
        if self.lists && !added.is_empty() {
            return Some("all packages are listed when they are imported".to_owned());
        }
        let entries = added.into_iter().map(|layer| entries(layer)).collect::<Result<Vec<_>>>();
        match entries {
            Ok(entries) => entries.iter().flatten().find_map(|path| self.matters(modules, own, path)),
            Err(error) => Some(format!("its packages cannot be compared: {error}")),
        }
    }

    /// Why packages may be imported differently beside this file or directory of another one.
    fn matters(&self, modules: &BTreeSet<String>, own: &Layers, path: &Path) -> Option<String> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Some("a file of its packages has no name in UTF-8".to_owned());
        };
        let module = package(name);
        if SHARED.contains(&name) {
            return None;
        }
        if name.ends_with(".pth") {
            return Some(format!("{name} is run before packages are imported"));
        }
        if own.has(module) {
            return Some(format!("several of its packages have files of {module}"));
        }
        if modules.contains(module) || self.entries.contains(module) || self.entries.contains(name) {
            return Some(format!("other packages look for {module} when they are imported"));
        }
        if !name.ends_with("-info") {
            return None;
        }
        let distribution = name.split('-').next().unwrap_or(name).replace(['_', '.'], "-").to_ascii_lowercase();
        if self.distributions.contains(&distribution) {
            return Some(format!("other packages look for {distribution} when they are imported"));
        }
        has_plugins(path).then(|| format!("{distribution} may have plugins for other packages"))
    }
}

/// The layers that are not among `own`; none if one of these is missing, or comes in another order.
fn added<'a>(own: &[PathBuf], agents: &'a [PathBuf]) -> Option<Vec<&'a PathBuf>> {
    let mut own = own.iter().peekable();
    let added = agents.iter().filter(|layer| own.next_if(|next| next == layer).is_none()).collect();
    own.peek().is_none().then_some(added)
}

fn entries(layer: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(layer)?.map(|entry| Ok(entry?.path())).collect()
}

/// Whether a distribution offers something that other packages find by its metadata, or what it offers cannot be read.
fn has_plugins(metadata: &Path) -> bool {
    let path = metadata.join("entry_points.txt");
    let text = match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return false,
        Ok(found) if found.len() > MAX_ENTRY_POINTS => Err(Error::from(ErrorKind::FileTooLarge)),
        Ok(_) => fs::read_to_string(&path),
        Err(error) => Err(error),
    };
    let is_for_others = |line: &str| line.starts_with('[') && !["[console_scripts]", "[gui_scripts]"].contains(&line);
    text.map_or(true, |text| text.lines().map(str::trim).any(is_for_others))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Why an agent with these files in a layer of their own cannot be forked.
    fn reason(more: &[(&str, &str)], lists: bool) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let [own, layer] = ["own", "more"].map(|name| dir.path().join(name));
        more.iter().for_each(|(path, text)| write(&layer.join(path), text));
        let lookups = Lookups { lists, entries: set(&["data", "gevent"]), distributions: set(&["fast-json"]) };
        let agents = Layers::example([layer, own.clone()].into(), &["bin", "web", "new"]);
        lookups.differ(&set(&["web", "socks"]), &Layers::example([own].into(), &["bin", "web"]), &agents)
    }

    #[test]
    fn packages_may_be_added_that_the_others_do_not_look_for() {
        let more = [
            ("new/__init__.py", ""),
            ("new-1.dist-info/METADATA", ""),
            ("new-1.dist-info/entry_points.txt", "[console_scripts]\nnew = new:main\n"),
            ("bin/new", ""),
            ("single.py", ""),
            ("__pycache__/single.cpython-311.pyc", ""),
        ];
        assert_eq!(reason(&more, false), None);
        assert!(reason(&more, true).unwrap().contains("all packages are listed"));
    }

    #[test]
    fn packages_may_not_be_added_that_change_how_others_are_imported() {
        let cases: [(&str, &str, &str); 8] = [
            ("web/more.py", "", "have files of web"),
            ("socks.py", "", "look for socks"),
            ("gevent/__init__.py", "", "look for gevent"),
            ("data", "", "look for data"),
            ("Fast.JSON-2.dist-info/METADATA", "", "look for fast-json"),
            ("patch.pth", "import os", "patch.pth is run"),
            ("new-1.dist-info/entry_points.txt", "[pydantic]\nnew = new:plugin\n", "new may have plugins"),
            ("new-1.dist-info/entry_points.txt/x", "", "new may have plugins"),
        ];
        for (path, text, expected) in cases {
            let reason = reason(&[(path, text)], false);
            assert!(reason.as_ref().is_some_and(|reason| reason.contains(expected)), "{expected}: {reason:?}");
        }
    }

    #[test]
    fn packages_may_not_be_others_or_in_another_order() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let agents = paths(&["a", "b", "c"]);
        assert_eq!(added(&paths(&["a", "c"]), &agents), Some(vec![&agents[1]]));
        assert_eq!(added(&[], &agents).map(|added| added.len()), Some(3));
        for own in [["c", "a"], ["a", "d"]] {
            assert_eq!(added(&paths(&own), &agents), None);
        }
    }

    #[test]
    fn packages_that_cannot_be_read_are_a_reason() {
        let gone = Layers::example(["/nowhere".into()].into(), &[]);
        let differ = Lookups::default().differ(&set(&[]), &Layers::example(Vec::new(), &[]), &gone);
        assert!(differ.unwrap().contains("cannot be compared"));
    }
}
