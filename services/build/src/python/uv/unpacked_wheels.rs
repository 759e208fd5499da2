//! Where the cache has wheels unpacked, as an installation by symbolic links shows it.

use crate::python::installed::{distribution, normalised};
use std::{
    collections::{HashMap, HashSet},
    fs::{read_dir, read_link},
    io::Result,
    path::{Path, PathBuf},
};

/// The file of metadata that every wheel has.
const METADATA: &str = "METADATA";

/// The directories in `cache`, a path without links, of the wheels that are installed in `installed`, by the names of
/// their packages. Left out are wheels that have files for other places than the directory of packages, and names that
/// two wheels claim. What a directory contains is not checked here. Blocks.
pub fn find(installed: &Path, cache: &Path) -> Result<HashMap<String, PathBuf>> {
    let (mut found, mut claimed) = (HashMap::new(), HashSet::new());
    for entry in read_dir(installed)? {
        let Ok(dist_info) = entry?.file_name().into_string() else { continue };
        if !dist_info.ends_with(".dist-info") {
            continue;
        }
        let name = normalised(distribution(&dist_info));
        let metadata = Path::new(&dist_info).join(METADATA);
        let wheel = read_link(installed.join(&metadata)).ok().and_then(|link| wheel(&link, &metadata, cache));
        if !claimed.insert(name.clone()) {
            found.remove(&name);
        } else if let Some(wheel) = wheel.filter(|wheel| is_for_one_place(wheel)) {
            found.insert(name, wheel);
        }
    }
    Ok(found)
}

/// The directory, strictly below `cache`, in which `link` has `file`.
fn wheel(link: &Path, file: &Path, cache: &Path) -> Option<PathBuf> {
    let metadata = link.canonicalize().ok()?;
    let directory = metadata.ancestors().nth(file.components().count())?;
    let is_below = directory != cache && directory.starts_with(cache);
    (is_below && directory.join(file) == metadata).then(|| directory.to_owned())
}

/// Whether everything of a wheel belongs into the directory of packages: `NAME-VERSION.data` does not.
fn is_for_one_place(wheel: &Path) -> bool {
    let Ok(mut entries) = read_dir(wheel) else { return false };
    entries.all(|entry| entry.is_ok_and(|entry| !entry.file_name().to_string_lossy().ends_with(".data")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn only_whole_wheels_inside_of_the_cache_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (cache, installed) = (root.join("cache"), root.join("installed"));
        let unpacked = |at: &str, dist_info: &str, other: &str| {
            for made in [dist_info, other] {
                fs::create_dir_all(root.join(at).join(made)).unwrap();
            }
            fs::write(root.join(at).join(dist_info).join(METADATA), "").unwrap();
        };
        let link = |dist_info: &str, to: &Path| {
            fs::create_dir_all(installed.join(dist_info)).unwrap();
            symlink(to, installed.join(dist_info).join(METADATA)).unwrap();
        };
        for (at, name, other) in [
            ("cache/1", "Whole_one-1.0", "whole_one"),
            ("cache/2", "scripts-1.0", "scripts-1.0.data"),
            ("outside", "outside-1.0", "outside"),
            ("cache/3", "twice-1.0", "twice"),
            ("cache/4", "Twice-2.0", "twice"),
            ("cache/5", "owner-1.0", "owner"),
        ] {
            let dist_info = format!("{name}.dist-info");
            unpacked(at, &dist_info, other);
            link(&dist_info, &root.join(at).join(&dist_info).join(METADATA));
        }
        link("around-1.0.dist-info", &cache.join("../outside/outside-1.0.dist-info/METADATA"));
        link("other-1.0.dist-info", &cache.join("5/owner-1.0.dist-info/METADATA"));
        link("gone-1.0.dist-info", &cache.join("6/gone-1.0.dist-info/METADATA"));
        fs::create_dir_all(installed.join("copied-1.0.dist-info")).unwrap();
        fs::write(installed.join("copied-1.0.dist-info/METADATA"), "").unwrap();
        symlink("cache", root.join("named")).unwrap();
        unpacked("cache/7", "by_name-1.0.dist-info", "by_name");
        link("by_name-1.0.dist-info", &root.join("named/7/by_name-1.0.dist-info/METADATA"));
        let found = find(&installed, &cache).unwrap();
        let expected =
            [("whole-one", "1"), ("owner", "5"), ("by-name", "7")].map(|(name, at)| (name.to_owned(), cache.join(at)));
        assert_eq!(found, expected.into());
    }
}
