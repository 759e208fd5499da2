//! Warm parents: for each set of dependency layers a process that has imported what agents with these layers import, and
//! from which their processes are forked. The modules are learned from the starts of these agents.

mod added_packages;
mod comparison;
mod layers;
mod memory_pressure;
mod parent;
mod retirement;
mod source;
mod user_namespace;

pub(super) use layers::Layers;
pub(super) use parent::WarmParent;

use super::launch_spec::entry;
use super::leftovers::Leftovers;
use super::prepared::{PreparedProcess, Purpose};
use super::{ProcessConfig, Program};
use crate::launcher::protocol::LaunchSpec;
use crate::runtime::logs::Sink;
use crate::sandbox::Sandbox;
use hoistway_kit::metrics::{self, Counter};
use hoistway_model::Name;
use hoistway_model::metric::{Family, Kind};
use memory_pressure::MemoryPressure;
use parent::Failure;
use retirement::{make_room, retire_idle, retire_under};
use source::Source;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The time for which a parent that could not be started is not tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// The time after which a process is prepared for the next revision, so that it takes no processor from the start before.
const PREPARE_AFTER: Duration = Duration::from_millis(200);

/// The variable of an agent by which it refuses to be forked: `false`.
const OFF_BY: &str = "WARM_PARENTS";

/// How an agent's process was started.
pub(super) enum Way {
    /// It became one that was prepared for it, forked from this parent.
    Prepared(Arc<WarmParent>),
    /// It was forked from this parent.
    Forked(Arc<WarmParent>),
    Executed,
}

impl Way {
    /// The parent from which it was forked.
    pub fn parent(&self) -> Option<&Arc<WarmParent>> {
        match self {
            Self::Prepared(parent) | Self::Forked(parent) => Some(parent),
            Self::Executed => None,
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Prepared(_) => "prepared",
            Self::Forked(_) => "forked",
            Self::Executed => "executed",
        }
    }
}

/// An agent that may be forked.
pub(super) struct Candidate {
    pub layers: Layers,
    pub source: Source,
    pub purpose: Arc<Purpose>,
}

/// The next revision of an agent, for which a process can be prepared.
#[derive(Clone)]
pub(super) struct Next {
    pub layers: Layers,
    pub purpose: Arc<Purpose>,
    /// Cancelled when the instance of now ends.
    pub instance: CancellationToken,
}

/// The warm parents of a runtime.
pub(super) struct WarmParents {
    config: Arc<ProcessConfig>,
    sandbox: Arc<Sandbox>,
    leftovers: Leftovers,
    known: Arc<Mutex<HashMap<Layers, Known>>>,
    /// Cancelled when no parents are wanted any more.
    ended: CancellationToken,
    parents: Counter,
    starts: Counter,
}

enum Known {
    /// One is being started; while it replaces another, agents are forked from that.
    Starting(Option<Arc<WarmParent>>),
    Ready(Arc<WarmParent>),
    Impossible(Instant),
}

impl Known {
    fn parent(&self) -> Option<&Arc<WarmParent>> {
        match self {
            Self::Ready(parent) | Self::Starting(Some(parent)) => Some(parent),
            Self::Starting(None) | Self::Impossible(_) => None,
        }
    }
}

impl WarmParents {
    pub fn new(config: Arc<ProcessConfig>, sandbox: Arc<Sandbox>, leftovers: Leftovers) -> Self {
        let parents =
            "Processes that have imported packages, from which agents are forked, by the outcome of their start.";
        let starts =
            "Starts of agents' processes: prepared ahead, forked from a warm parent, or executed by themselves.";
        let known = Arc::default();
        let ended = CancellationToken::new();
        if config.warm_parents {
            match MemoryPressure::open() {
                Ok(pressure) => drop(tokio::spawn(retire_under(pressure, Arc::clone(&known), ended.clone()))),
                Err(error) => tracing::debug!(%error, "warm parents do not end when memory runs short"),
            }
        }
        Self {
            config,
            sandbox,
            leftovers,
            known,
            ended,
            parents: Counter::new("hoistway_warm_parents_total", parents, &["outcome"]),
            starts: Counter::new("hoistway_agent_starts_total", starts, &["way"]),
        }
    }

    /// Ends all parents, and those that are being started. Their agents have ended.
    pub fn shutdown(&self) {
        self.ended.cancel();
        self.known().clear();
    }

    /// Counts a start of an agent's process.
    pub fn count_start(&self, way: &Way) {
        self.starts.inc(&[way.label()]);
    }

    fn waiting(&self) -> Family {
        let waiting = self.known().values().filter_map(Known::parent).filter(|parent| parent.has_prepared()).count();
        let help = "Confined processes that wait for the next revision of an agent.";
        metrics::family(Kind::Gauge, "hoistway_prepared_processes", help, [([], waiting as f64)])
    }

    /// The measurements.
    pub fn metrics(&self) -> Vec<Family> {
        let own = self.config.warm_parents.then(|| [self.parents.family(), self.waiting()]);
        own.into_iter().flatten().chain([self.starts.family()]).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Layers, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parent of these layers, or while there is none those of some of their packages, the one of most first.
    fn ready(&self, layers: &Layers) -> Vec<Arc<WarmParent>> {
        let known = self.known();
        let is_alive = |parent: &&Arc<WarmParent>| !parent.has_ended();
        let own = known.get(layers);
        if let Some(Known::Impossible(_)) = own {
            return Vec::new();
        }
        if let Some(own) = own.and_then(Known::parent).filter(is_alive) {
            return vec![own.clone()];
        }
        let others = known.iter().filter(|(others, _)| layers.may_extend(others));
        let others = others.filter_map(|(others, known)| Some((others.counts(), known.parent().filter(is_alive)?)));
        let mut others: Vec<_> = others.map(|(counts, parent)| (counts, parent.clone())).collect();
        others.sort_by_key(|(counts, _)| Reverse(*counts));
        others.into_iter().map(|(_, parent)| parent).collect()
    }

    /// What decides from which parent an agent can be forked; none if it shall be forked from none.
    pub async fn candidate(&self, agent: &Name, program: &Program, spec: &LaunchSpec) -> Option<Candidate> {
        let is_off = spec.command.env.iter().any(|(name, value)| name == OFF_BY && is_false(value));
        if !self.config.warm_parents || !self.sandbox.can_fork() || is_off {
            return None;
        }
        let (program, agent, restrictions) = (program.clone(), agent.clone(), spec.restrictions.clone());
        let found = tokio::task::spawn_blocking(move || {
            let (layers, source) = Layers::of(&program)?;
            Some(Candidate { layers, source, purpose: Arc::new(Purpose::of(&agent, &restrictions)) })
        });
        found.await.ok()?
    }

    /// The parent from which an agent can be forked, if there is one.
    pub async fn suitable(
        &self,
        layers: &Layers,
        source: Source,
        program: &Program,
        spec: &LaunchSpec,
    ) -> Option<Arc<WarmParent>> {
        let parents = self.ready(layers);
        let Program::Unpacked { app_dir, .. } = program else { return None };
        let env: BTreeMap<String, String> = spec.command.env.iter().cloned().collect();
        let (app_dir, layers) = (app_dir.clone(), layers.clone());
        let found = tokio::task::spawn_blocking(move || {
            parents.into_iter().find(|parent| {
                let reason = parent.differs(&layers, &env, &app_dir, entry(&env), &source);
                reason.inspect(|reason| tracing::debug!("not forked from a warm parent: {reason}")).is_none()
            })
        });
        found.await.inspect_err(|error| tracing::error!(%error, "the comparison with a warm parent failed")).ok()?
    }

    /// Has a process prepared in a moment that becomes the next revision of an agent, unless that instance ends before, or
    /// others are forked meanwhile.
    pub fn prepare_next(self: &Arc<Self>, parent: &Arc<WarmParent>, next: Next) {
        let (parent, config, sandbox) = (Arc::downgrade(parent), Arc::clone(&self.config), Arc::clone(&self.sandbox));
        let (ended, asked) = (self.ended.clone(), Instant::now());
        let (instance, agent) = (next.instance.clone(), next.purpose.agent.clone());
        let preparing = async move {
            tokio::time::sleep(PREPARE_AFTER).await;
            let parent = parent.upgrade().filter(|parent| parent.used() <= asked)?;
            match parent.prepare(&config, &sandbox, &next).await {
                Ok(before) => Some((parent, before)),
                Err(error) => {
                    tracing::debug!(%error, "no process is prepared");
                    None
                }
            }
        };
        let own = Arc::clone(self);
        tokio::spawn(async move {
            let prepared = ended.run_until_cancelled(instance.run_until_cancelled(preparing)).await.flatten().flatten();
            let Some((parent, before)) = prepared else { return };
            if let Some(before) = before {
                own.discard(&parent, before).await;
            }
            // An agent with other packages than before needs none of the parent that it had.
            own.discard_all_for(&agent, Some(&parent)).await;
        });
    }

    /// Ends what is prepared for an agent that is deleted, or shall not be forked any more.
    pub async fn forget(&self, agent: &Name) {
        self.discard_all_for(agent, None).await;
    }

    async fn discard_all_for(&self, agent: &Name, except: Option<&Arc<WarmParent>>) {
        let mut parents: Vec<_> = self.known().values().filter_map(Known::parent).cloned().collect();
        parents.retain(|parent| except.is_none_or(|except| !Arc::ptr_eq(parent, except)));
        for parent in parents {
            if let Some(prepared) = parent.take_prepared_for(agent) {
                self.discard(&parent, prepared).await;
            }
        }
    }

    /// Ends a process that is not needed, or with its parent if that keeps it from ending.
    async fn discard(&self, parent: &Arc<WarmParent>, prepared: PreparedProcess) {
        if !prepared.end().await {
            tracing::warn!("a process that was forked does not end: its warm parent is ended with all agents on it");
            self.failed(parent);
            parent.end();
        }
    }

    /// Forks no other agent with these layers from a parent, of which one is not ready in time: the parent is given up if
    /// the layers are its own, since it might be what keeps the agent from that.
    pub fn doubted(&self, parent: &Arc<WarmParent>, layers: &Layers) {
        if parent.layers() == layers {
            return self.failed(parent);
        }
        let mut known = self.known();
        if !known.contains_key(layers) {
            known.insert(layers.clone(), Known::Impossible(Instant::now()));
        }
    }

    /// Gives up a parent from which an agent could not be forked: it might hang, and hold up every other one.
    pub fn failed(&self, parent: &Arc<WarmParent>) {
        parent.retire();
        let mut known = self.known();
        let is_it = |known: &Known| known.parent().is_some_and(|ready| Arc::ptr_eq(ready, parent));
        if let Some((_, failed)) = known.iter_mut().find(|(_, known)| is_it(known)) {
            *failed = Known::Impossible(Instant::now());
        }
    }

    /// Whether an agent with these layers is to report the modules that it has imported.
    pub fn wants_modules(&self, layers: &Layers) -> bool {
        match self.known().get(layers) {
            Some(Known::Starting(_)) => false,
            Some(Known::Impossible(since)) => since.elapsed() > AGAIN_AFTER,
            Some(Known::Ready(_)) | None => true,
        }
    }

    /// Starts a parent in the background that has imported these modules, besides those that one has imported already.
    /// `from` is the parent of the agent that imported them, `sink` its log and `next` its next revision.
    pub fn learned(self: &Arc<Self>, from: Option<&WarmParent>, mut modules: Vec<String>, sink: &Sink, next: &Next) {
        let layers = &next.layers;
        modules.retain(|name| layers.may_import(name));
        let mut known = self.known();
        let before = match known.get(layers) {
            Some(Known::Starting(_)) => return,
            Some(Known::Impossible(since)) if since.elapsed() < AGAIN_AFTER => return,
            Some(Known::Ready(parent)) if !parent.has_ended() => Some(parent.clone()),
            _ => None,
        };
        if from.is_some() {
            tracing::debug!(count = modules.len(), "modules imported after the fork");
        }
        let had = before.as_deref().or(from).map(WarmParent::modules).unwrap_or_default();
        if before.is_some() && packages(&modules).is_subset(&packages(had)) {
            return;
        }
        let further = modules.iter().filter(|name| !had.contains(name));
        let modules: Vec<String> = had.iter().chain(further).cloned().collect();
        known.insert(layers.clone(), Known::Starting(before.clone()));
        make_room(&mut known);
        drop(known);
        let (own, layers, sink, next) = (self.clone(), layers.clone(), sink.clone(), next.clone());
        tokio::spawn(async move {
            match own.ended.run_until_cancelled(own.start(&layers, &modules)).await {
                None => {}
                Some(Ok(parent)) => own.replace(layers, parent, &sink, next).await,
                Some(Err(error)) => {
                    // Nobody has these packages any more.
                    if layers.are_gone().await {
                        own.known().remove(&layers);
                        return;
                    }
                    let text = "no agents can be forked from a process with their packages: each imports them itself";
                    tracing::warn!(%error, "{text}");
                    sink.remark(&format!("{text}: {error}")).await;
                    let mut known = own.known();
                    // It may have been given up meanwhile.
                    if let Some(Known::Starting(before)) = known.get_mut(&layers) {
                        let before = before.take().filter(|before| !before.has_ended());
                        known.insert(layers, before.map_or(Known::Impossible(Instant::now()), Known::Ready));
                    }
                    drop(known);
                    own.parents.inc(&["failed"]);
                }
            }
        });
    }

    /// Makes a parent the one of its layers until nobody has used it for a while, and retires the one before.
    async fn replace(self: &Arc<Self>, layers: Layers, parent: WarmParent, sink: &Sink, next: Next) {
        let parent = Arc::new(parent);
        for (name, reason) in parent.left_out() {
            sink.remark(&format!("{name} is imported at each start: it {reason}")).await;
        }
        if let Some(before) = self.known().insert(layers.clone(), Known::Ready(parent.clone())) {
            before.parent().inspect(|parent| parent.retire());
        }
        self.parents.inc(&["ready"]);
        self.prepare_next(&parent, next);
        tokio::spawn(retire_idle(Arc::downgrade(self), layers, Arc::downgrade(&parent), parent.ended()));
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

/// The packages of modules.
fn packages(modules: &[String]) -> BTreeSet<&str> {
    modules.iter().map(|name| name.split('.').next().unwrap_or(name)).collect()
}

fn is_false(value: &str) -> bool {
    ["0", "false", "no", "off"].contains(&value.to_ascii_lowercase().as_str())
}
