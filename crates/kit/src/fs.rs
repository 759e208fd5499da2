//! Durable and private files. Everything here blocks: call it at start, or from `spawn_blocking`.

use hoistway_model::{Code, Error, Result};
use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};
use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// The mode of files that hold secrets.
pub const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIR: u32 = 0o700;
const STICKY: u32 = 0o1000;

/// Makes an error in `map_err`: failures that the operator can fix have a public message, all else is internal. `path`
/// is a file or directory of the data directory.
pub fn path_error(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let (doing, path) = (format!("{doing} {}", path.display()), path.display().to_string());
    move |e| {
        let (code, text) = match e.kind() {
            ErrorKind::PermissionDenied => {
                let user = rustix::process::geteuid().as_raw();
                let remedy = match missing_mode(&path, user) {
                    Some(mode) => format!("it is yours, so change its mode (chmod {mode} {path})"),
                    None => "give it to that user (chown), or name another data directory".to_owned(),
                };
                (Code::PermissionDenied, format!("{path} is not writable by you (uid {user}): {remedy}"))
            }
            ErrorKind::ReadOnlyFilesystem => {
                let remedy = "mount it for writing, or name another data directory";
                (Code::PermissionDenied, format!("{path} is on a file system that is mounted read-only: {remedy}"))
            }
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                (Code::InvalidArgument, format!("{path} is not a directory, and cannot be made one: name another"))
            }
            // Its message is complete, see `private_dir`.
            ErrorKind::InvalidInput => return Error::new(Code::InvalidArgument, e.to_string()),
            _ => return io_error(&doing)(e),
        };
        Error::new(code, text).with_source(e)
    }
}

/// Makes an error in `map_err`: a full disk has a public message and its cause, all else is internal.
pub fn io_error(doing: &str) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.to_owned();
    move |e| match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::new(Code::InsufficientStorage, format!("the disk is full while {doing}")).with_source(e)
        }
        _ => Error::internal(&doing, e),
    }
}

/// Opens a regular file for reading where others could put a link in its place, or in place of a directory above it: a
/// path with a link in it is refused.
pub fn open_without_links(path: &Path) -> io::Result<File> {
    // Without NONBLOCK it would wait for the writer of a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6, and in containers whose filter does not know it.
        Err(Errno::NOSYS | Errno::PERM) => open(path, flags, Mode::empty()),
        opened => opened,
    };
    let file = File::from(file?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Returns the missing mode bits of `path`, if this user owns it.
fn missing_mode(path: &str, user: u32) -> Option<&'static str> {
    let meta = std::fs::metadata(path).ok().filter(|meta| meta.uid() == user)?;
    let (mode, needed) = if meta.is_dir() { ("u+rwx", 0o700) } else { ("u+rw", 0o600) };
    (meta.mode() & needed != needed).then_some(mode)
}

/// Creates `dir` and its missing parents, readable by their owner only, and tightens `dir` if it exists. A directory
/// that is meant to be shared, such as `/tmp`, is refused.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    make_dir(dir)?;
    if std::fs::metadata(dir)?.permissions().mode() & STICKY != 0 {
        let text = format!("{} is shared with other users: name a directory of your own", dir.display());
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    tighten(dir, PRIVATE_DIR)
}

/// Creates `dir` and its missing parents as private, and leaves existing ones unchanged.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(dir)
}

/// Replaces `path` with `bytes` atomically: a crash leaves either the old file or the new one, complete.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temp = Temp::write(path, bytes, mode)?;
    std::fs::rename(&temp.0, path)?;
    fsync_dir(parent(path))
}

/// Creates `path` with `bytes` if it does not exist; true if it did. Of several callers, also in other processes, one
/// wins, and a half-written file is never visible.
pub fn create_once(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let temp = Temp::write(path, bytes, mode)?;
    match std::fs::hard_link(&temp.0, path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(e) => return Err(e),
    }
    drop(temp);
    fsync_dir(parent(path))?;
    Ok(true)
}

/// Returns the content of the private file `path`, which is created with the result of `make` if it does not exist. A
/// file that others may read is tightened, with a warning.
pub fn load_or_create_private(path: &Path, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let failed = |e: io::Error| path_error("opening", path)(e);
    if let Some(bytes) = read_if_there(path).map_err(failed)? {
        warn_if_open(path);
        return Ok(bytes);
    }
    let bytes = make()?;
    make_dir(parent(path)).map_err(failed)?;
    if create_once(path, &bytes, PRIVATE_FILE).map_err(failed)? {
        return Ok(bytes);
    }
    std::fs::read(path).map_err(failed)
}

/// Flushes the entries of a directory: a new or renamed file survives a power cut only after this.
pub fn fsync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Returns the bytes available to an unprivileged user on the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Returns the bytes of the whole file system of `path`.
pub fn total_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// Returns the content of a file, or `None` if it does not exist.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes the temporary files of killed writers of `path`; those of living processes stay.
pub(crate) fn remove_left_over(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    for entry in std::fs::read_dir(parent(path))? {
        let entry = entry?;
        let found = entry.file_name();
        let writer = found.to_str().and_then(|found| {
            let unique = found.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".tmp")?;
            unique.split_once('-')?.0.parse::<u32>().ok()
        });
        if writer.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes every permission beyond `mode` from an existing file.
pub(crate) fn tighten(path: &Path, mode: u32) -> io::Result<()> {
    let now = std::fs::metadata(path)?.permissions().mode() & 0o777;
    if now & !mode != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(now & mode))?;
    }
    Ok(())
}

pub(crate) fn warn_if_open(path: &Path) {
    let Ok(meta) = std::fs::metadata(path) else { return };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return;
    }
    // A secret mounted by an orchestrator cannot be changed by us: a warning is all that is possible then.
    match tighten(path, PRIVATE_FILE) {
        Ok(()) => tracing::warn!("{} could be read by other users (mode {mode:o}); tightened to 600", path.display()),
        Err(e) => tracing::warn!("{} can be read by other users (mode {mode:o}): {e}", path.display()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A complete, flushed file beside its destination, removed if it is not moved there.
struct Temp(PathBuf);

impl Temp {
    fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "not a file name"))?;
        let unique = format!(".{}-{}.tmp", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let mut temp_name = std::ffi::OsString::from(".");
        temp_name.push(name);
        temp_name.push(unique);
        let temp = Self(parent(path).join(temp_name));
        // A file of this name can only be left over from a dead process with the same id.
        let _ = std::fs::remove_file(&temp.0);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp.0)?;
        // The umask may have cleared bits that the caller requested.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(temp)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The exclusive right to run on a data directory, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Locks `dir`, which is created if it does not exist; [`Code::Conflict`] when another process holds it.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let failed = |e: io::Error| path_error("locking", dir)(e);
        private_dir(dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The holder may not have written its pid yet; the message omits it then.
                let _ = file.read_to_string(&mut holder);
                let pid = match holder.trim() {
                    "" => String::new(),
                    pid => format!(" (pid {pid})"),
                };
                return Err(Error::new(Code::Conflict, format!("another hoistway{pid} runs on {}", dir.display())));
            }
            Err(e) => return Err(failed(e.into())),
        }
        // Only for the message above: failure on a full disk is ignored, so that space can be freed.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_not_opened_through_links_and_pipes_are_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", root.join("above")).unwrap();
        std::os::unix::fs::symlink("real/file", root.join("link")).unwrap();
        rustix::fs::mknodat(CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(open_without_links(&root.join("real/file")).is_ok());
        for refused in ["above/file", "link", "pipe", "real"] {
            assert!(open_without_links(&root.join(refused)).is_err(), "{refused}");
        }
    }

    #[test]
    fn what_killed_writers_left_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let stale = format!(".key.{}-0.tmp", u32::MAX);
        let live = format!(".key.{}-0.tmp", process::id());
        let others = ["key", ".key.tmp", ".keys.1-0.tmp", &live];
        for name in others.into_iter().chain([stale.as_str()]) {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_left_over(&path).unwrap();
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
        assert!(!dir.path().join(stale).exists());
    }

    #[test]
    fn a_private_directory_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        private_dir(&deep).unwrap();
        assert_eq!((mode(&deep), mode(&dir.path().join("a"))), (0o700, 0o700));
        std::fs::set_permissions(&deep, Permissions::from_mode(0o755)).unwrap();
        private_dir(&deep).unwrap();
        assert_eq!(mode(&deep), 0o700);
        std::fs::set_permissions(&deep, Permissions::from_mode(0o1777)).unwrap();
        assert!(private_dir(&deep).is_err());
        load_or_create_private(&deep.join("key"), || Ok(b"x".to_vec())).unwrap();
        assert_eq!(mode(&deep), 0o777);
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one", 0o644).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_created_by_one_caller_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let winners = std::thread::scope(|s| {
            let racers: Vec<_> = (0..8u8)
                .map(|i| {
                    let path = &path;
                    s.spawn(move || create_once(path, &[i; 64], PRIVATE_FILE).unwrap())
                })
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(winners, 1);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() == 64 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_is_kept_and_tightened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/key");
        assert_eq!(load_or_create_private(&path, || Ok(b"first".to_vec())).unwrap(), b"first");
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load_or_create_private(&path, || Ok(b"second".to_vec())).unwrap(), b"first");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_can_be_mended_is_no_internal_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for place in [file.clone(), file.join("below")] {
            let e = DirLock::acquire(&place).unwrap_err();
            assert_eq!(e.code, Code::InvalidArgument, "{e}");
            assert!(e.message.starts_with(&format!("{} is not a directory", place.display())), "{e}");
        }
        let user = rustix::process::geteuid().as_raw();
        for (kind, code, text) in [
            (ErrorKind::PermissionDenied, Code::PermissionDenied, format!("/d is not writable by you (uid {user}): ")),
            (ErrorKind::ReadOnlyFilesystem, Code::PermissionDenied, "/d is on a file system that is ".to_owned()),
            (ErrorKind::StorageFull, Code::InsufficientStorage, "the disk is full while locking /d".to_owned()),
            (ErrorKind::Other, Code::Internal, "internal error while locking /d".to_owned()),
        ] {
            let e = path_error("locking", Path::new("/d"))(kind.into());
            assert!(e.code == code && e.message.starts_with(&text), "{e}");
        }
    }

    #[test]
    fn what_is_ours_already_needs_another_mode_and_no_other_owner() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let said = |path: &Path| path_error("making", path)(ErrorKind::PermissionDenied.into()).message;
        assert!(said(&file).contains("(chown)"));
        std::fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        assert!(said(&file).ends_with(&format!("(chmod u+rw {})", file.display())));
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o500)).unwrap();
        assert!(said(dir.path()).ends_with(&format!("(chmod u+rwx {})", dir.path().display())));
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        let second = DirLock::acquire(dir.path()).unwrap_err();
        assert_eq!(second.code, Code::Conflict);
        assert_eq!(
            second.message,
            format!("another hoistway (pid {}) runs on {}", process::id(), dir.path().display())
        );
        drop(lock);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn free_space_is_told() {
        assert!(free_bytes(Path::new(".")).unwrap() > 0);
    }
}
