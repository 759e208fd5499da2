//! Warm parents: for each set of dependency layers a process that has imported what agents with these layers import, and
//! from which their processes are forked. The modules are learned from the first of these agents. Packages must be
//! trusted: a parent owns the user namespaces of its agents, and what a package does when it is imported could use that.

mod parent;

pub(super) use parent::WarmParent;

use super::leftovers::Leftovers;
use super::{ProcessConfig, Program};
use crate::sandbox::Sandbox;
use hoistway_kit::metrics::Counter;
use hoistway_model::metric::Family;
use parent::Failure;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The time for which a parent that could not be started is not tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// The number of parents, each of which keeps its packages in memory.
const MAX_PARENTS: usize = 16;

/// What agents must have in common to be forked from one parent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Layers {
    pub interpreter: PathBuf,
    pub runner: PathBuf,
    pub site_dirs: Vec<PathBuf>,
}

impl Layers {
    /// Those of a program; none for an image that is run as it is.
    pub fn of(program: &Program) -> Option<Self> {
        let Program::Unpacked { site_dirs, runner, interpreter, .. } = program else { return None };
        Some(Self { interpreter: interpreter.clone(), runner: runner.clone(), site_dirs: site_dirs.clone() })
    }
}

/// The warm parents of a runtime.
pub(super) struct WarmParents {
    config: Arc<ProcessConfig>,
    sandbox: Arc<Sandbox>,
    leftovers: Leftovers,
    known: Mutex<HashMap<Layers, Known>>,
    parents: Counter,
    starts: Counter,
}

enum Known {
    Starting,
    Ready(Arc<WarmParent>),
    Impossible(Instant),
}

impl WarmParents {
    pub fn new(config: Arc<ProcessConfig>, sandbox: Arc<Sandbox>, leftovers: Leftovers) -> Self {
        let parents =
            "Processes that have imported packages, from which agents are forked, by the outcome of their start.";
        let starts = "Starts of agents' processes: forked from a warm parent, or executed by themselves.";
        Self {
            config,
            sandbox,
            leftovers,
            known: Mutex::default(),
            parents: Counter::new("hoistway_warm_parents_total", parents, &["outcome"]),
            starts: Counter::new("hoistway_agent_starts_total", starts, &["way"]),
        }
    }

    /// Counts a start of an agent's process.
    pub fn count_start(&self, is_forked: bool) {
        self.starts.inc(&[if is_forked { "forked" } else { "executed" }]);
    }

    /// The measurements.
    pub fn metrics(&self) -> Vec<Family> {
        let parents = self.config.warm_parents.then(|| self.parents.family());
        parents.into_iter().chain([self.starts.family()]).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Layers, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parent of these layers, if it is ready.
    pub fn get(&self, layers: &Layers) -> Option<Arc<WarmParent>> {
        let mut known = self.known();
        let Known::Ready(parent) = known.get(layers)? else { return None };
        if parent.has_ended() {
            known.remove(layers);
            return None;
        }
        Some(parent.clone())
    }

    /// Whether an agent with these layers is to report the modules that it has imported.
    pub fn wants_modules(&self, layers: &Layers) -> bool {
        self.config.warm_parents
            && self.sandbox.has_own_root()
            && match self.known().get(layers) {
                Some(Known::Starting | Known::Ready(_)) => false,
                Some(Known::Impossible(since)) => since.elapsed() > AGAIN_AFTER,
                None => true,
            }
    }

    /// Starts a parent in the background that has imported these modules.
    pub fn learned(self: &Arc<Self>, layers: Layers, modules: Vec<String>) {
        if !self.wants_modules(&layers) {
            return;
        }
        self.make_room();
        self.known().insert(layers.clone(), Known::Starting);
        let own = self.clone();
        tokio::spawn(async move {
            let started = own.start(&layers, &modules).await;
            let (known, outcome) = match started {
                Ok(parent) => (Known::Ready(Arc::new(parent)), "ready"),
                Err(error) => {
                    tracing::warn!(%error, "no agents can be forked from a process with their packages: each starts by itself");
                    (Known::Impossible(Instant::now()), "failed")
                }
            };
            own.known().insert(layers, known);
            own.parents.inc(&[outcome]);
        });
    }

    /// Retires the parent that was not used for the longest time, if there are as many as there may be.
    fn make_room(&self) {
        let mut known = self.known();
        let used = known.iter().filter_map(|(layers, known)| match known {
            Known::Ready(parent) => Some((parent.used(), layers.clone())),
            Known::Starting | Known::Impossible(_) => None,
        });
        let mut used: Vec<_> = used.collect();
        used.sort_by_key(|(used, _)| *used);
        let surplus = (used.len() + 1).saturating_sub(MAX_PARENTS);
        for (_, layers) in used.into_iter().take(surplus) {
            if let Some(Known::Ready(parent)) = known.remove(&layers) {
                parent.retire();
            }
        }
        known.retain(|_, known| !matches!(known, Known::Impossible(since) if since.elapsed() > AGAIN_AFTER));
    }

    async fn start(&self, layers: &Layers, modules: &[String]) -> std::io::Result<WarmParent> {
        let start = |careful| WarmParent::start(&self.config, &self.sandbox, &self.leftovers, layers, modules, careful);
        match start(false).await {
            Err(Failure::Unsuitable(reason)) => {
                tracing::info!("{reason}: such packages are imported by each agent itself");
                start(true).await.map_err(Failure::into)
            }
            other => other.map_err(Failure::into),
        }
    }
}
