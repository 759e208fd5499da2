//! For build scripts: names the source that a program is made of.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::{fs, io, path::Path};

/// Sets an environment variable of the compiler to a digest of the files below a directory of the package.
pub fn set(variable: &str, directory: &str) -> io::Result<()> {
    let mut hash = DefaultHasher::new();
    add(Path::new(directory), &mut hash)?;
    println!("cargo::rerun-if-changed={directory}");
    println!("cargo::rustc-env={variable}={:016x}", hash.finish());
    Ok(())
}

fn add(directory: &Path, hash: &mut DefaultHasher) -> io::Result<()> {
    let mut entries: Vec<_> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            add(&path, hash)?;
        } else {
            (path.to_str(), fs::read(&path)?).hash(hash);
        }
    }
    Ok(())
}
