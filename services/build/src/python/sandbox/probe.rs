//! Finding out how programs can be confined here: each way is tried on a Python that looks around, the strongest first.

use super::{FileAccess, Role, Shared, ownership};
use crate::python::process;
use hoistway_confine::{
    RunAs,
    exec::{EXEC, landlock_abi},
};
use hoistway_model::{Error, Result};
use rustix::process::{getegid, geteuid};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

/// The time that a try may take; it takes tens of milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Reads what it may, writes where it may, and fails if it can read what it may not.
const LOOK: &str = "import sys\n\
    read, write, private = sys.argv[1:]\n\
    open(read).close()\n\
    open(write + '/file', 'w').close()\n\
    try: open(private).close()\n\
    except OSError: sys.exit(0)\n\
    sys.exit('it could read a private file')\n";

/// A way to confine programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Isolation {
    /// Users of their own, and a root directory that has nothing but what a program needs: it is how another user
    /// reaches directories within those that are closed to others.
    pub own_root: bool,
    /// The Landlock ABI.
    pub landlock: Option<i32>,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

/// Takes the strongest way that this machine has. Where it is not what it could be, the log says why.
pub(super) async fn choose(shared: &mut Shared, dir: &Path, python: &Path) -> Result<Isolation> {
    let failed = |e: io::Error| Error::internal("trying how programs of builds can be confined", e);
    let at = dir.to_owned();
    let place = spawn_blocking(move || Place::make(&at)).await.map_err(|e| failed(e.into()))?.map_err(failed)?;
    let landlock = landlock_abi(&shared.launcher).await.ok().filter(|abi| *abi > 0);
    let mut notes = Vec::new();
    if landlock.is_none() {
        notes.push("this kernel has no Landlock, or it is switched off".to_owned());
    }
    let mut chosen = Isolation::default();
    for (own_root, there) in [(true, shared.users.is_some()), (false, landlock.is_some())] {
        if !there {
            continue;
        }
        let way = Isolation { own_root, landlock, seccomp: true };
        shared.way = way;
        match attempt(shared, &place, python).await {
            Ok(()) => {
                chosen = way;
                break;
            }
            Err(why) => notes.push(why),
        }
    }
    let _ = spawn_blocking(move || place.0.close()).await;
    if !notes.is_empty() {
        let notes = notes.join("; ");
        let how = match chosen {
            Isolation { own_root: true, .. } => "a user and a root directory of their own",
            Isolation { landlock: Some(_), .. } => "Landlock, as the user of this service",
            _ => "limits alone, as the user of this service",
        };
        tracing::warn!("the programs of builds run with {how}, since more was not possible: {notes}");
    }
    Ok(chosen)
}

async fn attempt(shared: &Shared, place: &Place, python: &Path) -> std::result::Result<(), String> {
    let (read, write, private) = (place.path("read"), place.path("write"), place.path("private"));
    let own = RunAs { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    // Not the user of an earlier try.
    ownership::change_owner(&write, Some(shared.owner(Role::Reader).unwrap_or(own))).map_err(|e| e.to_string())?;
    let plan = shared.plan(None, Role::Reader, &FileAccess { read: vec![&read], write: vec![&write], lasting: false });
    let plan = serde_json::to_string(&plan).map_err(|e| e.to_string())?;
    let none: [(&str, &str); 0] = [];
    let mut command = process::command(&shared.launcher, none);
    command.arg(EXEC).arg(plan).arg(python).args(["-I", "-S", "-B", "-c", LOOK]).args([&read, &write, &private]);
    let done = process::run(command, None, LIMIT, &|_| ()).await.map_err(|e| e.to_string())?;
    match done.stderr.last() {
        _ if done.status.success() => Ok(()),
        Some(line) => Err(line.trim_start_matches("hoistway: ").to_owned()),
        None => Err(done.status.to_string()),
    }
}

/// Where it is tried.
struct Place(TempDir);

impl Place {
    fn make(dir: &Path) -> io::Result<Self> {
        let place = Self(tempfile::Builder::new().prefix("try-").tempdir_in(dir)?);
        fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o711))?;
        fs::write(place.path("read"), "")?;
        fs::set_permissions(place.path("read"), fs::Permissions::from_mode(0o644))?;
        fs::create_dir(place.path("write"))?;
        fs::write(place.path("private"), "")?;
        fs::set_permissions(place.path("private"), fs::Permissions::from_mode(0o600))?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
