//! When parents are retired: once nobody was forked from them for a while, when there are too many, and when memory runs
//! short.

use super::memory_pressure::MemoryPressure;
use super::{AGAIN_AFTER, Known, Layers, WarmParent, WarmParents};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The number of parents, each of which keeps its packages in memory.
const MAX_PARENTS: usize = 16;

/// The time after which a parent is retired from which no agent was forked. Its agents share memory with it until they
/// end, so it costs little before.
const IDLE: Duration = Duration::from_secs(3_600);

/// Retires a parent once no agent was forked from it for a while, and forgets one that has ended.
pub async fn retire_idle(of: Weak<WarmParents>, layers: Layers, parent: Weak<WarmParent>, ended: CancellationToken) {
    while let Some(until) = parent.upgrade().map(|parent| parent.used() + IDLE)
        && until > Instant::now()
        && ended.run_until_cancelled(tokio::time::sleep_until(until)).await.is_some()
    {}
    let Some(of) = of.upgrade() else { return };
    let mut known = of.known();
    let is_it = |known: &Arc<WarmParent>| Arc::as_ptr(known) == parent.as_ptr();
    match known.get_mut(&layers) {
        Some(Known::Ready(parent)) if is_it(parent) => {
            parent.retire();
            known.remove(&layers);
        }
        // The one that replaces it is still being started.
        Some(Known::Starting(before)) => {
            before.take_if(|parent| is_it(parent)).inspect(|parent| parent.retire());
        }
        _ => {}
    }
}

/// Retires a parent, the one that was not used for the longest time, at each notice until `ended`.
pub async fn retire_under(
    pressure: MemoryPressure,
    known: Arc<Mutex<HashMap<Layers, Known>>>,
    ended: CancellationToken,
) {
    while let Some(Ok(())) = ended.run_until_cancelled(pressure.rises()).await {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = known.values().filter(|known| matches!(known, Known::Ready(_))).count();
        if ready > 0 {
            tracing::info!("memory runs short: a process from which agents are forked is ended");
            retire_until(&mut known, ready - 1);
        }
    }
}

/// Retires the parents that were not used for the longest time, if there are more than there may be.
pub fn make_room(known: &mut HashMap<Layers, Known>) {
    known.retain(|_, known| !matches!(known, Known::Impossible(since) if since.elapsed() > AGAIN_AFTER));
    let starting = known.values().filter(|known| matches!(known, Known::Starting(_))).count();
    retire_until(known, MAX_PARENTS.saturating_sub(starting));
}

/// Retires those that were not used for the longest time, until so many are ready.
fn retire_until(known: &mut HashMap<Layers, Known>, left: usize) {
    let used = known.iter().filter_map(|(layers, known)| match known {
        Known::Ready(parent) => Some((parent.used(), layers.clone())),
        Known::Starting(_) | Known::Impossible(_) => None,
    });
    let mut used: Vec<_> = used.collect();
    used.sort_by_key(|(used, _)| *used);
    let surplus = used.len().saturating_sub(left);
    for (_, layers) in used.into_iter().take(surplus) {
        if let Some(Known::Ready(parent)) = known.remove(&layers) {
            parent.retire();
        }
    }
}
