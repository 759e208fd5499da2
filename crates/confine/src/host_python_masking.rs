//! The machine's own Pythons and packages. A program that an agent starts by an absolute path (`#!/usr/bin/python3`)
//! must find the agent's packages and none of the machine's; in a root of its own, replacements are mounted over them.

use crate::{
    rootfs::HOME,
    spec::{Access, Exposed},
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The directories of programs on the default `PATH`.
const PROGRAMS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];
/// The directories below which each Python has its packages.
const LIBRARIES: [&str; 3] = ["/usr/lib", "/usr/local/lib", "/usr/lib64"];
const PACKAGES: [&str; 2] = ["dist-packages", "site-packages"];
/// The Python of the agent's child processes, in its `HOME`: the runner creates it (`environment.py`).
const OWN: &str = ".hoistway/python";

/// The Pythons and packages found on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherPythons {
    programs: BTreeSet<PathBuf>,
    packages: BTreeSet<PathBuf>,
}

impl OtherPythons {
    /// Finds programs other than the interpreter `python`, and packages. Blocks.
    pub fn look(python: &Path) -> Self {
        let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let own = identity(python);
        let named = |dir: &Path| {
            names(dir).into_iter().filter(|name| is_python(name)).map(|name| dir.join(name)).collect::<Vec<_>>()
        };
        let programs = PROGRAMS.iter().flat_map(|dir| named(Path::new(dir)));
        let programs = programs.filter_map(|path| path.canonicalize().ok());
        let is_shown = |path: &PathBuf| path.is_file() && PROGRAMS.iter().any(|dir| path.starts_with(dir));
        let programs = programs.filter(|path| is_shown(path) && identity(path) != own).collect();
        // The interpreter's own prefix contains its program: `PREFIX/bin/python3.11`.
        let prefix = python.canonicalize().ok().and_then(|real| Some(real.parent()?.parent()?.join("lib")));
        let libraries: Vec<PathBuf> = LIBRARIES.iter().map(PathBuf::from).chain(prefix).collect();
        let pythons = libraries.iter().flat_map(|library| named(library));
        let packages = pythons.flat_map(|python| PACKAGES.map(|name| python.join(name)));
        let packages = packages.filter(|path| path.is_dir() && path.canonicalize().is_ok_and(|real| real == *path));
        Self { programs, packages: packages.collect() }
    }

    /// Returns their replacements, which are written into a directory of this installation. Blocks.
    pub fn covers(&self, dir: &Path) -> io::Result<Vec<Exposed>> {
        let packages = dir.join("packages");
        fs::create_dir_all(&packages)?;
        let program = dir.join("python");
        let own = format!("{HOME}/{OWN}");
        fs::write(&program, format!("#!/bin/sh\nexec {own}/bin/python3 \"$@\"\n"))?;
        // The agent's interpreter may be one of the machine's, which then finds the agent's packages here.
        fs::write(packages.join("hoistway.pth"), hook(&own))?;
        // Independent of the umask: agents have users of their own.
        for (path, mode) in [(&program, 0o755), (&packages, 0o755), (&packages.join("hoistway.pth"), 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let cover = |host: &Path, inside: &PathBuf| Exposed {
            host: host.to_owned(),
            inside: inside.clone(),
            access: Access::Read,
        };
        let programs = self.programs.iter().map(|inside| cover(&program, inside));
        Ok(programs.chain(self.packages.iter().map(|inside| cover(&packages, inside))).collect())
    }
}

/// Returns a line of a `.pth` file that adds the packages of the environment at `own`. It runs within a function, whose
/// names are not visible to a comprehension before Python 3.12.
fn hook(own: &str) -> String {
    format!("import glob, site; list(map(site.addsitedir, glob.glob('{own}/lib/python*/site-packages')))\n")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Matches `python`, `python3`, `python3.11`.
fn is_python(name: &str) -> bool {
    name.strip_prefix("python").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn programs_are_recognised_by_their_names() {
        assert!(["python", "python3", "python3.11"].iter().all(|name| is_python(name)));
        assert!(["python3-config", "pythonw", "x-python", "python3.11-dbg"].iter().all(|name| !is_python(name)));
    }

    #[test]
    fn a_python_that_reads_the_hook_finds_the_packages_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let (own, covered) = (dir.path().join("own"), dir.path().join("covered"));
        let packages = own.join("lib/python3.9/site-packages");
        fs::create_dir_all(&packages).unwrap();
        fs::create_dir_all(&covered).unwrap();
        fs::write(packages.join("agents_package.py"), "").unwrap();
        fs::write(covered.join("hoistway.pth"), hook(own.to_str().unwrap())).unwrap();
        let code = "import site, sys; site.addsitedir(sys.argv[1]); import agents_package";
        let python = std::process::Command::new("python3").args(["-S", "-c", code]).arg(&covered).output().unwrap();
        assert!(python.status.success() && python.stderr.is_empty(), "{}", String::from_utf8_lossy(&python.stderr));
    }

    #[test]
    fn the_agents_own_interpreter_is_not_covered_and_packages_are() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, library) = (dir.path().join("bin"), dir.path().join("lib/python3.9/site-packages"));
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(&library).unwrap();
        fs::write(bin.join("python3.9"), "").unwrap();
        let found = OtherPythons::look(&bin.join("python3.9"));
        let library = library.canonicalize().unwrap();
        assert!(found.packages.contains(&library) && !found.programs.iter().any(|path| path.starts_with(&bin)));
        let covers = found.covers(&dir.path().join("covers")).unwrap();
        let cover = covers.iter().find(|cover| cover.inside == library).unwrap();
        assert!(cover.host.join("hoistway.pth").is_file());
    }
}
