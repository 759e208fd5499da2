//! Resource limits that a process sets on itself and its descendants.

use crate::spec::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Result;

/// Sets the limits that apply to one process.
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
            // Only root may exceed the inherited hard limit.
            let value = getrlimit(resource).maximum.map_or(wanted, |most| most.min(wanted));
            setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
        }
    }
    Ok(())
}
