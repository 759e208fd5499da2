//! The limit of open files. Agents, connections and databases need more than the 1,024 that shells usually set, and the
//! hard limit is the operator's choice.

use hoistway_model::{Code, Error, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The fewest descriptors for a start and a few agents.
const NEEDED: u64 = 256;
/// More than we ever use; programs that close every possible descriptor would take long with millions.
const ENOUGH: u64 = 65_536;

/// Raises the soft limit of open files as far as the hard limit allows; an error when that is too low to work with.
pub fn raise_limit() -> Result<()> {
    let now = getrlimit(Resource::Nofile);
    let wanted = wanted(now.current, now.maximum)?;
    if now.current != wanted
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: now.maximum })
    {
        tracing::warn!("the limit of open files could not be raised: {e}");
    }
    Ok(())
}

/// Returns the number of descriptors that this process may have now.
pub fn limit() -> usize {
    getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH).min(ENOUGH).try_into().unwrap_or(usize::MAX)
}

/// Returns the soft limit to set; `None` is no limit.
fn wanted(soft: Option<u64>, hard: Option<u64>) -> Result<Option<u64>> {
    let most = hard.unwrap_or(u64::MAX).min(ENOUGH);
    let wanted = soft.map(|soft| soft.max(most));
    match wanted {
        Some(files) if files < NEEDED => {
            let text = format!(
                "this process may have {files} files open at a time, and needs {NEEDED} at least: raise the hard limit \
                 of open files (ulimit -Hn, or LimitNOFILE= of systemd)"
            );
            Err(Error::new(Code::ResourceExhausted, text))
        }
        _ => Ok(wanted),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_useful_and_allowed() {
        for (soft, hard, limit) in [
            (Some(1024), Some(4096), Some(4096)),
            (Some(40), None, Some(ENOUGH)),
            (Some(1024), Some(1 << 30), Some(ENOUGH)),
            (Some(100_000), Some(1 << 30), Some(100_000)),
            (None, None, None),
        ] {
            assert_eq!(wanted(soft, hard).unwrap(), limit);
        }
        let e = wanted(Some(40), Some(40)).unwrap_err();
        assert!(e.code == Code::ResourceExhausted && e.message.contains("40 files"), "{e}");
    }
}
