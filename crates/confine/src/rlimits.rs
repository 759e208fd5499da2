//! Limits that a process sets on itself and all that it starts.

use crate::spec::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Result;

/// Sets those of `limits` that are of one process.
pub fn limit(limits: &Limits) -> Result<()> {
    let rows = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, limits.open_files),
        (Resource::Nproc, limits.processes),
        (Resource::Fsize, limits.file_size),
        (Resource::Data, limits.data),
    ];
    for (resource, wanted) in rows {
        if let Some(wanted) = wanted {
            // Only root may go above the hard limit that was inherited.
            let value = getrlimit(resource).maximum.map_or(wanted, |most| most.min(wanted));
            setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
        }
    }
    Ok(())
}
