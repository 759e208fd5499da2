//! Checks of the operator's `readable` and `writable`: a path may not cover what an agent's root has of its own.

use super::{APP, Settings};
use hoistway_model::{Code, Error, Result};
use std::path::{Component, Path};

/// Directories that an agent's root makes itself. Bound over by one of the machine's, the agent would lose what it
/// needs from them, and what is made for it in there would be made on the machine.
const OWN: [&str; 8] = ["/etc", "/dev", "/dev/shm", "/proc", "/tmp", "/home/agent", APP, "/opt/hoistway"];
/// Those of them in which nothing of the machine can be shown either.
const CLOSED: [&str; 4] = ["/dev", "/proc", APP, "/opt/hoistway"];
/// Memory in which things may be shown all the same.
const SHM: &str = hoistway_confine::rootfs::SHM;

/// Refuses paths that cannot be shown to agents, by the name of their setting. `dir` has all agents' private
/// directories.
pub(super) fn check(settings: &Settings, dir: &Path) -> Result<()> {
    let both = [("HOISTWAY_AGENT_READABLE", &settings.readable), ("HOISTWAY_AGENT_WRITABLE", &settings.writable)];
    for (setting, paths) in both {
        for path in paths {
            if let Some(why) = objection(path, dir) {
                let text = format!("{setting}: {}: {why}", path.display());
                return Err(Error::new(Code::InvalidArgument, text));
            }
        }
    }
    Ok(())
}

/// Returns why a path cannot be shown, if it cannot.
fn objection(path: &Path, dir: &Path) -> Option<String> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Some("it must be an absolute path without \"..\"".to_owned());
    }
    if let Some(own) = CLOSED.iter().find(|own| path.starts_with(own) && !path.starts_with(SHM)) {
        return Some(format!("agents have {own} of their own, in which nothing of the machine can be shown"));
    }
    if let Some(own) = OWN.iter().find(|own| Path::new(own).starts_with(path)) {
        let text = format!("it would cover {own}, which agents have of their own: name only what they need below it");
        return Some(text);
    }
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => return Some(format!("it cannot be found: {}", error.kind())),
    };
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let has_private = dir.starts_with(&real) || real.starts_with(&dir);
    has_private.then(|| format!("all agents' private directories, in {}, would be shared with it", dir.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shared_paths_may_not_cover_an_agents_own_directories() {
        let dir = Path::new("/var/lib/hoistway/agent");
        for path in ["/", "/etc", "/etc/", "/dev", "/dev/null", "/dev/shm", "/proc", "/proc/sys", "/tmp", "/home"] {
            let why = objection(Path::new(path), dir).unwrap_or_else(|| panic!("{path}"));
            assert!(why.contains(" of their own"), "{path}: {why}");
        }
        for path in ["/home/agent", "/app", "/app/x", "/opt", "/opt/hoistway/runner"] {
            assert!(objection(Path::new(path), dir).is_some_and(|why| why.contains(" of their own")), "{path}");
        }
        for path in ["etc", "/usr/../etc", "/usr/share/.."] {
            assert!(objection(Path::new(path), dir).is_some_and(|why| why.contains("without \"..\"")), "{path}");
        }
        for path in ["/etc/passwd", "/usr/share", "/usr"] {
            assert_eq!(objection(Path::new(path), dir), None, "{path}");
        }
        assert_eq!(objection(Path::new("/no/such"), dir).unwrap(), "it cannot be found: entity not found");
    }

    #[test]
    fn agents_private_directories_are_not_shared_under_any_name() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, link, beside) =
            (temp.path().join("data/agent"), temp.path().join("link"), temp.path().join("beside"));
        std::fs::create_dir_all(dir.join("run")).unwrap();
        std::fs::create_dir(&beside).unwrap();
        std::os::unix::fs::symlink(temp.path().join("data"), &link).unwrap();
        for path in [temp.path(), &dir, &dir.join("run"), &link] {
            assert!(objection(path, &dir).is_some_and(|why| why.contains("private")), "{}", path.display());
        }
        assert_eq!(objection(&beside, &dir), None);
    }
}
