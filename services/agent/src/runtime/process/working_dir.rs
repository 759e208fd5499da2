//! The agent's working directory: a copy of its source, which is its own to change, new for each process.

use super::Program;
use super::rundir::RunDir;
use super::supervisor::Supervisor;
use crate::launcher::RunAs;
use crate::sandbox::size;
use hoistway_confine::copy_tree;
use std::path::PathBuf;

/// The largest source that an agent gets a copy of, at each start: it is copied within a start's time.
const MAX_COPY: copy_tree::Size = copy_tree::Size { bytes: 64 << 20, entries: 10_000 };

impl Supervisor {
    fn app_dir(&self) -> PathBuf {
        let Program::Unpacked { app_dir, .. } = &self.instance.program;
        app_dir.clone()
    }

    /// Whether the agent works in a copy of its source. It does, unless that is too large; then it reads it.
    pub(super) async fn copies_app(&self) -> bool {
        let app_dir = self.app_dir();
        let measured = tokio::task::spawn_blocking(move || copy_tree::size(&app_dir)).await;
        let Ok(Ok(found)) = measured else { return true };
        // Something must be left of what it may store.
        let disk = self.config.limits.disk.filter(|&disk| disk > 0 && self.sandbox.has_own_root());
        let most = disk.map_or(MAX_COPY.bytes, |disk| MAX_COPY.bytes.min(disk / 2));
        let fits = found.bytes <= most && found.entries <= MAX_COPY.entries;
        if !fits {
            let copy_tree::Size { bytes, entries } = found;
            let (most, most_entries) = (size(most), MAX_COPY.entries);
            let text = format!(
                "the working directory is read-only: the source has {entries} files with {} MiB, and up to {most_entries} with {most} are copied for an agent to change",
                bytes >> 20,
            );
            self.sink.remark(&text).await;
        }
        fits
    }

    /// Makes the agent's working directory, where its sandbox does not.
    pub(super) async fn renew_app(&self, dir: &RunDir, user: Option<RunAs>) -> std::io::Result<()> {
        if self.sandbox.has_own_root() {
            return Ok(());
        }
        let (dir, source, leftovers) = (dir.clone(), self.app_dir(), self.leftovers.clone());
        let made = tokio::task::spawn_blocking(move || dir.renew_app(&source, user, &leftovers)).await;
        made.map_err(std::io::Error::other).and_then(|made| made)
    }
}
