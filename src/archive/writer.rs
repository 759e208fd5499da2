//! Writing an archive.

use super::{
    About, Kind,
    contents::{CODE, CONTENTS, Contents, Hashed},
};
use hoistway_kit::{
    fs::{PRIVATE_FILE, fsync_dir},
    secrets::MasterKey,
    time::{now_ms, rfc3339},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use tar::{Builder, EntryType, Header};

/// Writes an archive to the new file `file`, or to standard output if that is `-`. `fill` adds its entries. With `key`
/// nobody else can change it. A file that cannot be completed is removed.
pub fn create(
    kind: &Kind,
    key: Option<&MasterKey>,
    file: &Path,
    fill: impl FnOnce(&mut Writer) -> io::Result<()>,
) -> io::Result<()> {
    if file == Path::new("-") {
        return write(kind, key, &mut io::stdout().lock(), fill);
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(file)?;
    let whole = write(kind, key, &mut new, fill).and_then(|()| new.sync_all()).and_then(|()| {
        let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty());
        fsync_dir(parent.unwrap_or(Path::new(".")))
    });
    // A partial archive is worse than none.
    whole.inspect_err(|_| drop(fs::remove_file(file)))
}

fn write(
    kind: &Kind,
    key: Option<&MasterKey>,
    to: &mut dyn Write,
    fill: impl FnOnce(&mut Writer) -> io::Result<()>,
) -> io::Result<()> {
    let tar = Builder::new(BufWriter::with_capacity(1 << 20, to));
    let mut writer = Writer { tar, contents: Contents::default() };
    let about =
        About { format: kind.format, hoistway: env!("CARGO_PKG_VERSION").to_owned(), created_at: rfc3339(now_ms()) };
    writer.append_bytes(kind.about, &serde_json::to_vec(&about)?)?;
    fill(&mut writer)?;
    writer.finish(key)
}

/// An archive that is being written, with the list of its entries so far.
pub struct Writer<'a> {
    tar: Builder<BufWriter<&'a mut dyn Write>>,
    contents: Contents,
}

impl Writer<'_> {
    /// Adds an entry.
    pub fn append_bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.append_from(name, bytes.len() as u64, bytes)
    }

    /// Adds a file, if it exists: nothing that was copied before needs a file that is removed meanwhile.
    pub fn append(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        self.append_from(name, file.metadata()?.len(), file)
    }

    fn append_from(&mut self, name: &str, size: u64, from: impl Read) -> io::Result<()> {
        // A file that has grown is cut to the size in its header; one that has shrunk is detected.
        let mut from = Hashed::new(from.take(size));
        self.tar.append_data(&mut header(size), name, &mut from)?;
        let (read, digest) = from.finish();
        if read != size {
            return Err(io::Error::other(format!("{name} became shorter while it was read")));
        }
        self.contents.add(name, size, digest);
        Ok(())
    }

    /// Adds the files below a directory, if it exists.
    pub fn append_tree(&mut self, dir: &Path, name: &str) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.append_tree(&entry.path(), &name)?;
            } else if kind.is_file() {
                self.append(&entry.path(), &name)?;
            }
        }
        Ok(())
    }

    /// Adds the list of entries, and its code.
    fn finish(mut self, key: Option<&MasterKey>) -> io::Result<()> {
        let list = serde_json::to_vec(&self.contents)?;
        self.tar.append_data(&mut header(list.len() as u64), CONTENTS, list.as_slice())?;
        if let Some(key) = key {
            let code = key.fingerprint(CONTENTS, &list).hex();
            self.tar.append_data(&mut header(code.len() as u64), CODE, code.as_bytes())?;
        }
        self.tar.into_inner()?.flush()
    }
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(PRIVATE_FILE);
    header.set_mtime(0);
    header
}
