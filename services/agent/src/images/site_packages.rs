//! One directory of packages out of the layers of several: what a container engine shows of layers that lie on each
//! other. Python could search many directories, but a package whose files come in two layers would then be half a
//! package. Files are linked, not copied, so it costs next to nothing and is kept for all revisions with the same
//! layers.

use std::{
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Fills the empty directory `into` with what `layers`, topmost first, show when they lie on each other. Everything in
/// it is read-only but for `into` itself. Blocks.
pub fn merge(layers: &[PathBuf], into: &Path) -> io::Result<()> {
    for layer in layers {
        add(layer, into)?;
    }
    Ok(())
}

/// A file that exists already is from a higher layer: a file hides everything below it, a directory is filled up.
fn add(from: &Path, into: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), into.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            match DirBuilder::new().mode(0o700).create(&target) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(&target)?.is_dir() {
                        continue;
                    }
                }
                made => made?,
            }
            add(&source, &target)?;
        } else {
            match fs::hard_link(&source, &target) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                // A file system without links, or one file with too many of them.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::Unsupported | ErrorKind::PermissionDenied | ErrorKind::TooManyLinks
                    ) =>
                {
                    copy(&source, &target)?;
                }
                linked => linked?,
            }
        }
    }
    Ok(())
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
