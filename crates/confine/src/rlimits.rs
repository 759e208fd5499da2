//! Resource limits that a process sets on itself and its descendants.

use crate::spec::Limits;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::io::{Error, Result};

/// Sets the limits that apply to one process on this one.
pub fn limit(limits: &Limits) -> Result<()> {
    rows(limits).try_for_each(|(resource, wanted)| Ok(setrlimit(resource, lowered(getrlimit(resource), wanted))?))
}

/// Sets them on another process, which this one must have the right to.
pub fn limit_process(process: Pid, limits: &Limits) -> Result<()> {
    rows(limits).try_for_each(|(resource, wanted)| {
        let own = getrlimit(resource);
        prlimit(Some(process), resource, lowered(own, wanted)).map(drop).map_err(Error::from)
    })
}

fn rows(limits: &Limits) -> impl Iterator<Item = (Resource, u64)> {
    let rows = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, limits.open_files),
        (Resource::Nproc, limits.processes),
        (Resource::Fsize, limits.file_size),
        (Resource::Data, limits.data),
    ];
    rows.into_iter().filter_map(|(resource, wanted)| Some((resource, wanted?)))
}

/// Only root may exceed the inherited hard limit.
fn lowered(inherited: Rlimit, wanted: u64) -> Rlimit {
    let value = inherited.maximum.map_or(wanted, |most| most.min(wanted));
    Rlimit { current: Some(value), maximum: Some(value) }
}
