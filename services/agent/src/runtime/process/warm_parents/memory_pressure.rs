//! The kernel's notices that programs wait for memory (pressure stall information) while little is left.

use std::fs::File;
use std::io::{Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A notice: some program has waited for 0.2 s of 2 s, in microseconds. Users other than root may have whole multiples of
/// two seconds only.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// The part of memory of which less is available when it is short.
const SHORT: u64 = 10;

/// The notices of the whole machine, at most one in two seconds.
#[derive(Debug)]
pub(super) struct MemoryPressure(AsyncFd<File>);

impl MemoryPressure {
    /// Fails where the kernel has none, or this user may not have them.
    pub fn open() -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let mut file = options.open("/proc/pressure/memory")?;
        file.write_all(TRIGGER)?;
        // Deprecated because a descriptor could be closed or exchanged meanwhile: this one is owned and never is.
        #[allow(deprecated)]
        let file = AsyncFd::with_interest(file, Interest::PRIORITY)?;
        Ok(Self(file))
    }

    /// Waits for the next notice that comes while memory is short: programs also wait where it is only moved.
    pub async fn rises(&self) -> Result<()> {
        loop {
            self.0.ready(Interest::PRIORITY).await?.clear_ready();
            let table = tokio::fs::read_to_string("/proc/meminfo").await?;
            let value = |name: &str| {
                let line = table.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim_matches([':', ' ', 'k', 'B']).parse::<u64>().ok()
            };
            let (all, available) = (value("MemTotal").unwrap_or(0), value("MemAvailable").unwrap_or(u64::MAX));
            if available < all / SHORT {
                return Ok(());
            }
        }
    }
}
