//! From requirements to a lock: the kept one, or a new one with the versions of the agent's former lock where they fit.

use super::STEP_LIMIT;
use crate::{
    log::BuildLog,
    python::{Lock, Target, Uv, is_unsatisfiable},
    store::{KeptLock, Store},
};
use hoistway_kit::telemetry::within;
use hoistway_model::{
    Error, Name, Result,
    source::{Requirement, Requirements},
};
use tracing::info_span;

/// What requirements came to.
pub(super) struct Resolution {
    pub lock: Lock,
    /// What is stored of it.
    pub keep: KeptLock,
    /// Whether it had been stored before.
    pub is_kept: bool,
    /// Whether versions may be those of an earlier deploy.
    pub has_former_versions: bool,
}

/// An earlier lock of the agent.
struct Former {
    requirements: Requirements,
    lock: Lock,
    is_for_target: bool,
}

/// The lock that was kept for these requirements, this Python and this platform, unless `refresh` asks for newer
/// versions. Otherwise they are resolved, and a former lock's versions are kept where they still fit: that of the same
/// requirements for another Python or platform, or else the agent's newest.
pub(super) async fn lock(
    agent: &Name,
    requirements: &Requirements,
    refresh: bool,
    uv: &Uv,
    target: &Target,
    store: &Store,
    log: &BuildLog,
) -> Result<Resolution> {
    let interpreter = target.identity();
    let stored = match refresh {
        true => None,
        false => match store.lock(agent, requirements, &interpreter).await? {
            None => store.newest_lock(agent).await?,
            found => found,
        },
    };
    let former = stored.and_then(|kept| Former::read(kept, &interpreter, agent));
    let (has_former_versions, is_kept) = (former.is_some(), former.as_ref().is_some_and(|f| f.is_of(requirements)));
    let lock = match former {
        Some(former) if is_kept => former.lock,
        former => {
            let resolving = info_span!("build.resolve", hoistway.build.requirements = requirements.iter().count());
            within(resolving, resolve(requirements, former, uv, target, log)).await?
        }
    };
    let keep = KeptLock { requirements: requirements.clone(), interpreter, text: lock.text().to_owned() };
    Ok(Resolution { lock, keep, is_kept, has_former_versions })
}

async fn resolve(
    requirements: &Requirements,
    former: Option<Former>,
    uv: &Uv,
    target: &Target,
    log: &BuildLog,
) -> Result<Lock> {
    if let Some(former) = &former
        && let Some(added) = former.added_in(requirements)
        && let Some(lock) = former.extended(&added, uv, target, log).await?
    {
        return Ok(lock);
    }
    log.write_line(format!("resolving {}", lines(requirements.iter())));
    let preferred = former.map(|former| {
        let what = match (former.is_for_target, target.wheels()) {
            (true, _) => "other requirements",
            (false, Some(_)) => "another Python or platform",
            (false, None) => "another Python",
        };
        log.write_line(format!("{what} than before: versions are kept where they still fit"));
        // Whoever changes a bound expects that the one of before does not bind any more.
        former.lock.without(&requirements.changed_bounds(&former.requirements))
    });
    uv.resolve(requirements, preferred.as_ref(), target, STEP_LIMIT, &|line| log.write_line(line)).await
}

impl Former {
    /// None, with a warning, if it cannot be read: a build can do without it.
    fn read(kept: KeptLock, interpreter: &str, agent: &Name) -> Option<Self> {
        let unread = |e: &Error| tracing::warn!("a lock of {agent} cannot be read, so versions may change: {e}");
        let lock = Lock::parse(&kept.text).inspect_err(unread).ok()?;
        Some(Self { requirements: kept.requirements, lock, is_for_target: kept.interpreter == interpreter })
    }

    /// Whether it is what these requirements come to.
    fn is_of(&self, requirements: &Requirements) -> bool {
        self.is_for_target && self.requirements == *requirements
    }

    /// What `requirements` have more, if that is all that has changed, and no package of the lock needs other files.
    fn added_in(&self, requirements: &Requirements) -> Option<Requirements> {
        let added = requirements.added_to(&self.requirements).filter(|_| self.is_for_target)?;
        let has = |name| self.lock.packages().iter().any(|(locked, _)| locked == name);
        let names_files = added.iter().any(|item| !item.hashes.is_empty() && has(&item.name));
        (!names_files).then_some(added)
    }

    /// The lock with what was added to its requirements, which is resolved by itself: the index is not asked about the
    /// others. None if it cannot be, or needs other versions of packages that are there.
    async fn extended(&self, added: &Requirements, uv: &Uv, target: &Target, log: &BuildLog) -> Result<Option<Lock>> {
        if added.is_empty() {
            log.write_line("the same requirements in another order: all packages keep their versions");
            return Ok(Some(self.lock.clone()));
        }
        log.write_line(format!("resolving {}: the other packages keep their versions", lines(added.iter())));
        let report = |line: &str| log.write_line(line);
        let (extended, why) = match uv.try_resolve(added, Some(&self.lock), target, STEP_LIMIT, &report).await {
            Ok(lock) => (self.lock.joined(&lock), "they need other versions of packages that are there"),
            // The others may allow what it needs: a pre-release, for example.
            Err(e) if is_unsatisfiable(&e) => (None, "that is not possible by themselves"),
            Err(e) => return Err(e),
        };
        if extended.is_none() {
            log.write_line(format!("{why}: all requirements are resolved together"));
        }
        Ok(extended)
    }
}

fn lines<'a>(requirements: impl Iterator<Item = &'a Requirement>) -> String {
    requirements.map(|requirement| requirement.line.as_str()).collect::<Vec<_>>().join(", ")
}
