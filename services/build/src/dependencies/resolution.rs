//! From requirements to a lock: the kept one, or a new one with the versions of the agent's former lock where they fit.

use super::STEP_LIMIT;
use crate::{
    log::BuildLog,
    python::{Lock, Target, Uv},
    store::{KeptLock, Store},
};
use hoistway_kit::telemetry::within;
use hoistway_model::{
    Name, Result,
    source::{Requirement, Requirements},
};
use std::sync::{Mutex, PoisonError};
use tracing::info_span;

/// What requirements came to.
pub(super) struct Resolution {
    pub lock: Lock,
    /// What is stored of it.
    pub keep: KeptLock,
    /// Whether it had been stored before.
    pub is_kept: bool,
}

/// The lock that was kept for these requirements, this Python and this platform, unless `refresh` asks for newer
/// versions. Otherwise they are resolved, and a former lock's versions are kept where they still fit: that of the same
/// requirements for another Python or platform, or else the agent's newest.
pub(super) async fn lock(
    agent: &Name,
    requirements: &Requirements,
    refresh: bool,
    uv: &Uv,
    (target, store, log): (&Target, &Store, &BuildLog),
) -> Result<Resolution> {
    let interpreter = target.identity();
    let former = match refresh {
        true => None,
        false => match store.lock(agent, requirements, &interpreter).await? {
            Some(keep) if keep.interpreter == interpreter => {
                return Ok(Resolution { lock: Lock::parse(&keep.text)?, keep, is_kept: true });
            }
            Some(for_another) => Some(for_another),
            None => store.newest_lock(agent).await?,
        },
    };
    let resolving = info_span!("build.resolve", hoistway.build.requirements = requirements.iter().count());
    let lock = within(resolving, resolve(requirements, former.as_ref(), uv, target, log)).await?;
    let keep = KeptLock { requirements: requirements.clone(), interpreter, text: lock.text().to_owned() };
    Ok(Resolution { lock, keep, is_kept: false })
}

async fn resolve(
    requirements: &Requirements,
    former: Option<&KeptLock>,
    uv: &Uv,
    target: &Target,
    log: &BuildLog,
) -> Result<Lock> {
    let report = |line: &str| log.write_line(line);
    let Some(former) = former else {
        report(&format!("resolving {}", lines(requirements.iter())));
        return uv.resolve(requirements, None, target, STEP_LIMIT, &report).await;
    };
    let lock = Lock::parse(&former.text)?;
    let is_for_target = former.interpreter == target.identity();
    if let Some(added) = requirements.added_to(&former.requirements).filter(|_| is_for_target)
        && let Some(lock) = extend(&lock, &added, uv, target, log).await?
    {
        return lock.with_hashes(&requirements.hashes());
    }
    report(&format!("resolving {}", lines(requirements.iter())));
    let what = match (is_for_target, target.wheels()) {
        (true, _) => "other requirements",
        (false, Some(_)) => "another Python or platform",
        (false, None) => "another Python",
    };
    report(&format!("{what} than before: versions are kept where they still fit"));
    // Whoever takes a bound away expects that it does not bind any more.
    let lock = lock.without(&requirements.changed_from(&former.requirements));
    uv.resolve(requirements, Some(&lock), target, STEP_LIMIT, &report).await
}

/// A lock with what was added to its requirements, which is resolved by itself: the index is not asked about the others.
/// None if that needs other versions of them.
async fn extend(lock: &Lock, added: &Requirements, uv: &Uv, target: &Target, log: &BuildLog) -> Result<Option<Lock>> {
    if added.is_empty() {
        return Ok(Some(lock.clone()));
    }
    log.write_line(format!("resolving {}, beside the packages that are there", lines(added.iter())));
    let said = Mutex::new(Vec::new());
    let report = |line: &str| said.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
    let resolved = uv.resolve(added, Some(lock), target, STEP_LIMIT, &report).await;
    // The others may allow what it needs: a pre-release, for example. If not, they say why it is impossible.
    if resolved.as_ref().is_err_and(Uv::is_unsatisfiable) {
        return Ok(None);
    }
    said.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().for_each(|line| log.write_line(line));
    let extended = lock.joined(&resolved?);
    if extended.is_none() {
        log.write_line("it needs other versions of them");
    }
    Ok(extended)
}

fn lines<'a>(requirements: impl Iterator<Item = &'a Requirement>) -> String {
    requirements.map(|requirement| requirement.line.as_str()).collect::<Vec<_>>().join(", ")
}
