//! The names of the standard library's modules in other versions of Python than the host's.

use std::collections::BTreeSet;

/// The modules that each version added and removed, by the minor version of Python 3. Internal ones (`_x`), which no
/// program imports, are left out.
const CHANGES: [(u32, &[&str], &[&str]); 4] = [
    (11, &["tomllib"], &["binhex"]),
    (12, &[], &["asynchat", "asyncore", "distutils", "imp", "smtpd"]),
    (
        13,
        &[],
        &[
            "aifc",
            "audioop",
            "cgi",
            "cgitb",
            "chunk",
            "crypt",
            "imghdr",
            "lib2to3",
            "mailcap",
            "msilib",
            "nis",
            "nntplib",
            "ossaudiodev",
            "pipes",
            "sndhdr",
            "spwd",
            "sunau",
            "telnetlib",
            "uu",
            "xdrlib",
        ],
    ),
    (14, &["annotationlib", "compression"], &[]),
];

/// The modules of Python 3.`to`, from those of Python 3.`from`.
pub fn modules(own: &BTreeSet<String>, from: u32, to: u32) -> BTreeSet<String> {
    let mut modules = own.clone();
    let mut change = |more: &[&str], fewer: &[&str]| {
        modules.retain(|module| !fewer.contains(&module.as_str()));
        modules.extend(more.iter().map(|module| (*module).to_owned()));
    };
    for (minor, added, removed) in CHANGES {
        if from < minor && minor <= to {
            change(added, removed);
        }
    }
    for (minor, added, removed) in CHANGES.iter().rev() {
        if to < *minor && *minor <= from {
            change(removed, added);
        }
    }
    modules
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::python::Interpreter;
    use std::path::Path;

    #[test]
    fn modules_come_and_go_in_both_directions() {
        let of = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(modules(&of(&["os", "cgi", "imp"]), 11, 13), of(&["os"]));
        assert_eq!(modules(&of(&["os", "binhex"]), 10, 11), of(&["os", "tomllib"]));
        assert!(modules(&of(&["os", "tomllib"]), 13, 10).is_superset(&of(&["os", "cgi", "imp", "binhex"])));
        assert!(!modules(&of(&["os", "tomllib"]), 13, 10).contains("tomllib"));
        assert_eq!(modules(&of(&["os", "cgi"]), 11, 11), of(&["os", "cgi"]));
    }

    /// Compares with every interpreter on PATH.
    #[tokio::test]
    async fn the_changes_are_those_of_real_interpreters() {
        let mut found = Vec::new();
        for minor in 10..=14 {
            let path = std::env::var_os("PATH").unwrap();
            let mut places = std::env::split_paths(&path).map(|directory| directory.join(format!("python3.{minor}")));
            if let Some(place) = places.find(|place| place.is_file())
                && let Ok(python) = Interpreter::probe(Some(Path::new(&place)), "HOISTWAY_PYTHON").await
                && python.version == (3, minor)
            {
                found.push(python);
            }
        }
        hoistway_testing::need("other-python", found.len() > 1, "there is only one python3.MINOR on PATH");
        let public = |modules: &BTreeSet<String>| -> BTreeSet<String> {
            modules.iter().filter(|module| !module.starts_with('_')).cloned().collect()
        };
        for one in &found {
            for other in &found {
                let told = modules(&one.stdlib_modules, one.version.1, other.version.1);
                assert_eq!(public(&told), public(&other.stdlib_modules), "{:?} {:?}", one.version, other.version);
            }
        }
    }
}
