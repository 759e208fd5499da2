//! The file of authorities that agents trust: the system's and egress' own, which vouches for the hosts of tools.

use hoistway_kit::{egress_auth::ca_bundle, fs};
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::sync::OnceCell;

/// The file, made by each start of the service.
#[derive(Debug)]
pub(crate) struct CaBundle {
    /// The certificate of egress' authority. Egress makes it, perhaps after this service has started.
    authority: PathBuf,
    path: PathBuf,
    made: OnceCell<()>,
}

impl CaBundle {
    pub fn new(authority: PathBuf, path: PathBuf) -> Self {
        Self { authority, path, made: OnceCell::new() }
    }

    /// Makes the file, unless this start has made it. Without egress' authority there is none, so agents trust what
    /// their libraries do, and the next agent looks for it again. A file that was given to agents is never replaced:
    /// a sandbox opened that very one for them.
    pub async fn ensure(&self) {
        let make = async || {
            let (authority, path) = (self.authority.clone(), self.path.clone());
            let made = tokio::task::spawn_blocking(move || make(&authority, &path)).await;
            match made.map_err(io::Error::other).and_then(|made| made) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    let path = self.authority.display();
                    tracing::warn!(
                        "{path} is not there yet: agents cannot call tools over TLS before egress has started"
                    );
                    Err(())
                }
                Err(e) => {
                    tracing::error!("the authorities that agents trust cannot be written: {e}");
                    Err(())
                }
            }
        };
        // The next agent tries again.
        let _ = self.made.get_or_try_init(make).await;
    }
}

/// Whether egress' authority is there. Blocks.
fn make(authority: &Path, path: &Path) -> io::Result<bool> {
    let Some(certificate) = fs::read_if_there(authority)? else {
        // One of an earlier start may name an authority that is gone.
        return match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(false),
        };
    };
    let certificate = String::from_utf8(certificate).map_err(io::Error::other)?;
    fs::write_atomic(path, ca_bundle(&certificate).as_bytes(), 0o644)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_authority_is_in_it_once_egress_has_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, path) = (dir.path().join("ca.pem"), dir.path().join("bundle.pem"));
        let bundle = CaBundle::new(authority.clone(), path.clone());
        bundle.ensure().await;
        assert!(!path.exists());
        std::fs::write(&authority, "# of egress\n").unwrap();
        bundle.ensure().await;
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("# of egress\n"));
    }
}
