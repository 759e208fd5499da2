//! Whether an agent can be forked from a process that has imported its packages already: only if its own imports would
//! have found the same variables, files and modules.

use super::Layers;
use super::added_packages::Lookups;
use super::source::Source;
use crate::runtime::process::launch_spec;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Variables that are read by the interpreter when it starts, by the C library and by native code of packages, which
/// nobody sees: their beginnings, their ends, and whole names.
const NATIVE: &[&str] = &[
    "ABSL_",
    "ARROW_",
    "BLIS_",
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "GCONV_",
    "GLIBC_",
    "GLOG_",
    "GOMP_",
    "GOTO_",
    "GRPC_",
    "HIP_",
    "JAX_",
    "KMP_",
    "LC_",
    "LD_",
    "LIBC_",
    "MALLOC_",
    "MKL_",
    "NCCL_",
    "NPY_",
    "NUMBA_",
    "NUMEXPR_",
    "NVIDIA_",
    "OMP_",
    "ONNXRUNTIME_",
    "OPENBLAS_",
    "OPENSSL_",
    "ORT_",
    "POLARS_",
    "PYTHON",
    "PYTORCH_",
    "RAYON_",
    "ROCR_",
    "RUST_",
    "SSL_",
    "TCMALLOC_",
    "TF_",
    "TOKIO_",
    "TORCH_",
    "VECLIB_",
    "XLA_",
];
const NATIVE_ENDS: &[&str] = &["_NUM_THREADS"];
const NATIVE_NAMES: &[&str] = &["LANG", "LANGUAGE", "NLSPATH", "TZ", "TZDIR"];

/// The ends of the names of files that are modules.
const MODULE_ENDS: &[&str] = &["py", "pyc", "so", "zip"];

/// What the packages of a parent depended on when they were imported.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Dependences {
    /// The variables that were read; none: all of them.
    pub reads: Option<BTreeSet<String>>,
    /// The names of all imported packages, and of modules that do not exist.
    pub names: BTreeSet<String>,
    /// Those of packages that may have parts in several places.
    pub namespaces: BTreeSet<String>,
    /// The paths below `/app` that were looked for.
    pub files: BTreeSet<PathBuf>,
    /// What was looked for among the packages; none: that is not known.
    pub packages: Option<Lookups>,
}

impl Dependences {
    /// Why an agent with this environment and source cannot have the packages as they were imported with the environment
    /// `own`. Blocks.
    pub fn differ(
        &self,
        own: &BTreeMap<String, String>,
        env: &BTreeMap<String, String>,
        app_dir: &Path,
        entry: &str,
        source: &Source,
    ) -> Option<String> {
        let is_read = |name: &str| self.reads.as_ref().is_none_or(|reads| reads.contains(name)) || is_native(name);
        if let Some(name) = env.keys().chain(own.keys()).find(|name| env.get(*name) != own.get(*name) && is_read(name))
        {
            return Some(format!("{name} may be read when its packages are imported"));
        }
        if let Some(file) = self.files.iter().find(|file| app_dir.join(file).exists()) {
            return Some(format!("{} may be read when its packages are imported", file.display()));
        }
        let own_modules = launch_spec::module_directories(app_dir, entry);
        if let Some(name) = own_modules.iter().find_map(|dir| self.shadowed(dir)) {
            return Some(format!("its own module {name} takes the place of another"));
        }
        self.changed_by(source, own)
    }

    /// Why an agent with the packages in `agents` cannot have those in `own` as they were imported. Blocks.
    pub fn differ_by_packages(&self, own: &Layers, agents: &Layers) -> Option<String> {
        match &self.packages {
            _ if own.site_layers == agents.site_layers => None,
            Some(lookups) => lookups.differ(&self.names, own, agents),
            None => Some("it has other packages".to_owned()),
        }
    }

    /// A name of these modules that has another meaning beside an agent's files in `dir`.
    fn shadowed(&self, dir: &Path) -> Option<String> {
        let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).find_map(
            |(file, path)| {
                let (name, end) = file.split_once('.').unwrap_or((&file, ""));
                let is_module = match end.rsplit('.').next() {
                    Some("") | None => self.namespaces.contains(name) || path.join("__init__.py").exists(),
                    Some(end) => MODULE_ENDS.contains(&end),
                };
                (is_module && self.names.contains(name)).then(|| name.to_owned())
            },
        )
    }

    /// Why the agent's source may import its packages under other conditions, which it makes itself.
    fn changed_by(&self, source: &Source, own: &BTreeMap<String, String>) -> Option<String> {
        let name = match &self.reads {
            Some(reads) => reads.iter().filter(|name| !own.contains_key(*name)).find(|name| source.names(name)),
            None => None,
        };
        if let Some(name) = name {
            return Some(format!("its source mentions {name}, which is read when its packages are imported"));
        }
        let words = ["environ", "putenv", "load_dotenv"];
        if self.reads.is_none() && words.iter().any(|word| source.mentions(word)) {
            return Some(
                "its source may change the environment, which is read when its packages are imported".to_owned(),
            );
        }
        let hooks = ["install_import_hook", "beartype.claw"];
        if source.replaces_modules() || hooks.iter().any(|hook| source.mentions(hook)) {
            return Some("its source may change what its packages import".to_owned());
        }
        let searches = ["sys.path", "addsitedir", "meta_path", "path_hooks"].iter().any(|word| source.mentions(word));
        let name = source.directories.iter().filter(|_| searches).find_map(|dir| self.shadowed(dir));
        if let Some(name) = name {
            return Some(format!("its source changes where modules are found, and has one named {name}"));
        }
        let sets = source.mentions("environ") || source.mentions("putenv");
        let native = NATIVE.iter().filter(|_| sets).find(|beginning| source.has_word_with(beginning));
        let native = native.or_else(|| NATIVE_ENDS.iter().filter(|_| sets).find(|end| source.mentions(end)));
        native.map(|part| format!("its source mentions a variable with {part}, which native code may read"))
    }
}

fn is_native(name: &str) -> bool {
    NATIVE.iter().any(|beginning| name.starts_with(beginning))
        || NATIVE_ENDS.iter().any(|end| name.ends_with(end))
        || NATIVE_NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Names and values, or paths and texts.
    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn dependences() -> Dependences {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Dependences {
            reads: Some(set(&["HOME", "LEVEL"])),
            names: set(&["google", "requests", "fast_version"]),
            namespaces: set(&["google"]),
            files: [PathBuf::from("settings.toml")].into(),
            packages: None,
        }
    }

    fn variables(pairs: Pairs<'_>) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The reason for an agent with these variables and files.
    fn reason(env: Pairs<'_>, files: Pairs<'_>) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let own = variables(&[("HOME", "/home/agent")]);
        let env = own.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(env.iter().copied());
        let env = variables(&env.collect::<Vec<_>>());
        dependences().differ(&own, &env, dir.path(), "agent.py", &Source::read(dir.path()).unwrap())
    }

    #[test]
    fn agents_whose_imports_would_find_the_same_can_be_forked() {
        let files = [
            ("agent.py", "import os, requests\nkey = os.environ['HOME'] or LEVEL.name, OLD_LD_X"),
            ("docs/requests/a.md", ""),
        ];
        assert_eq!(reason(&[("OPENAI_API_KEY", "x"), ("PORT", "1"), ("LANGSMITH_TRACING", "1")], &files), None);
        // Only files and packages are modules; a directory of one is part of a package that is in several places.
        assert_eq!(reason(&[], &[("requests/data.json", ""), ("requests.txt", "")]), None);
        assert_eq!(reason(&[], &[("agent.py", "sys.modules[__name__]\n'requests' in sys.modules")]), None);
        // Modules that nobody can find are none.
        assert_eq!(reason(&[], &[("agent.py", "import a.requests"), ("a/requests.py", "")]), None);
    }

    #[test]
    fn agents_whose_imports_would_find_something_else_cannot() {
        let cases: [(Pairs<'_>, Pairs<'_>, &str); 17] = [
            (&[("LEVEL", "debug")], &[], "LEVEL may be read"),
            (&[("HOME", "/x")], &[], "HOME may be read"),
            (&[("PYTHONWARNINGS", "error")], &[], "PYTHONWARNINGS may be read"),
            (&[("TZ", "Asia/Tokyo")], &[], "TZ may be read"),
            (&[("OMP_NUM_THREADS", "1")], &[], "OMP_NUM_THREADS may be read"),
            (&[], &[("settings.toml", "")], "settings.toml may be read"),
            (&[], &[("requests.py", "")], "its own module requests"),
            (&[], &[("src/requests/__init__.py", "")], "its own module requests"),
            (&[], &[("fast_version.cpython-311-x86_64-linux-gnu.so", "")], "its own module fast_version"),
            (&[], &[("google/own.py", "")], "its own module google"),
            (&[], &[("agent.py", "os.environ['LEVEL'] = 'debug'")], "its source mentions LEVEL"),
            (&[], &[(".env", "LEVEL=debug")], "its source mentions LEVEL"),
            (
                &[],
                &[("agent.py", "sys.path.insert(0, 'lib')"), ("lib/requests.py", "")],
                "changes where modules are found",
            ),
            (&[], &[("agent.py", "os.environ['OMP_NUM_THREADS'] = '1'")], "native code may read"),
            (&[], &[("agent.py", "sys.modules['sqlite3'] = pysqlite3")], "may change what its packages import"),
            (&[], &[("agent.py", "sys.modules.pop('requests')")], "may change what its packages import"),
            (&[], &[("agent.py", "typeguard.install_import_hook('requests')")], "may change what its packages import"),
        ];
        for (env, files, expected) in cases {
            let reason = reason(env, files);
            assert!(reason.as_ref().is_some_and(|reason| reason.contains(expected)), "{expected}: {reason:?}");
        }
    }

    #[test]
    fn packages_that_read_the_whole_environment_need_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let all = Dependences { reads: None, ..dependences() };
        let none = BTreeMap::new();
        let differ = |env: &BTreeMap<String, String>| {
            all.differ(&none, env, dir.path(), "agent.py", &Source::read(dir.path()).unwrap())
        };
        assert!(differ(&variables(&[("A", "b")])).is_some());
        assert_eq!(differ(&none), None);
        fs::write(dir.path().join("agent.py"), "import os\nos.environ['A'] = 'b'").unwrap();
        assert!(differ(&none).is_some());
    }
}
