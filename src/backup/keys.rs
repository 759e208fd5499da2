//! The master keys that a backup needs: a rotation may begin or end while the databases are copied.

use hoistway_kit::{fs::read_if_there, secrets::MasterKey};
use hoistway_model::{Code, Error, Result};
use std::path::PathBuf;

/// The maximum number of copies of a database when the keys change meanwhile.
const TRIES: usize = 5;

/// The versions of the key file observed while the databases were copied, oldest first.
pub(super) struct Keys {
    file: PathBuf,
    seen: Vec<Vec<u8>>,
}

impl Keys {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, seen: Vec::new() }
    }

    /// Copies a database, and repeats this until the keys are the same before and after it. These are then the keys
    /// that it was sealed with, since no two versions of the file are ever the same.
    pub(super) async fn while_copying(&mut self, mut copy: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let mut before = self.read()?;
        for _ in 0..TRIES {
            copy().await?;
            let after = self.read()?;
            if after == before {
                if self.seen.last() != Some(&after) {
                    self.seen.push(after);
                }
                return Ok(());
            }
            before = after;
        }
        Err(Error::new(Code::Conflict, "the master key is being rotated: try again when that has ended"))
    }

    /// Returns a key file that opens every copy.
    pub(super) fn all(mut self) -> Result<Vec<u8>> {
        // Without a database there is nothing to open yet.
        if self.seen.is_empty() {
            self.seen.push(self.read()?);
        }
        MasterKey::union(&self.seen)
    }

    fn read(&self) -> Result<Vec<u8>> {
        let read = read_if_there(&self.file).map_err(|e| Error::internal("reading the master key", e))?;
        read.ok_or_else(|| Error::new(Code::NotFound, format!("{} has gone away", self.file.display())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_was_copied_before_and_after_a_rotation_opens() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("master.key");
        MasterKey::load_or_create(&file).unwrap();
        let mut keys = Keys::new(file.clone());
        let mut sealed = Vec::new();
        let seal = || MasterKey::load_or_create(&file).unwrap().seal("c", b"x").unwrap();
        keys.while_copying(async || {
            sealed.push(seal());
            Ok(())
        })
        .await
        .unwrap();
        MasterKey::rotate(&file).unwrap();
        MasterKey::drop_old(&file, None).unwrap();
        // The next rotation happens while the second one is copied.
        let mut copies = 0;
        keys.while_copying(async || {
            copies += 1;
            let copy = seal();
            if copies == 1 {
                MasterKey::rotate(&file)?;
                MasterKey::drop_old(&file, None)?;
            } else {
                sealed.push(copy);
            }
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!((copies, sealed.len()), (2, 2));
        std::fs::write(&file, keys.all().unwrap()).unwrap();
        let all = MasterKey::load_or_create(&file).unwrap();
        assert!(sealed.iter().all(|sealed| all.open("c", sealed).unwrap() == b"x"));

        let mut keys = Keys::new(file.clone());
        let always = keys.while_copying(async || {
            MasterKey::rotate(&file)?;
            MasterKey::drop_old(&file, None).map(drop)
        });
        assert_eq!(always.await.unwrap_err().code, Code::Conflict);
    }
}
