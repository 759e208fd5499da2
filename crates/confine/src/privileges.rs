//! Users and capabilities.

use crate::spec::RunAs;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use std::io::Result;

/// An upper bound of capability numbers; a query beyond the kernel's last one is an error.
const CAPABILITIES: u32 = 64;

/// Switches to `user` and drops every capability but `kept` permanently, which executed programs have as well. These
/// calls change one thread, and there is only one.
pub(crate) fn switch(user: Option<RunAs>, kept: CapabilitySet) -> Result<()> {
    bound(kept)?;
    if let Some(user) = user {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    keep_only(kept)?;
    keep_over_exec(kept)
}

/// Has executed programs keep these capabilities, which those of a user other than root lose otherwise.
pub(crate) fn keep_over_exec(kept: CapabilitySet) -> Result<()> {
    if kept.is_empty() {
        return Ok(());
    }
    let now = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: kept, ..now })?;
    kept.iter().try_for_each(|capability| Ok(configure_capability_in_ambient_set(capability, true)?))
}

/// Drops every capability but these, which are kept only where we have them. Executed programs inherit none.
pub fn keep_only(kept: CapabilitySet) -> Result<()> {
    // Kernels before 4.3 have no ambient set.
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Leaves `kept` in the bounding set: no program executed from now on can have another capability, not even as root.
fn bound(kept: CapabilitySet) -> Result<()> {
    let all = (0..CAPABILITIES).map(|n| CapabilitySet::from_bits_retain(1 << n));
    for capability in all.filter(|&capability| !kept.contains(capability)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => break,
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // An ordinary user has no right to, and nothing to drop: no_new_privs preserves that.
            Err(Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
