//! Landlock rules: the files that an agent may open, and on kernels that support it, its TCP ports, signals and
//! abstract sockets.

use crate::spec::{Access as Wanted, Confinement, Exposed};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use crate::rootfs;

/// The first ABI that limits TCP.
pub const TCP: i32 = 4;
/// The first ABI that limits signals and abstract Unix sockets.
pub const SCOPES: i32 = 6;
/// The first ABI that limits truncation.
pub const TRUNCATE: i32 = 3;
/// The first ABI that limits connecting to Unix sockets in the file system.
pub const UNIX: i32 = 9;

/// Prints the ABI of this kernel, 0 for none, after restricting this very process with it.
pub fn print_abi() -> Result<()> {
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1)).map_err(Error::other)?;
    let status = ruleset.create().and_then(RulesetCreated::restrict_self).map_err(Error::other)?;
    let abi = match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, LandlockStatus::Available { effective_abi, .. }) => effective_abi as i32,
        _ => 0,
    };
    println!("{abi}");
    Ok(())
}

/// Prepares the rules of `confinement` with the rights of ABI `abi`, all of which the kernel must support.
pub(crate) fn prepare(abi: i32, confinement: &Confinement) -> Result<RulesetCreated> {
    let version = ABI::from(abi);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(version))
        .map_err(Error::other)?;
    let mut ruleset =
        if abi >= SCOPES { ruleset.scope(Scope::from_all(version)).map_err(Error::other)? } else { ruleset };
    let limits_tcp = confinement.only_port.is_some() && abi >= TCP;
    if limits_tcp {
        ruleset = ruleset.handle_access(AccessNet::from_all(version)).map_err(Error::other)?;
    }
    let mut rules = ruleset.create().map_err(Error::other)?;
    if let Some(port) = confinement.only_port.filter(|_| limits_tcp) {
        rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(Error::other)?;
    }
    let add = |rules: RulesetCreated, path: &Path, wanted: Wanted| add(rules, version, path, wanted);
    if confinement.namespaces.is_some() {
        // The root contains only what may be read.
        rules = add(rules, Path::new("/"), Wanted::Read)?;
        for path in [rootfs::HOME, rootfs::TMP, rootfs::SHM] {
            rules = add(rules, Path::new(path), Wanted::Write)?;
        }
        for device in rootfs::DEVICES {
            rules = add(rules, Path::new(device), Wanted::Device)?;
        }
    }
    for Exposed { inside, access, .. } in &confinement.exposed {
        let covered =
            confinement.namespaces.is_some() && !matches!(access, Wanted::Write | Wanted::Copy | Wanted::Device);
        if !covered && *access != Wanted::Link {
            rules = add(rules, inside, *access)?;
        }
    }
    Ok(rules)
}

fn add(rules: RulesetCreated, version: ABI, path: &Path, wanted: Wanted) -> Result<RulesetCreated> {
    let naming = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    let is_dir = match std::fs::metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(error) if error.kind() == ErrorKind::NotFound && wanted == Wanted::ReadIfThere => return Ok(rules),
        Err(error) => return Err(naming(error)),
    };
    let all = AccessFs::from_all(version);
    let mut rights: BitFlags<AccessFs> = match wanted {
        Wanted::Read | Wanted::ReadIfThere | Wanted::Link => AccessFs::from_read(version),
        Wanted::Write | Wanted::Copy => all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev),
        Wanted::Device => all & (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev),
    };
    if !is_dir {
        rights &= AccessFs::from_file(version);
    }
    let opened = PathFd::new(path).map_err(|error| naming(Error::other(error)))?;
    rules.add_rule(PathBeneath::new(opened, rights)).map_err(|error| naming(Error::other(error)))
}

/// Restricts this process and all its descendants permanently.
pub(crate) fn restrict(rules: RulesetCreated) -> Result<()> {
    let status = rules.restrict_self().map_err(Error::other)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        other => Err(Error::other(format!("not enforced as asked: {other:?}"))),
    }
}
