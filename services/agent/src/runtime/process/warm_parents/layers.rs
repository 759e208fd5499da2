//! What agents must have in common to be forked from one parent.

use super::source::Source;
use crate::runtime::Program;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Modules of the standard library that do something when they are imported, and parts of others that are programs.
const PROGRAMS: [&str; 6] = ["antigravity", "idlelib", "test", "tests", "this", "turtledemo"];

/// What agents must have in common to be forked from one parent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::runtime::process) struct Layers {
    pub interpreter: PathBuf,
    pub runner: PathBuf,
    pub site_dirs: Vec<PathBuf>,
    /// Where the packages in there come from, the first ones before the others.
    pub site_layers: Vec<PathBuf>,
    /// The packages in there that their source mentions: others are not to be imported by it.
    packages: BTreeSet<String>,
    /// The others.
    unmentioned: BTreeSet<String>,
}

impl Layers {
    /// Whether these have all the packages of others, by their names, and their source mentions what that of the others
    /// does.
    pub fn may_extend(&self, others: &Self) -> bool {
        self.interpreter == others.interpreter
            && self.runner == others.runner
            && self.packages.is_superset(&others.packages)
            && others.unmentioned.iter().all(|package| self.has(package))
    }

    /// Whether the packages have been removed.
    pub async fn are_gone(&self) -> bool {
        for dir in &self.site_dirs {
            if !tokio::fs::try_exists(dir).await.unwrap_or(true) {
                return true;
            }
        }
        false
    }

    /// Whether a file or directory of this package is among the packages.
    pub fn has(&self, package: &str) -> bool {
        self.packages.contains(package) || self.unmentioned.contains(package)
    }

    /// The number of packages, and of those that the source mentions.
    pub fn counts(&self) -> (usize, usize) {
        (self.packages.len() + self.unmentioned.len(), self.packages.len())
    }

    /// Whether a parent may import a module because an agent says that it has: that one must not decide for others what
    /// happens in their processes. Packages that their source does not mention come with those that import them.
    pub fn may_import(&self, module: &str) -> bool {
        let is_program = |part: &str| part.starts_with("__") || PROGRAMS.contains(&part);
        let package = module.split('.').next().unwrap_or(module);
        !module.split('.').any(is_program) && !self.unmentioned.contains(package)
    }

    /// Those of a program, and its source; none for an image that is run as it is, or with a source that is too large to
    /// be searched. Blocks.
    pub fn of(program: &Program) -> Option<(Self, Source)> {
        let Program::Unpacked { app_dir, site_dirs, site_layers, runner, interpreter } = program else { return None };
        let source = Source::read(app_dir)?;
        let entries = site_dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.map(|name| package(&name).to_owned());
        let (packages, unmentioned) = names.partition(|name| source.mentions(name));
        let (interpreter, runner) = (interpreter.clone(), runner.clone());
        let (site_dirs, site_layers) = (site_dirs.clone(), site_layers.clone());
        Some((Self { interpreter, runner, site_dirs, site_layers, packages, unmentioned }, source))
    }
}

#[cfg(test)]
impl Layers {
    /// Those of an agent whose source mentions these packages.
    pub fn example(site_layers: Vec<PathBuf>, packages: &[&str]) -> Self {
        let packages = packages.iter().map(|name| (*name).to_owned()).collect();
        let (interpreter, runner, site_dirs) = Default::default();
        Self { interpreter, runner, site_dirs, site_layers, packages, unmentioned: BTreeSet::new() }
    }
}

/// The part of a file's name that says what it belongs to: `six` of `six.py` and of `six-1.17.0.dist-info`.
pub fn package(file: &str) -> &str {
    file.split(['.', '-']).next().unwrap_or(file)
}
