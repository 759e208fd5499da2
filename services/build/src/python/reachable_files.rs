//! Which files of a source a file reaches. Only these are judged: whatever else lies beside them need not even be
//! Python.

use hoistway_model::source::SourceFiles;
use std::collections::{HashMap, HashSet};

/// The depth to which modules are followed; nobody's packages are nested deeper, and names may be made to take very
/// long.
const MAX_DEPTH: usize = 64;
/// In how many directories a vendored module is looked for.
const MAX_PLACES: usize = 16;

/// The files of a source, and the directories from which Python imports.
pub struct ReachableFiles<'a> {
    files: &'a SourceFiles,
    entry: &'a str,
    /// Each empty or ending with a slash.
    roots: Vec<&'a str>,
    /// Every directory with its slash.
    directories: HashSet<&'a str>,
    /// The directories, with their slashes, that have a module of a name; the source's root is none of them.
    below: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> ReachableFiles<'a> {
    /// Those of an entry file.
    pub fn new(files: &'a SourceFiles, entry: &'a str) -> Self {
        let directories = files.iter().flat_map(|(name, _)| directories(name)).collect();
        let mut below: HashMap<&str, Vec<&str>> = HashMap::new();
        for (name, _) in files.iter() {
            let Some(module) = name.strip_suffix("/__init__.py").or_else(|| name.strip_suffix(".py")) else { continue };
            let Some(end) = module.rfind('/') else { continue };
            let places = below.entry(&module[end + 1..]).or_default();
            if places.len() < MAX_PLACES {
                places.push(&module[..=end]);
            }
        }
        Self { files, entry, roots: roots(entry), directories, below }
    }

    /// The entry file, and the packages that it is in.
    pub fn entry(&self) -> Vec<String> {
        let packages = self.entry.match_indices('/').map(|(at, _)| format!("{}__init__.py", &self.entry[..=at]));
        packages.filter(|init| self.has(init)).chain([self.entry.to_owned()]).collect()
    }

    /// The files that an import in `file` runs: the module, and the packages that it is in.
    pub fn imported(&self, file: &str, module: &str) -> Vec<String> {
        let name = module.trim_start_matches('.');
        let level = module.len() - name.len();
        if level == 0 {
            return self.roots.iter().flat_map(|root| self.found_below(root, name)).collect();
        }
        let mut base = directory(file);
        for _ in 1..level {
            base = directory(base.trim_end_matches('/'));
        }
        let package = format!("{base}__init__.py");
        let itself = Some(package).filter(|init| self.has(init));
        itself.into_iter().chain(self.found_below(base, name)).collect()
    }

    /// The files that a module may be where the program adds a directory to `sys.path` itself: vendored packages,
    /// generated code. Of every directory that has one of the name, up to [`MAX_PLACES`].
    pub fn elsewhere(&self, module: &str) -> Vec<String> {
        let top = module.split('.').next().unwrap_or_default();
        self.below.get(top).into_iter().flatten().flat_map(|place| self.found_below(place, module)).collect()
    }

    /// The files that a text in `file` may name: a path, or a module after `-m `.
    pub fn mentioned(&self, file: &str, text: &str) -> Vec<String> {
        if let Some(module) = text.strip_prefix("-m ") {
            let main = format!("{}/__main__.py", module.replace('.', "/"));
            let mains = self.roots.iter().map(|root| format!("{root}{main}")).filter(|path| self.has(path));
            return self.imported(file, module).into_iter().chain(mains).collect();
        }
        let path = text.trim_start_matches("./").trim_start_matches("/app/");
        let places = [directory(file), directory(self.entry), ""].map(|base| format!("{base}{path}"));
        places.into_iter().filter(|place| self.has(place)).collect()
    }

    /// The files of `a.b.c` below a directory: `a/__init__.py`, `a/b.py` and so on.
    fn found_below(&self, base: &str, module: &str) -> Vec<String> {
        let (mut found, mut path) = (Vec::new(), base.to_owned());
        for part in module.split('.').filter(|part| !part.is_empty()).take(MAX_DEPTH) {
            path.push_str(part);
            let (package, file) = (format!("{path}/__init__.py"), format!("{path}.py"));
            if self.has(&package) {
                found.push(package);
            } else if self.has(&file) {
                found.push(file);
                break;
            }
            path.push('/');
            if !self.directories.contains(path.as_str()) {
                break;
            }
        }
        found
    }

    fn has(&self, file: &str) -> bool {
        self.files.get(file).is_some()
    }
}

/// The directories from which modules are imported, each empty or with its slash: as the runner has it, the source's
/// root, what is beside the entry file, the root's `src`, and every `src` that the entry file lies in.
pub fn roots(entry: &str) -> Vec<&str> {
    let inner = directories(entry).filter(|directory| directory.ends_with("/src/"));
    let mut roots: Vec<&str> = ["", directory(entry), "src/"].into_iter().chain(inner).collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// Every directory that a file is in, with its slash.
fn directories(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(move |(at, _)| &name[..=at])
}

/// The directory of a file, empty or with its slash.
fn directory(file: &str) -> &str {
    file.rfind('/').map_or("", |at| &file[..=at])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn source(names: &[&str]) -> SourceFiles {
        SourceFiles::parse(names.iter().map(|n| (n.to_string(), String::new())).collect()).unwrap()
    }

    #[test]
    fn imports_reach_modules_and_the_packages_around_them() {
        let files = source(&[
            "agent.py",
            "lib/__init__.py",
            "lib/deep/__init__.py",
            "lib/deep/x.py",
            "lib/y.py",
            "plain/z.py",
            "src/shop/__init__.py",
            "src/shop/prices.py",
        ]);
        let reachable = ReachableFiles::new(&files, "agent.py");
        for (file, module, want) in [
            ("agent.py", "lib", vec!["lib/__init__.py"]),
            ("agent.py", "lib.deep.x.f", vec!["lib/__init__.py", "lib/deep/__init__.py", "lib/deep/x.py"]),
            ("agent.py", "lib.y.f", vec!["lib/__init__.py", "lib/y.py"]),
            ("agent.py", "plain.z", vec!["plain/z.py"]),
            ("agent.py", "shop.prices", vec!["src/shop/__init__.py", "src/shop/prices.py"]),
            ("agent.py", "os.path", vec![]),
            ("lib/deep/x.py", ".", vec!["lib/deep/__init__.py"]),
            ("lib/deep/x.py", "..y", vec!["lib/__init__.py", "lib/y.py"]),
            ("agent.py", ".plain.z", vec!["plain/z.py"]),
            ("agent.py", "......x", vec![]),
        ] {
            assert_eq!(reachable.imported(file, module), want, "{file}: {module}");
        }
    }

    #[test]
    fn modules_of_directories_that_a_program_adds_itself_are_found() {
        let names = ["agent.py", "vendor/mylib/__init__.py", "vendor/mylib/deep.py", "lib/other.py"];
        let files = source(&names);
        let reachable = ReachableFiles::new(&files, "agent.py");
        assert_eq!(reachable.elsewhere("mylib.deep.f"), ["vendor/mylib/__init__.py", "vendor/mylib/deep.py"]);
        assert_eq!(reachable.elsewhere("other"), ["lib/other.py"]);
        assert!(reachable.elsewhere("lib").is_empty() && reachable.elsewhere(".other").is_empty());
    }

    #[test]
    fn an_entry_below_directories_reaches_what_is_beside_it_and_its_packages() {
        let files = source(&["bot/__init__.py", "bot/main.py", "bot/words.py", "lib.py", "bot/tools/__main__.py"]);
        let reachable = ReachableFiles::new(&files, "bot/main.py");
        assert_eq!(reachable.entry(), ["bot/__init__.py", "bot/main.py"]);
        assert_eq!(reachable.imported("bot/main.py", "words"), ["bot/words.py"]);
        assert_eq!(reachable.imported("bot/main.py", "lib"), ["lib.py"]);
        assert_eq!(reachable.mentioned("bot/main.py", "words.py"), ["bot/words.py", "bot/words.py"]);
        assert_eq!(reachable.mentioned("bot/main.py", "./lib.py"), ["lib.py"]);
        assert_eq!(reachable.mentioned("bot/main.py", "-m bot.tools"), ["bot/__init__.py", "bot/tools/__main__.py"]);
        assert!(reachable.mentioned("bot/main.py", "../../etc/x.py").is_empty());
    }
}
