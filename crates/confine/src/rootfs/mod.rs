//! A root directory of the agent's own: exposed parts are bind-mounted read-only; writable parts are in memory and
//! bounded; nothing else exists.

mod etc;

use super::copy_tree;
use crate::spec::{Access, Exposed, Namespaces, RunAs};
use rustix::fs::{CWD, Gid, Mode, Uid};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind_recursive,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::pivot_root;
use std::ffi::CString;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// The agent's `HOME` in a root of its own.
pub const HOME: &str = "/home/agent";
/// Its `TMPDIR`.
pub const TMP: &str = "/tmp";
/// The directory of POSIX semaphores and shared memory.
pub const SHM: &str = "/dev/shm";
/// Devices that are part of every system.
pub const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
];
/// The most files, directories and links that the agent may create, each of which uses kernel memory.
const SCRATCH_INODES: u32 = 262_144;
/// The flags of `/proc`.
pub(crate) const PROC_FLAGS: MountFlags = QUIET.union(MountFlags::NOEXEC);
const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// A directory for a copy in an agent's writable file system, which is mounted nowhere yet: nobody but whoever has this
/// descriptor can reach it.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Takes the descriptor of one.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The path of the directory for this process. It is not that of a link, which would be changed in its place.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/.", self.0.as_raw_fd()).into()
    }

    /// Mounts it on a directory of the present mount namespace, which may be another one than that in which it was made. No
    /// path is resolved there. The kernel locks neither this mount nor its flags: a process with rights over the namespace
    /// could change them.
    pub fn mount_on(&self, directory: impl AsFd) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&self.0, c"", directory, c"", flags)?)
    }
}

/// When the parts are copied of which the agent gets a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    Now,
    /// By somebody who has the returned directories, and mounts them.
    Later,
}

/// Builds the root and moves there, with every process of this mount namespace. Returns directories for the copies that
/// are made later, in their order.
pub(crate) fn enter(
    plan: &Namespaces,
    exposed: &[Exposed],
    user: Option<RunAs>,
    when: Copies,
) -> Result<Vec<Detached>> {
    let at = |what: &str| {
        let what = what.to_owned();
        move |error: Error| Error::new(error.kind(), format!("{what}: {error}"))
    };
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| at("making mounts private")(e.into()))?;
    let root = plan.root.as_path();
    memory(root, "mode=755,size=4m,nr_inodes=16k").map_err(at("the new root"))?;
    // Before any bind mount: the machine's own files must not be written to.
    etc::write(root, plan.network.as_ref(), user).map_err(at("/etc"))?;
    let exposed: Vec<&Exposed> =
        exposed.iter().filter(|part| plan.network.is_none() || !etc::is_of_resolver(&part.inside)).collect();
    let in_scratch = |part: &&&Exposed| [HOME, TMP, SHM].iter().any(|dir| part.inside.starts_with(dir));
    let (copies, exposed): (Vec<&Exposed>, Vec<&Exposed>) =
        exposed.into_iter().partition(|part| part.access == Access::Copy);
    for part in exposed.iter().filter(|part| !in_scratch(part)) {
        expose(root, root, part).map_err(at(&part.inside.display().to_string()))?;
    }
    devices(root).map_err(at("/dev"))?;
    let (scratch, detached) = scratch(root, plan.disk, user, &copies, when).map_err(at("what the agent may write"))?;
    for part in exposed.iter().filter(in_scratch) {
        expose(root, &below(root, Path::new(TMP)), part).map_err(at(&part.inside.display().to_string()))?;
    }
    let writable = exposed.iter().filter(|part| part.access == Access::Write).map(|part| below(root, &part.inside));
    let writable: Vec<PathBuf> = writable.chain(scratch).collect();
    let proc = root.join("proc");
    directory(&proc)?;
    // Before the mounts become read-only: that step must not change it.
    mount("proc", &proc, "proc", PROC_FLAGS, None).map_err(|e| at("/proc")(e.into()))?;
    read_only(root, &writable).map_err(at("making mounts read-only"))?;

    std::env::set_current_dir(root)?;
    pivot_root(".", ".").map_err(|e| at("changing the root")(e.into()))?;
    unmount(".", UnmountFlags::DETACH).map_err(|e| at("leaving the old root")(e.into()))?;
    std::env::set_current_dir("/")?;
    Ok(detached)
}

fn memory(at: &Path, options: &str) -> Result<()> {
    let options = CString::new(options)?;
    Ok(mount("tmpfs", at, "tmpfs", QUIET, options.as_c_str())?)
}

pub(crate) fn directory(at: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(at)
}

/// Creates the missing directories above a path of the new root.
fn directories(root: &Path, own: &Path, inside: &Path) -> Result<()> {
    let Some(parent) = below(root, inside).parent().map(Path::to_owned) else { return Ok(()) };
    let missing: Vec<&Path> = parent.ancestors().take_while(|dir| !dir.exists()).collect();
    let device = |dir: &Path| fs::metadata(dir).map(|meta| meta.dev());
    if let Some(above) = missing.last().and_then(|first| first.parent())
        && device(above)? != device(own)?
    {
        return Err(Error::other("it lies within another part"));
    }
    directory(&parent)
}

/// Returns the current location of an absolute path of the new root while it is built.
fn below(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// Binds a part. Mount points are created in the file system of `own`, which is the agent's, and never in a part of the
/// machine that is bound already.
fn expose(root: &Path, own: &Path, part: &Exposed) -> Result<()> {
    let target = below(root, &part.inside);
    directories(root, own, &part.inside)?;
    let made = |target: &Path| match target.parent().map(fs::metadata) {
        Some(Ok(parent)) if parent.dev() == fs::metadata(own)?.dev() => Ok(()),
        _ => Err(Error::other("it lies within another part")),
    };
    if part.access == Access::Link {
        made(&target)?;
        return symlink(&part.host, target);
    }
    let is_dir = match fs::metadata(&part.host) {
        Ok(meta) => meta.is_dir(),
        Err(error) if error.kind() == ErrorKind::NotFound && part.access == Access::ReadIfThere => return Ok(()),
        Err(error) => return Err(error),
    };
    if !target.exists() {
        made(&target)?;
        if is_dir { directory(&target)? } else { drop(fs::File::create(&target)?) }
    }
    Ok(mount_bind_recursive(&part.host, &target)?)
}

fn devices(root: &Path) -> Result<()> {
    directory(&root.join("dev"))?;
    for device in DEVICES {
        let target = below(root, Path::new(device));
        fs::File::create(&target)?;
        mount_bind_recursive(device, &target)?;
    }
    LINKS.iter().try_for_each(|(to, link)| symlink(to, root.join(link)))
}

/// Mounts one file system in memory for all writable directories of the agent, so that there is one limit. Returns its
/// mounts, and the directories for later copies.
fn scratch(
    root: &Path,
    disk: Option<u64>,
    user: Option<RunAs>,
    copies: &[&Exposed],
    when: Copies,
) -> Result<(Vec<PathBuf>, Vec<Detached>)> {
    let whole = root.join("scratch");
    directory(&whole)?;
    let size = disk.map_or(String::new(), |bytes| format!(",size={bytes}"));
    memory(&whole, &format!("mode=700,nr_inodes={SCRATCH_INODES}{size}"))?;
    let mut mounts = Vec::new();
    let mut bind = |part: &Path, inside: &Path| -> Result<()> {
        let target = below(root, inside);
        directory(&target)?;
        mount_bind_recursive(part, &target)?;
        mounts.push(target);
        Ok(())
    };
    for (name, inside, mode) in [("home", HOME, 0o700), ("tmp", TMP, 0o1777), ("shm", SHM, 0o1777)] {
        let part = whole.join(name);
        fs::create_dir(&part)?;
        rustix::fs::chmod(&part, Mode::from_raw_mode(mode))?;
        if let Some(user) = user {
            rustix::fs::chown(&part, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
        }
        bind(&part, Path::new(inside))?;
    }
    let mut detached = Vec::new();
    for (number, copied) in copies.iter().enumerate() {
        let part = whole.join(format!("copy-{number}"));
        let made = match when {
            Copies::Now => copy_tree::copy(&copied.host, &part, user).and_then(|()| bind(&part, &copied.inside)),
            Copies::Later => detach(&part, &below(root, &copied.inside)).map(|part| detached.push(part)),
        };
        made.map_err(|e| Error::new(e.kind(), format!("{}: {e}", copied.inside.display())))?;
    }
    // The bind mounts keep it alive.
    unmount(&whole, UnmountFlags::DETACH)?;
    fs::remove_dir(whole)?;
    Ok((mounts, detached))
}

/// Makes a directory, and the one where it will be mounted.
fn detach(part: &Path, target: &Path) -> Result<Detached> {
    fs::DirBuilder::new().mode(0o700).create(part)?;
    directory(target)?;
    Ok(Detached(open_tree(CWD, part, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?))
}

/// Makes every mount in the new root read-only but the writable ones, and all of them nosuid and nodev, including
/// submounts.
fn read_only(root: &Path, writable: &[PathBuf]) -> Result<()> {
    let table = fs::read("/proc/self/mountinfo")?;
    for line in table.split(|&b| b == b'\n') {
        let Some((point, mut flags)) = mount_point(line) else { continue };
        let Ok(inside) = point.strip_prefix(root) else { continue };
        if inside == Path::new("proc") {
            continue;
        }
        flags |= MountFlags::NOSUID | MountFlags::BIND;
        let device = DEVICES.iter().any(|device| below(root, Path::new(device)) == point);
        if device {
            flags |= MountFlags::NOEXEC;
        } else {
            flags |= MountFlags::NODEV;
            if !writable.contains(&point) {
                flags |= MountFlags::RDONLY;
            }
        }
        match mount_remount(&point, flags, "") {
            Ok(()) => {}
            Err(error) => {
                return Err(Error::new(Error::from(error).kind(), format!("{}: {error}", point.display())));
            }
        }
    }
    Ok(())
}

/// Parses the mount point in a line of `mountinfo`, and the mount's flags, which a remount must preserve.
fn mount_point(line: &[u8]) -> Option<(PathBuf, MountFlags)> {
    let mut fields = line.split(|&b| b == b' ').skip(4);
    let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.next()?)));
    let mut flags = MountFlags::empty();
    for option in fields.next()?.split(|&b| b == b',') {
        flags |= match option {
            b"ro" => MountFlags::RDONLY,
            b"nosuid" => MountFlags::NOSUID,
            b"nodev" => MountFlags::NODEV,
            b"noexec" => MountFlags::NOEXEC,
            b"noatime" => MountFlags::NOATIME,
            b"nodiratime" => MountFlags::NODIRATIME,
            b"relatime" => MountFlags::RELATIME,
            _ => MountFlags::empty(),
        };
    }
    Some((point, flags))
}

/// Decodes spaces, tabs, newlines and backslashes, which are escaped as `\ooo`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal.filter(|_| byte == b'\\') {
            Some(escaped) => {
                out.push(escaped);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mounts_are_read_from_the_table() {
        let line = br"84 58 254:0 /x /mnt/with\040space\134s rw,nosuid,noatime master:1 - ext4 /dev/vda rw,discard";
        let (point, flags) = mount_point(line).unwrap();
        assert_eq!(point, Path::new(r"/mnt/with space\s"));
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::NOATIME);
        assert_eq!(mount_point(b""), None);
    }
}
