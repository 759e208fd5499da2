//! Unpacking a layer. Its bytes are hostile: nothing leaves the directory, nothing is a device, everything is bounded,
//! and both digests must come out as promised.

use flate2::read::MultiGzDecoder;
use hoistway_model::{Digest, digest::Hasher};
use std::{
    cell::Cell,
    collections::HashSet,
    fs::{DirBuilder, OpenOptions, Permissions},
    io::{self, ErrorKind, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Component, Path, PathBuf},
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};
use tar::{Archive, Entry, EntryType};

/// The most bytes of headers between two files, long names included.
const MAX_HEADER: u64 = 1024 * 1024;
/// A block of tar, to which everything is padded.
const BLOCK: u64 = 512;
/// Marks what a layer removes of lower ones.
const WHITEOUT: &str = ".wh.";

/// The size limits of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes, unpacked.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 8 << 30, entries: 500_000 }
    }
}

/// The expected digests and size of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The digest of the bytes as they are sent.
    pub blob: Digest,
    /// The digest of the archive inside.
    pub diff_id: Digest,
    /// Whether the archive is compressed.
    pub gzip: bool,
}

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The bytes could not be read to the end, or are not those that were promised. Another try may get them.
    #[error("{0}")]
    Transfer(String),
    /// The archive holds what no layer of ours does.
    #[error("{0}")]
    Refused(String),
    /// This machine could not write it.
    #[error(transparent)]
    Disk(io::Error),
}

impl From<io::Error> for Unreadable {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            ErrorKind::InvalidFilename | ErrorKind::InvalidInput => {
                Self::Refused("the layer holds a name that this machine cannot have".to_owned())
            }
            _ => Self::Disk(e),
        }
    }
}

type Result<T, E = Unreadable> = std::result::Result<T, E>;

/// Unpacks a layer into the empty directory `dir`, and makes everything in it read-only but for `dir` itself. Blocks.
pub fn unpack(blob: impl Read, dir: &Path, expected: Expected, bounds: Bounds) -> Result<()> {
    let blob = Tally::new(blob, u64::MAX);
    if expected.gzip {
        let archive = Tally::new(MultiGzDecoder::new(blob), bounds.bytes);
        let (gzip, diff_id) = extract(archive, dir, bounds)?;
        // The decoder may stop before the last bytes; they belong to the digest.
        check("layer", expected.blob, gzip.into_inner().finish()?.1)?;
        check("archive in the layer", expected.diff_id, diff_id)
    } else {
        let (blob, diff_id) = extract(Tally::new(blob, bounds.bytes), dir, bounds)?;
        check("layer", expected.blob, blob.finish()?.1)?;
        check("archive in the layer", expected.diff_id, diff_id)
    }
}

/// Unpacks an archive that is not compressed, under the same rules; its digest. Blocks.
pub(super) fn unpack_archive(archive: impl Read, dir: &Path, bounds: Bounds) -> Result<Digest> {
    Ok(extract(Tally::new(archive, bounds.bytes), dir, bounds)?.1)
}

fn check(what: &str, expected: Digest, actual: Digest) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    Err(Unreadable::Transfer(format!("the {what} is {actual}, and should be {expected}")))
}

/// Reads the whole archive; gives its reader and its digest back.
fn extract<R: Read>(reader: Tally<R>, dir: &Path, bounds: Bounds) -> Result<(R, Digest)> {
    let allowance = Rc::clone(&reader.allowance);
    let mut archive = Archive::new(reader);
    let mut tree = Tree { root: dir, made: HashSet::new(), links: Vec::new() };
    {
        let mut entries = archive.entries().map_err(transfer)?;
        let mut count = 0;
        loop {
            allowance.set(MAX_HEADER);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(transfer)?;
            count += 1;
            if count > bounds.entries {
                return Err(Unreadable::Refused(format!("the layer has more than {} entries", bounds.entries)));
            }
            allowance.set(entry.size().saturating_add(BLOCK));
            tree.add(&mut entry)?;
        }
    }
    tree.link()?;
    seal(dir, true)?;
    let reader = archive.into_inner();
    reader.allowance.set(u64::MAX);
    reader.finish()
}

/// An error while reading an archive is about its bytes: too many, or not those that were meant.
fn transfer(e: io::Error) -> Unreadable {
    match e.kind() {
        ErrorKind::FileTooLarge => Unreadable::Refused(format!("the layer: {e}")),
        _ => Unreadable::Transfer(format!("the layer: {e}")),
    }
}

/// A directory being filled. Parents of every entry are real directories, never links, so a path of ordinary
/// components stays inside; links are made last, so nothing is written through one.
struct Tree<'a> {
    root: &'a Path,
    made: HashSet<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
}

impl Tree<'_> {
    fn add<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let name = entry.path().map_err(transfer)?.into_owned();
        let refused = |why: &str| Unreadable::Refused(format!("the layer holds {}: {why}", name.display()));
        let inside = inside(&name).ok_or_else(|| refused("not a path inside it"))?;
        if inside.file_name().is_some_and(|n| n.to_string_lossy().starts_with(WHITEOUT)) {
            return Err(refused("it removes files of lower layers"));
        }
        let path = self.root.join(&inside);
        match entry.header().entry_type() {
            EntryType::Directory => self.directory(&inside),
            EntryType::Regular | EntryType::Continuous => {
                self.directory(parent(&inside))?;
                let executable = entry.header().mode().unwrap_or(0) & 0o111 != 0;
                let mode = if executable { 0o555 } else { 0o444 };
                let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                    Ok(file) => file,
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(refused("it is there twice")),
                    Err(e) => return Err(e.into()),
                };
                let size = entry.size();
                let written = copy(entry, &mut file)?;
                if written != size {
                    return Err(Unreadable::Transfer("the layer ends in the middle of a file".to_owned()));
                }
                let modified = UNIX_EPOCH.checked_add(Duration::from_secs(entry.header().mtime().unwrap_or(0)));
                file.set_modified(modified.unwrap_or(UNIX_EPOCH))?;
                Ok(file.set_permissions(Permissions::from_mode(mode))?)
            }
            EntryType::Symlink => {
                let target = entry.link_name().map_err(transfer)?.ok_or_else(|| refused("a link to nothing"))?;
                let depth = inside.components().count().saturating_sub(1);
                if !stays_inside(&target, depth) {
                    return Err(refused("a link out of it"));
                }
                self.links.push((inside, target.into_owned()));
                Ok(())
            }
            EntryType::XGlobalHeader => Ok(()),
            _ => Err(refused("neither a file, a directory nor a symbolic link")),
        }
    }

    /// Makes a directory and its parents; whatever is there must be one already.
    fn directory(&mut self, inside: &Path) -> Result<()> {
        if self.made.contains(inside) {
            return Ok(());
        }
        let mut path = self.root.to_owned();
        for component in inside.components() {
            path.push(component);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists && path.symlink_metadata()?.is_dir() => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    return Err(Unreadable::Refused(format!("the layer holds {} twice", inside.display())));
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.made.insert(inside.to_owned());
        Ok(())
    }

    fn link(mut self) -> Result<()> {
        for (inside, target) in &std::mem::take(&mut self.links) {
            self.directory(parent(inside))?;
            match symlink(target, self.root.join(inside)) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    return Err(Unreadable::Refused(format!("the layer holds {} twice", inside.display())));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Copies a file's bytes; a failure to read is the transfer's, a failure to write the disk's.
fn copy(from: &mut impl Read, to: &mut impl io::Write) -> Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(n) => {
                to.write_all(&buffer[..n])?;
                copied += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(transfer(e)),
        }
    }
}

/// The path as ordinary components below the root, or nothing when it is none.
fn inside(name: &Path) -> Option<PathBuf> {
    if name.as_os_str().as_bytes().contains(&0) {
        return None;
    }
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// Whether a link in a directory `depth` below the root cannot lead out of it. A `..` after an ordinary component is
/// refused: that component may itself be a link, and then `..` is somewhere else than it looks.
fn stays_inside(target: &Path, depth: usize) -> bool {
    let mut up = 0;
    let mut down = false;
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if !down => up += 1,
            Component::Normal(_) => down = true,
            _ => return false,
        }
    }
    up <= depth
}

fn parent(inside: &Path) -> &Path {
    inside.parent().unwrap_or(Path::new(""))
}

/// Makes every directory below `dir` read-only. The top stays writable so that it can still be moved.
pub(super) fn seal(dir: &Path, top: bool) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            seal(&entry.path(), false)?;
        }
    }
    if top { Ok(()) } else { std::fs::set_permissions(dir, Permissions::from_mode(0o555)) }
}

/// A reader that hashes what passes, ends with an error at its limit, and reads no more than it is allowed at the
/// moment.
struct Tally<R> {
    reader: R,
    hasher: Hasher,
    left: u64,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Tally<R> {
    fn new(reader: R, limit: u64) -> Self {
        Self { reader, hasher: Hasher::new(), left: limit, allowance: Rc::new(Cell::new(u64::MAX)) }
    }

    /// Reads the rest.
    fn finish(mut self) -> Result<(R, Digest)> {
        copy(&mut self, &mut io::sink())?;
        Ok((self.reader, self.hasher.finish()))
    }
}

impl<R: Read> Read for Tally<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        let take = |left: u64, why: &str| {
            left.checked_sub(n as u64).ok_or_else(|| io::Error::new(ErrorKind::FileTooLarge, why))
        };
        self.left = take(self.left, "it is too large")?;
        let allowance = self.allowance.get();
        if allowance != u64::MAX {
            self.allowance.set(take(allowance, "a name in it is too long")?);
        }
        Ok(n)
    }
}
