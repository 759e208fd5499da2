//! Users and capabilities.

use crate::spec::RunAs;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::io::Result;

/// An upper bound of capability numbers; a query beyond the kernel's last one is an error.
const CAPABILITIES: u32 = 64;

/// Switches to `user` and drops every capability permanently. These calls change one thread, and there is only one.
pub(crate) fn drop_all(user: Option<RunAs>) -> Result<()> {
    bound()?;
    if let Some(user) = user {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    keep_only(CapabilitySet::empty())
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

/// Empties the bounding set: no program executed from now on can have a capability, not even as root.
fn bound() -> Result<()> {
    for capability in (0..CAPABILITIES).map(|n| CapabilitySet::from_bits_retain(1 << n)) {
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
