//! Which installation this is, among all that use a daemon.

use hoistway_kit::fs::load_or_create_private;
use hoistway_model::digest::Hasher;
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The file with what is random in an installation's id.
const FILE: &str = "docker-installation";
/// The number of hexadecimal digits of an id.
const DIGITS: usize = 24;

/// Makes the directory of sockets, empties it, and returns the installation's id and the directory's real path. A copy
/// of the data directory is another installation: it is at another path.
pub(super) fn open(data_dir: &Path, sockets: &Path) -> Result<(String, PathBuf)> {
    let make = |dir: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make(data_dir)?;
    let random = load_or_create_private(&data_dir.join(FILE), || Ok(Uuid::now_v7().to_string().into_bytes()));
    let random = random.map_err(Error::other)?;
    let mut hasher = Hasher::new();
    hasher.member(random.trim_ascii());
    hasher.member(data_dir.canonicalize()?.as_os_str().as_bytes());
    let mut id = hasher.finish().hex();
    id.truncate(DIGITS);

    let sockets = sockets.join(&id);
    match std::fs::remove_dir_all(&sockets) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => make(&sockets)?,
    }
    Ok((id, sockets.canonicalize()?))
}
