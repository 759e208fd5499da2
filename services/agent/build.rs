//! Names the source of the launcher, so that a launcher of another build is recognised.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let mut hash = DefaultHasher::new();
    add(Path::new("src/launcher"), &mut hash)?;
    println!("cargo::rerun-if-changed=src/launcher");
    println!("cargo::rustc-env=LAUNCHER_SOURCE={:016x}", hash.finish());
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
