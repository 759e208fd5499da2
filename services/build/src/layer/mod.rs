//! Image layers: deterministic tar archives in gzip.
//!
//! The same content gives the same bytes, on any machine and in any order of insertion: entries are sorted, owners,
//! modes and times are fixed, and the compressor works on pieces of a fixed size whatever the number of cores.

mod archive;
mod gzip;

use hoistway_kit::fs::{io_error, open_without_links};
use hoistway_model::{Code, Digest, Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The descriptor of a layer in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the compressed bytes: the blob's name in a registry.
    pub digest: Digest,
    /// Digest of the archive before compression: the layer's name in the image's configuration.
    pub diff_id: Digest,
    /// Compressed bytes.
    pub size: u64,
}

/// A file's bytes, or where they are.
#[derive(Debug, Clone)]
enum Content {
    Memory(Arc<[u8]>),
    Disk { path: PathBuf, size: u64 },
    Part(FilePart),
}

/// Bytes in a file on disk that make a file of a layer.
#[derive(Debug, Clone)]
pub struct FilePart {
    /// The file on disk.
    pub path: Arc<Path>,
    /// Where they begin in it.
    pub offset: u64,
    /// Their number.
    pub size: u64,
}

impl FilePart {
    /// Opens it for reading, see [`open_without_links`]. Blocks.
    pub fn open(&self) -> io::Result<impl Read> {
        let mut file = open_without_links(&self.path)?;
        file.seek(io::SeekFrom::Start(self.offset))?;
        Ok(file.take(self.size))
    }
}

#[derive(Debug, Clone)]
enum Entry {
    Directory,
    File { content: Content, executable: bool },
}

impl Entry {
    fn script_or_text(bytes: Arc<[u8]>) -> Self {
        let executable = bytes.starts_with(b"#!");
        Self::File { content: Content::Memory(bytes), executable }
    }
}

/// Collects entries and writes them as one layer. Parents come into being by themselves.
///
/// Everything here blocks: call it from `spawn_blocking`, but for layers of a few files in memory.
#[derive(Debug, Clone, Default)]
pub struct LayerBuilder {
    /// By path without the leading `/`; a parent sorts before its children.
    entries: BTreeMap<String, Entry>,
}

impl LayerBuilder {
    /// A layer without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; it may be there already.
    pub fn directory(&mut self, path: &str) -> Result<&mut Self> {
        self.insert(path, Entry::Directory)?;
        Ok(self)
    }

    /// Adds a file from memory.
    pub fn file(&mut self, path: &str, bytes: impl Into<Arc<[u8]>>) -> Result<&mut Self> {
        self.insert(path, Entry::File { content: Content::Memory(bytes.into()), executable: false })?;
        Ok(self)
    }

    /// Adds a file of a source, which comes without a mode: what names its interpreter (`#!`) is there to be started.
    pub fn source_file(&mut self, path: &str, bytes: impl Into<Arc<[u8]>>) -> Result<&mut Self> {
        self.insert(path, Entry::script_or_text(bytes.into()))?;
        Ok(self)
    }

    /// The same of a package's file: one that is there already is replaced, as by [`LayerBuilder::disk_file`].
    pub fn package_file(&mut self, path: &str, bytes: impl Into<Arc<[u8]>>) -> Result<&mut Self> {
        self.replace(path, Entry::script_or_text(bytes.into()))
    }

    /// Adds a file from disk, which keeps its executable bit and nothing else of its mode. One that is there already
    /// is replaced: so it is when two packages have the same file.
    pub fn disk_file(&mut self, path: &str, source: PathBuf) -> Result<&mut Self> {
        let meta = fs::symlink_metadata(&source).map_err(|e| Error::internal("reading a layer's files", e))?;
        if !meta.is_file() {
            return Err(Error::new(Code::BuildFailed, format!("\"{path}\" is not a file")));
        }
        let executable = is_executable(&meta);
        self.replace(path, Entry::File { content: Content::Disk { path: source, size: meta.len() }, executable })
    }

    /// Adds a file from a part of one on disk; one that is there already is replaced, as by [`LayerBuilder::disk_file`].
    pub fn part_of_file(&mut self, path: &str, part: FilePart) -> Result<&mut Self> {
        self.replace(path, Entry::File { content: Content::Part(part), executable: false })
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes the layer in large pieces and returns its description; several threads compress. `archive` gets the same
    /// without compression.
    pub fn write_to(&self, out: &mut (dyn io::Write + Send), archive: &mut dyn io::Write) -> Result<Layer> {
        let written = gzip::parallel(out, |sink| self.write_archive(&mut archive::Both(sink, archive)));
        written.map_err(io_error("writing a layer"))
    }

    /// The layer in memory, for small ones; the same bytes as [`LayerBuilder::write_to`].
    pub fn to_bytes(&self) -> Result<(Layer, Vec<u8>)> {
        gzip::serial(|sink| self.write_archive(sink)).map_err(|e| Error::internal("writing a layer", e))
    }

    fn write_archive(&self, out: &mut dyn io::Write) -> io::Result<()> {
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => archive::directory(out, path)?,
                Entry::File { content: Content::Memory(bytes), executable } => {
                    archive::file(out, path, *executable, bytes.len() as u64, &mut &bytes[..])?;
                }
                Entry::File { content: Content::Disk { path: source, size }, executable } => {
                    archive::file(out, path, *executable, *size, &mut open_without_links(source)?)?;
                }
                Entry::File { content: Content::Part(part), executable } => {
                    archive::file(out, path, *executable, part.size, &mut part.open()?)?;
                }
            }
        }
        archive::end(out)
    }

    /// Inserts a file in place of one that may be there.
    fn replace(&mut self, path: &str, file: Entry) -> Result<&mut Self> {
        let place = path.strip_prefix('/').unwrap_or(path);
        if let Some(Entry::File { .. }) = self.entries.get(place) {
            self.entries.remove(place);
        }
        self.insert(path, file)?;
        Ok(self)
    }

    fn insert(&mut self, path: &str, entry: Entry) -> Result<()> {
        let path = clean(path)?;
        for (at, _) in path.match_indices('/') {
            match self.entries.entry(path[..at].to_owned()).or_insert(Entry::Directory) {
                Entry::Directory => {}
                _ => return Err(twice(&path)),
            }
        }
        match (self.entries.get(&path), &entry) {
            (Some(Entry::Directory), Entry::Directory) => return Ok(()),
            (Some(_), _) => return Err(twice(&path)),
            (None, _) => {}
        }
        if !path.is_empty() {
            self.entries.insert(path, entry);
        }
        Ok(())
    }
}

fn twice(path: &str) -> Error {
    Error::new(Code::BuildFailed, format!("two files of the image have the path \"/{}\"", path.escape_debug()))
}

/// The path as an archive holds it: relative, without empty, `.` or `..` parts. One leading `/` is fine.
fn clean(path: &str) -> Result<String> {
    let relative = path.strip_prefix('/').unwrap_or(path);
    let fine = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if relative.is_empty() || relative.split('/').all(fine) {
        return Ok(relative.to_owned());
    }
    Err(Error::new(Code::BuildFailed, format!("\"{}\" is not a path for an image", path.escape_debug())))
}

#[cfg(unix)]
fn is_executable(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests;
