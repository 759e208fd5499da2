//! One directory of packages out of the layers of several: what a container engine shows of layers that lie on each
//! other. Python could search many directories, but a package whose files come in two layers would then be half a
//! package. Files are linked, not copied, so it costs next to nothing and is kept for all revisions with the same
//! layers.

use hoistway_kit::parallelism;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    slice,
    sync::{Mutex, PoisonError},
    thread::scope,
};

/// The depth down to which the directories of one layer are divided among threads: packages with thousands of files have
/// most of them in a few directories.
const DIVIDED: usize = 3;

/// Fills the empty directory `into` with what `layers`, topmost first, show when they lie on each other. Everything in
/// it is read-only but for `into` itself. Blocks.
pub fn merge(layers: &[PathBuf], into: &Path) -> io::Result<()> {
    let mut parts = Vec::new();
    divide(layers, into, DIVIDED, &mut parts)?;
    let (parts, workers) = (Mutex::new(parts), parallelism::workers());
    let work = || {
        loop {
            let part = parts.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(Part { sources, target }) = part else { return Ok(()) };
            sources.iter().try_for_each(|(source, is_directory)| add(source, *is_directory, &target))?;
        }
    };
    scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let own = work();
        let ended = others.into_iter().map(|other| other.join().map_err(|_| io::Error::other("a thread panicked"))?);
        ended.fold(own, io::Result::and)
    })
}

/// A file or directory, and what is in its place in the layers that have it, topmost first; each with whether it is a
/// directory.
struct Part {
    sources: Vec<(PathBuf, bool)>,
    target: PathBuf,
}

/// Divides directories, topmost first, into parts that are independent of each other.
fn divide(directories: &[PathBuf], into: &Path, depth: usize, parts: &mut Vec<Part>) -> io::Result<()> {
    let mut named: BTreeMap<OsString, Vec<(PathBuf, bool)>> = BTreeMap::new();
    for directory in directories {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            named.entry(entry.file_name()).or_default().push((entry.path(), entry.file_type()?.is_dir()));
        }
    }
    for (name, sources) in named {
        let target = into.join(name);
        match &sources[..] {
            [(only, true)] if depth > 1 => {
                make_directory(&target)?;
                divide(slice::from_ref(only), &target, depth - 1, parts)?;
            }
            _ => parts.push(Part { sources, target }),
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Adds a file or directory. A file that exists already is from a higher layer: a file hides everything below it, a
/// directory is filled up.
fn add(source: &Path, is_directory: bool, target: &Path) -> io::Result<()> {
    if is_directory {
        match make_directory(target) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(target)?.is_dir() {
                    return Ok(());
                }
            }
            made => made?,
        }
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            add(&entry.path(), entry.file_type()?.is_dir(), &target.join(entry.file_name()))?;
        }
        return Ok(());
    }
    match fs::hard_link(source, target) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        // A file system without links, or one file with too many of them.
        Err(e)
            if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied | ErrorKind::TooManyLinks) =>
        {
            copy(source, target)
        }
        linked => linked,
    }
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(source)?;
    if meta.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(source)?, target);
    }
    fs::copy(source, target)?;
    // Bytecode is unchecked, but other caches that packages bring along compare times.
    fs::File::open(target)?.set_modified(meta.modified()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn layer(dir: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = dir.join(name);
        for (path, text) in files {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        root
    }

    #[test]
    fn the_top_shows_and_what_it_does_not_have_shines_through() {
        let dir = tempfile::tempdir().unwrap();
        let low =
            [("space/__init__.py", "low"), ("space/low.py", ""), ("file", "low"), ("dir/x", "low"), ("same/a", "")];
        let low = layer(dir.path(), "low", &low);
        let top = [
            ("space/__init__.py", "top"),
            ("space/top.py", ""),
            ("file/inside", "top"),
            ("dir", "top"),
            ("same/b", ""),
        ];
        let top = layer(dir.path(), "top", &top);
        symlink("a", low.join("same/link")).unwrap();
        let into = dir.path().join("site");
        fs::create_dir(&into).unwrap();
        merge(&[top.clone(), low.clone()], &into).unwrap();
        let read = |path: &str| fs::read_to_string(into.join(path)).unwrap();
        assert_eq!(
            (read("space/__init__.py"), read("file/inside"), read("dir")),
            ("top".into(), "top".into(), "top".into())
        );
        for both in ["space/low.py", "space/top.py", "same/a", "same/b", "same/link"] {
            assert!(into.join(both).exists(), "{both}");
        }
        assert!(fs::symlink_metadata(into.join("same/link")).unwrap().is_symlink());
        assert_eq!(
            fs::metadata(into.join("same/a")).unwrap().ino(),
            fs::metadata(low.join("same/a")).unwrap().ino(),
            "linked, not copied"
        );
    }

    #[test]
    fn large_packages_are_put_together_whole() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<String> =
            (0..400).map(|n| format!("large/{}/{}/deep/deeper/{n}", n % 5, n % 7)).chain(["one".into()]).collect();
        let files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), path.as_str())).collect();
        let (large, other) = (layer(dir.path(), "large", &files), layer(dir.path(), "other", &[("large/0/x", "top")]));
        let into = dir.path().join("site");
        fs::create_dir(&into).unwrap();
        merge(&[other, large], &into).unwrap();
        for path in &paths {
            assert_eq!(fs::read_to_string(into.join(path)).unwrap(), *path);
        }
        assert_eq!(fs::read_to_string(into.join("large/0/x")).unwrap(), "top");
        let alone = dir.path().join("alone");
        fs::create_dir(&alone).unwrap();
        merge(&[dir.path().join("large")], &alone).unwrap();
        assert!(paths.iter().all(|path| alone.join(path).is_file()));
    }

    #[test]
    fn copies_are_as_good_as_links() {
        let dir = tempfile::tempdir().unwrap();
        let low = layer(dir.path(), "low", &[("a", "text")]);
        symlink("a", low.join("link")).unwrap();
        for name in ["a", "link"] {
            copy(&low.join(name), &dir.path().join(name)).unwrap();
        }
        assert_eq!(fs::read_to_string(dir.path().join("link")).unwrap(), "text");
        let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(low.join("a")), time(dir.path().join("a")));
    }
}
