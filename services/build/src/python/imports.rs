//! Requirements for sources that declare none: each import is the standard library's, the source's own, or known
//! here. Never a guess: a package of the module's name may be anybody's.

use super::{
    FileImports, Target, Unread,
    known_distributions::distribution,
    reachable_files::roots,
    wheel_alternatives::{self, Versions},
};
use hoistway_model::{
    Code, Error, Result,
    source::{Requirements, SourceFiles},
};
use std::collections::BTreeSet;

/// The number of undeclared imports that an error lists.
const MAX_LISTED: usize = 20;

/// The names under which the source's own files can be imported. Modules of the entry's own package have other names;
/// only where nobody else has the name, they are found by it.
pub fn own_modules(files: &SourceFiles, entry_point: &str) -> BTreeSet<String> {
    let below = |root: &str| -> BTreeSet<String> {
        let names = files.python().filter_map(|name| name.strip_prefix(root));
        let first = names.map(|name| name.split('/').next().unwrap_or(name));
        first.map(|name| name.strip_suffix(".py").unwrap_or(name).to_owned()).collect()
    };
    let is_package = |root: &str| files.get(&format!("{root}__init__.py")).is_some();
    let (packages, others): (Vec<_>, Vec<_>) =
        roots(entry_point).into_iter().partition(|root| !root.is_empty() && is_package(root));
    let mut own: BTreeSet<String> = others.into_iter().flat_map(below).collect();
    own.extend(packages.into_iter().flat_map(below).filter(|name| distribution(name).is_none()));
    own
}

/// Every name under which a file or a directory of the source could be imported, if the program adds the directory that
/// it is in to `sys.path`; compiled modules are among them.
pub fn modules_anywhere(files: &SourceFiles) -> BTreeSet<&str> {
    let is_module = |name: &str| [".py", ".so", ".pyd"].iter().any(|end| name.ends_with(end));
    let names = files.iter().map(|(name, _)| name).filter(|name| is_module(name)).flat_map(|name| name.split('/'));
    names.map(|part| part.split('.').next().unwrap_or_default()).collect()
}

/// The requirements that the imports ask for. An import that cannot be placed is [`Code::UndeclaredImport`] with file
/// and line, unless the program goes on without it, or it may be a file of the source, of which `elsewhere` has the
/// names.
pub fn requirements_from_imports(
    files: &[FileImports],
    own: &BTreeSet<String>,
    elsewhere: &BTreeSet<&str>,
    target: &Target,
) -> Result<Requirements> {
    if let Some((file, unread)) = files.iter().find_map(|one| Some((&one.file, one.unread.as_ref()?))) {
        return Err(unknown_imports(file, unread, target));
    }
    let stdlib = target.standard_library();
    let mut needed = BTreeSet::new();
    let mut undeclared = Vec::new();
    for FileImports { file, imports, reached, unread: _ } in files {
        for import in imports.iter().filter(|import| !import.module.starts_with('.')) {
            let top = import.module.split('.').next().unwrap_or_default();
            if own.contains(top) || stdlib.contains(top) || top == "__main__" {
                continue;
            }
            match distribution(&import.module) {
                Some(distribution) => {
                    needed.insert(distribution);
                }
                None if import.optional || !reached || elsewhere.contains(top) => {}
                None => undeclared.push((top, file, import.line)),
            }
        }
    }
    match undeclared.first() {
        None => Requirements::parse("requirements", &needed.into_iter().collect::<Vec<_>>().join("\n")),
        Some((module, file, line)) => {
            let message = match wheel_alternatives::distribution_of(module) {
                Some(package) => {
                    format!(
                        "{file}, line {line}: {}",
                        wheel_alternatives::without_wheel(package, Versions::All, &target.named_for_wheels())
                    )
                }
                None => format!(
                    "{file}, line {line}: no package is known that provides the module \"{module}\"; \
                     name the packages that the source needs in `requirements`"
                ),
            };
            let lines = undeclared.iter().take(MAX_LISTED).map(|(m, f, l)| format!("{f}, line {l}: import {m}"));
            Err(Error::new(Code::UndeclaredImport, message).with_details(lines))
        }
    }
}

/// The error about a file that this machine's Python cannot read.
fn unknown_imports(file: &str, Unread { line, message }: &Unread, target: &Target) -> Error {
    let host = target.interpreter().python();
    let text = format!(
        "{file}, line {line}: {message}, says Python {host} of the server, so the file's imports are not known; if it is \
         right for Python {}, name the packages that the source needs in `requirements`",
        target.python()
    );
    Error::new(Code::SyntaxError, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::python::{Import, Interpreter};

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    fn ask(modules: &[(&str, bool)]) -> Result<String> {
        let line = |(i, (module, optional)): (usize, &(&str, bool))| Import {
            module: module.to_string(),
            line: i as u32 + 1,
            optional: *optional,
        };
        let imports = modules.iter().enumerate().map(line).collect();
        let files = [FileImports { file: "agent.py".into(), imports, reached: true, unread: None }];
        let target = Target::host(&Interpreter::example((3, 11)));
        requirements_from_imports(&files, &set(&["words"]), &["vendored"].into(), &target).map(|r| r.text().to_owned())
    }

    #[test]
    fn imports_are_the_standard_librarys_own_or_known() {
        let known = [
            ("os.path", false),
            ("words.hi", false),
            ("vendored.x", false),
            ("__main__.x", false),
            ("yaml.safe_load", false),
            ("google.genai.types", false),
            ("google.cloud.storage", false),
            ("langchain_openai.ChatOpenAI", false),
            ("openai", true),
            ("openai.types", false),
            ("langgraph.checkpoint.sqlite.SqliteSaver", false),
            ("langgraph.graph", false),
            ("nobody_has_this", true),
        ];
        let want = "google-cloud-storage\ngoogle-genai\nlangchain-openai\nlanggraph\nlanggraph-checkpoint-sqlite\nopenai\npyyaml\n";
        assert_eq!(ask(&known).unwrap(), want);
        assert_eq!(ask(&[]).unwrap(), "");
    }

    #[test]
    fn an_undeclared_import_is_named_with_file_and_line() {
        for module in ["zzz_nobody_has_this", "google", "google.unheard_of", "Os"] {
            let e = ask(&[("os", false), (module, false)]).unwrap_err();
            assert_eq!(e.code, Code::UndeclaredImport);
            let top = module.split('.').next().unwrap();
            assert!(
                e.message
                    .contains(&format!("agent.py, line 2: no package is known that provides the module \"{top}\"")),
                "{e}"
            );
            assert!(e.message.contains("`requirements`"), "{e}");
            assert_eq!(e.details, [format!("agent.py, line 2: import {top}")]);
        }
    }

    #[test]
    fn modules_of_any_directory_may_be_meant_and_the_entrys_own_package_hides_no_distribution() {
        let names = [
            "bot/__init__.py",
            "bot/main.py",
            "bot/openai.py",
            "bot/words.py",
            "vendor/fast.cpython-311.so",
            "a/b.txt",
        ];
        let files = SourceFiles::parse(names.iter().map(|n| (n.to_string(), String::new())).collect()).unwrap();
        let anywhere = ["__init__", "bot", "fast", "main", "openai", "vendor", "words"];
        assert_eq!(modules_anywhere(&files), anywhere.into());
        let own = own_modules(&files, "bot/main.py");
        assert!(own.contains("words") && own.contains("bot") && !own.contains("openai"), "{own:?}");
    }

    #[test]
    fn imports_of_a_file_that_cannot_be_read_are_not_guessed() {
        let unread = Some(Unread { line: 3, message: "invalid syntax".into() });
        let files = [FileImports { file: "agent.py".into(), imports: [].into(), reached: true, unread }];
        let host = Interpreter::example((3, 11));
        let platform = crate::platform::Platform::new("linux", "amd64");
        let target = Target::of_base(&host, "3.13.1", &platform, host.libc).unwrap();
        let e = requirements_from_imports(&files, &set(&[]), &BTreeSet::new(), &target).unwrap_err();
        let want = "agent.py, line 3: invalid syntax, says Python 3.11 of the server, so the file's imports are not known; \
                    if it is right for Python 3.13, name the packages that the source needs in `requirements`";
        assert_eq!((e.code, e.message.as_str()), (Code::SyntaxError, want));
    }

    #[test]
    fn own_modules_are_those_of_the_root_and_beside_the_entry_point() {
        let names = ["src/bot/main.py", "src/bot/tools/web.py", "src/bot/words.py", "lib.py", "data/x.json"];
        let files = SourceFiles::parse(names.iter().map(|n| (n.to_string(), String::new())).collect()).unwrap();
        assert_eq!(own_modules(&files, "src/bot/main.py"), set(&["bot", "lib", "main", "src", "tools", "words"]));
        assert_eq!(own_modules(&files, "lib.py"), set(&["bot", "lib", "src"]));
        let names = ["services/bot/src/bot/main.py", "services/bot/src/__init__.py"];
        let files = SourceFiles::parse(names.iter().map(|n| (n.to_string(), String::new())).collect()).unwrap();
        let own = own_modules(&files, names[0]);
        assert!(own.is_superset(&set(&["bot", "main", "services"])), "{own:?}");
    }
}
