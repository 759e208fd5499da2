//! The private directory of an instance, `RUN/<end of the revision's id>/`, and what an earlier run left there.

use super::leftovers::Leftovers;
use crate::launcher::procfs::{self, Process};
use crate::launcher::{RunAs, kill_tree_of};
use hoistway_confine::{copy_tree, kill_all};
use hoistway_model::RevisionId;
use rustix::fs::{Gid, Uid};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file that says which processes belong to the directory.
const PROCESSES: &str = "process.json";

/// The number of times that an eviction looks again for processes that were born during the last one.
const EVICTIONS: usize = 8;

/// An instance's directory.
#[derive(Debug, Clone)]
pub(super) struct RunDir(PathBuf);

/// The content of `process.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Processes {
    boot_id: String,
    pub launcher: Process,
    pub agent: Process,
}

impl Processes {
    pub fn new(launcher: Process, agent: Process) -> Result<Self> {
        Ok(Self { boot_id: procfs::boot_id()?, launcher, agent })
    }

    /// Ends those of them that are still exactly these.
    pub fn kill(&self) -> Result<bool> {
        if self.boot_id != procfs::boot_id()? {
            return Ok(false);
        }
        let launcher = kill_tree_of(&self.launcher)?;
        let agent = kill_tree_of(&self.agent)?;
        Ok(launcher || agent)
    }

    /// Whether the agent's process has not ended yet.
    pub fn has_agent(&self) -> bool {
        self.agent.is_alive()
    }
}

impl RunDir {
    /// The directory of a revision. Its name is short, because the path of a Unix socket below `TMPDIR` must fit in
    /// 108 bytes; these digits of the id are its random ones.
    pub fn of(dir: &Path, revision: &RevisionId) -> Self {
        let id = revision.simple();
        Self(dir.join("run").join(&id[id.len() - 12..]))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The agent's `HOME`.
    pub fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// The agent's `TMPDIR`.
    pub fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// The agent's working directory, where it has no root of its own.
    pub fn app(&self) -> PathBuf {
        self.0.join("app")
    }

    /// Makes the working directory anew of the agent's source. No process of the agent may be alive.
    pub fn renew_app(&self, source: &Path, owner: Option<RunAs>, leftovers: &Leftovers) -> Result<()> {
        let app = self.app();
        leftovers.take(&app)?;
        copy_tree::copy(source, &app, owner)
    }

    /// Ends every process that has this directory in its environment: those that slipped away from a launcher that was
    /// killed. The path holds a revision's random digits, so nobody else has it. Says whether there were any.
    pub fn evict(&self) -> Result<bool> {
        let marks = [("HOME=", self.home()), ("TMPDIR=", self.tmp())]
            .map(|(name, path)| [name.as_bytes(), path.as_os_str().as_bytes()].concat());
        let ours = |pid: i32| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split(|&b| b == 0).any(|entry| marks.iter().any(|mark| mark == entry)))
        };
        let mut any = false;
        for _ in 0..EVICTIONS {
            let left: Vec<i32> =
                procfs::all()?.iter().filter(|s| !s.is_dead()).map(|s| s.pid).filter(|&p| ours(p)).collect();
            if left.is_empty() {
                break;
            }
            any = true;
            kill_all(&left);
        }
        Ok(any)
    }

    /// Where an agent's own root is put together.
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// The name of the directory, which no other instance has.
    pub fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Makes it, empty. With a root of its own the agent has nothing in here.
    pub fn create(&self, owner: Option<RunAs>, own_root: bool, leftovers: &Leftovers) -> Result<()> {
        self.remove(leftovers)?;
        // The directory itself stays ours, or the agent could write names of other processes into our file. Another
        // user may pass through it.
        let mode = if owner.is_some() && !own_root { 0o711 } else { 0o700 };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode))?;
        if own_root {
            return fs::DirBuilder::new().mode(0o700).create(self.root());
        }
        for dir in [self.home(), self.tmp()] {
            fs::DirBuilder::new().mode(0o700).create(&dir)?;
            if let Some(user) = owner {
                rustix::fs::chown(&dir, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
            }
        }
        Ok(())
    }

    /// Notes the processes, so that a later run knows them should this one be killed.
    pub fn note(&self, processes: &Processes) -> Result<()> {
        let temporary = self.0.join("process.json.new");
        fs::write(&temporary, serde_json::to_vec(processes)?)?;
        fs::rename(temporary, self.0.join(PROCESSES))
    }

    /// Removes it with all that the agent kept there.
    pub fn remove(&self, leftovers: &Leftovers) -> Result<()> {
        leftovers.take(&self.0)
    }
}

/// Ends what an earlier run left behind and empties `DIR/run/`. Returns how many instances were still running.
pub(super) fn clean(dir: &Path, leftovers: &Leftovers) -> Result<usize> {
    let run = dir.join("run");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
    let mut strays = 0;
    for entry in fs::read_dir(&run)? {
        let left = RunDir(entry?.path());
        let noted =
            fs::read(left.0.join(PROCESSES)).and_then(|json| serde_json::from_slice(&json).map_err(Error::from));
        let killed = match noted {
            Ok::<Processes, _>(processes) => processes.kill()?,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!(%error, dir = %left.0.display(), "cannot tell what an earlier run left here");
                false
            }
        };
        let evicted = left.evict()?;
        strays += usize::from(killed || evicted);
        if let Err(error) = leftovers.put_aside(&left.0) {
            // An agent may have made directories that its own user cannot enter. They only cost space.
            tracing::warn!(%error, dir = %left.0.display(), "cannot remove an agent's private directory");
        }
    }
    leftovers.sweep()?;
    Ok(strays)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};

    /// A process that ends with its test.
    struct Sleeper(Child);

    impl Sleeper {
        fn new(script: &str) -> Self {
            let mut command = Command::new("sh");
            Self(command.args(["-c", script]).process_group(0).stdout(Stdio::null()).spawn().unwrap())
        }

        fn process(&self) -> Process {
            Process::now(i32::try_from(self.0.id()).unwrap()).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_directories_are_private_and_new() {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = Leftovers::open(dir.path()).unwrap();
        let revision = RevisionId::mint();
        let run = RunDir::of(dir.path(), &revision);
        run.create(None, false, &leftovers).unwrap();
        fs::write(run.home().join("old"), "").unwrap();
        run.create(None, false, &leftovers).unwrap();
        assert_eq!(fs::read_dir(run.home()).unwrap().count(), 0);
        for dir in [&run.0, &run.home(), &run.tmp()] {
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        }
        run.remove(&leftovers).unwrap();
        run.remove(&leftovers).unwrap();
    }

    #[test]
    fn the_working_directory_is_as_the_source_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = Leftovers::open(dir.path()).unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("agent.py"), "1").unwrap();
        let run = RunDir::of(dir.path(), &RevisionId::mint());
        run.create(None, false, &leftovers).unwrap();
        for _ in 0..2 {
            run.renew_app(&source, None, &leftovers).unwrap();
            assert_eq!(fs::read_to_string(run.app().join("agent.py")).unwrap(), "1");
            assert_eq!(fs::read_dir(run.app()).unwrap().count(), 1);
            fs::write(run.app().join("agent.py"), "2").unwrap();
            fs::create_dir(run.app().join("closed")).unwrap();
            fs::write(run.app().join("closed/file"), "").unwrap();
            // For root, whose own agents have other users, no directory is closed.
            fs::set_permissions(run.app().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        }
    }

    #[test]
    fn only_recorded_processes_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = Leftovers::open(dir.path()).unwrap();
        let mut others = [Sleeper::new("exec sleep 60"), Sleeper::new("exec sleep 60")];
        let mut stray = Sleeper::new("sleep 60 & exec sleep 60");
        let none = Process { pid: i32::MAX, start_time: 1 };

        let note = |processes: Processes| {
            let run = RunDir::of(dir.path(), &RevisionId::mint());
            run.create(None, false, &leftovers).unwrap();
            run.note(&processes).unwrap();
        };
        let first = others[0].process();
        note(Processes::new(Process { start_time: first.start_time + 1, ..first }, none).unwrap());
        note(Processes { boot_id: "another".into(), launcher: others[1].process(), agent: none });
        note(Processes::new(none, stray.process()).unwrap());
        let run = RunDir::of(dir.path(), &RevisionId::mint());
        run.create(None, false, &leftovers).unwrap();
        let mut hidden = Sleeper::new(&format!("HOME={} exec sleep 60", run.home().display()));
        while !fs::read(format!("/proc/{}/cmdline", hidden.0.id())).unwrap().starts_with(b"sleep") {
            std::thread::yield_now();
        }
        fs::create_dir(dir.path().join("run/empty")).unwrap();
        fs::create_dir(dir.path().join("run/broken")).unwrap();
        fs::write(dir.path().join("run/broken").join(PROCESSES), "{").unwrap();

        assert_eq!(clean(dir.path(), &leftovers).unwrap(), 2);
        for ended in [&mut stray, &mut hidden] {
            assert_eq!(ended.0.wait().unwrap().signal(), Some(9));
        }
        assert!(others.iter_mut().all(|other| other.0.try_wait().unwrap().is_none()));
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 0);
    }
}
