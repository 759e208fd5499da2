//! The files of one upload: `uploads/ID` has its bytes, `uploads/ID.repo` the repository that it is for. Everything in
//! here blocks.

use super::name::RepoName;
use hoistway_model::digest::Hasher;
use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};
use tempfile::TempPath;
use uuid::Uuid;

/// The end of the second file's name.
const NOTE: &str = "repo";

/// The files of one upload.
#[derive(Debug)]
pub(super) struct UploadFiles {
    data: PathBuf,
    note: PathBuf,
}

impl UploadFiles {
    fn of(dir: &Path, id: Uuid) -> Self {
        let data = dir.join(id.to_string());
        Self { note: data.with_extension(NOTE), data }
    }

    /// Makes the files of a new upload.
    pub(super) fn create(dir: &Path, id: Uuid, repo: &RepoName) -> io::Result<Self> {
        let files = Self::of(dir, id);
        // The line's end tells a whole note from one that was cut off.
        std::fs::write(&files.note, format!("{repo}\n"))?;
        Ok(files)
    }

    /// The uploads below `dir`. Files that are none's are removed.
    pub(super) fn find(dir: &Path) -> io::Result<HashMap<Uuid, (RepoName, Self)>> {
        let mut found = HashMap::new();
        let mut others = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Uuid>().ok());
            match id {
                Some(id) if path.extension().is_some_and(|extension| extension == NOTE) => {
                    let repo = std::fs::read_to_string(&path)?;
                    match repo.strip_suffix('\n').map(str::parse::<RepoName>) {
                        Some(Ok(repo)) => drop(found.insert(id, (repo, Self::of(dir, id)))),
                        _ => others.push((None, path)),
                    }
                }
                id => others.push((id, path)),
            }
        }
        for (id, path) in others {
            let is_data = id.and_then(|id| found.get(&id)).is_some_and(|(_, files)| files.data == path);
            if !is_data {
                std::fs::remove_file(path)?;
            }
        }
        Ok(found)
    }

    /// The file with the bytes; it may not be there yet.
    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// The number of bytes that were received, and the time of the last write.
    pub(super) fn measure(&self) -> (u64, SystemTime) {
        let data = std::fs::metadata(&self.data).map(|m| (m.len(), m.modified()));
        let (len, touched) = data.unwrap_or_else(|_| (0, std::fs::metadata(&self.note).and_then(|m| m.modified())));
        (len, touched.unwrap_or_else(|_| SystemTime::now()))
    }

    /// The file with the bytes as one that goes away unless it is stored.
    pub(super) fn take(self) -> io::Result<TempPath> {
        // An upload that nothing was sent to has no file.
        File::options().append(true).create(true).open(&self.data)?;
        let data = TempPath::try_from_path(self.data)?;
        std::fs::remove_file(self.note)?;
        Ok(data)
    }

    /// Removes both.
    pub(super) fn remove(self) {
        for path in [self.note, self.data] {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    tracing::warn!("an upload's file could not be removed: {e}");
                }
                _ => {}
            }
        }
    }
}

/// The hash of the first `len` bytes of a file.
pub(super) fn hash(path: &Path, len: u64) -> io::Result<Hasher> {
    let mut hasher = Hasher::new();
    if len == 0 {
        return Ok(hasher);
    }
    let (mut file, mut left, mut buffer) = (File::open(path)?, len, vec![0; 256 << 10]);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..want]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                left -= n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(hasher)
}
