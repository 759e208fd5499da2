//! Which agents nobody invokes.
//!
//! An agent comes up when none of its invokes is in flight and the last one ended the agent's time ago, and again after
//! each further such time. An invoke costs a few atomic operations: deadlines are not moved by it, but looked at when
//! they have passed, so that each agent costs one entry and at most one look in its time.

use hoistway_model::Name;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The invokes of one agent.
#[derive(Debug)]
pub struct Usage {
    created: Instant,
    running: AtomicUsize,
    /// When it was used last, in microseconds after `created`.
    last_used: AtomicU64,
    /// Whether it was reported as idle, and not used since.
    reported: AtomicBool,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            created: Instant::now(),
            running: AtomicUsize::new(0),
            last_used: AtomicU64::new(0),
            reported: AtomicBool::new(false),
        }
    }
}

impl Usage {
    /// Returns a slot among `limit` concurrent invokes, if one is free.
    pub fn slot(self: &Arc<Self>, limit: usize) -> Option<Slot> {
        let more = |n: usize| (n < limit).then_some(n + 1);
        self.running.fetch_update(Ordering::SeqCst, Ordering::Acquire, more).ok()?;
        Some(Slot(Arc::clone(self)))
    }

    /// Returns the number of invokes in flight.
    pub fn in_flight(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Whether it was reported as idle; not any more. In one order with [`Usage::slot`] and [`Usage::in_flight`]: either
    /// the report sees an invoke, or the invoke sees the report.
    fn was_reported(&self) -> bool {
        self.reported.load(Ordering::SeqCst) && self.reported.swap(false, Ordering::SeqCst)
    }

    /// Begins the time without invokes anew.
    pub fn touch(&self) {
        let micros = u64::try_from(self.created.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_used.store(micros, Ordering::Release);
    }

    /// Returns the beginning of the time without invokes; `None` while there are any.
    fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.in_flight() == 0;
        is_idle.then(|| self.created + Duration::from_micros(self.last_used.load(Ordering::Acquire)))
    }
}

/// One of an agent's concurrent invokes.
#[derive(Debug)]
pub struct Slot(Arc<Usage>);

impl Drop for Slot {
    fn drop(&mut self) {
        // In this order: one that is not in flight any more has its time.
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The deadlines of all agents that may become idle.
#[derive(Debug, Default)]
pub struct IdleClock {
    agents: Mutex<Agents>,
    /// There is an earlier deadline than before, or an agent is used again.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Agents {
    by_name: HashMap<Name, Watched>,
    deadlines: BTreeSet<(Instant, Name)>,
    /// Those that were reported as idle and are used again.
    used_again: BTreeSet<Name>,
}

#[derive(Debug)]
struct Watched {
    usage: Arc<Usage>,
    /// Its time without invokes.
    time: Duration,
    /// The next look at it.
    deadline: Instant,
}

/// A change of an agent that the agent service is told of.
#[derive(Debug, PartialEq, Eq)]
pub enum IdleReport {
    /// Nobody has invoked it for its time.
    Idle(Name),
    /// Somebody invokes it after that.
    Used(Name),
}

/// The report that is due at a time, or the time of the next one.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Now(IdleReport),
    Later(Option<Instant>),
}

impl IdleClock {
    /// Watches an agent: it is idle after `time` without invokes. One that is watched already keeps its deadline.
    pub fn watch(&self, name: &Name, usage: &Arc<Usage>, time: Duration) {
        let mut agents = self.agents();
        if agents.by_name.get(name).is_some_and(|watched| watched.time == time && Arc::ptr_eq(&watched.usage, usage)) {
            return;
        }
        agents.remove(name);
        let deadline = usage.idle_since().unwrap_or_else(Instant::now) + time;
        agents.by_name.insert(name.clone(), Watched { usage: Arc::clone(usage), time, deadline });
        agents.deadlines.insert((deadline, name.clone()));
        if agents.deadlines.first().is_some_and(|(first, _)| *first == deadline) {
            self.sooner.notify_one();
        }
    }

    /// Watches an agent no longer.
    pub fn forget(&self, name: &Name) {
        self.agents().remove(name);
    }

    /// An agent is invoked: what was reported of it is not true any more.
    pub fn used(&self, name: &Name, usage: &Usage) {
        if usage.was_reported() {
            self.agents().used_again.insert(name.clone());
            self.sooner.notify_one();
        }
    }

    /// Waits for the next report. For one caller.
    pub async fn next(&self) -> IdleReport {
        loop {
            match self.due(Instant::now()) {
                Due::Now(report) => return report,
                Due::Later(Some(deadline)) => tokio::select! {
                    () = sleep_until(deadline) => {}
                    () = self.sooner.notified() => {}
                },
                Due::Later(None) => self.sooner.notified().await,
            }
        }
    }

    fn due(&self, now: Instant) -> Due {
        let mut agents = self.agents();
        if let Some(name) = agents.used_again.pop_first() {
            return Due::Now(IdleReport::Used(name));
        }
        loop {
            let Some((deadline, name)) = agents.deadlines.pop_first() else { return Due::Later(None) };
            if deadline > now {
                agents.deadlines.insert((deadline, name));
                return Due::Later(Some(deadline));
            }
            let Some(watched) = agents.by_name.get_mut(&name) else { continue };
            watched.usage.reported.store(true, Ordering::SeqCst);
            // Invokes that are in flight now end later than now.
            let idle_at = watched.usage.idle_since().unwrap_or(now) + watched.time;
            let is_idle = idle_at <= now;
            watched.deadline = if is_idle { now + watched.time } else { idle_at };
            if !is_idle {
                watched.usage.reported.store(false, Ordering::SeqCst);
            }
            let next = watched.deadline;
            agents.deadlines.insert((next, name.clone()));
            if is_idle {
                return Due::Now(IdleReport::Idle(name));
            }
        }
    }

    fn agents(&self) -> MutexGuard<'_, Agents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agents {
    fn remove(&mut self, name: &Name) {
        if let Some(watched) = self.by_name.remove(name) {
            self.deadlines.remove(&(watched.deadline, name.clone()));
            watched.usage.reported.store(false, Ordering::SeqCst);
        }
        self.used_again.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TIME: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    fn idle(text: &str) -> Due {
        Due::Now(IdleReport::Idle(name(text)))
    }

    /// A usage that was last at `second` seconds after its beginning.
    fn used_at(usage: &Usage, second: u64) {
        usage.last_used.store(second * 1_000_000, Ordering::Release);
    }

    #[test]
    fn an_agent_is_idle_its_time_after_its_last_invoke_and_after_each_further_one() {
        let (clock, usage) = (IdleClock::default(), Arc::new(Usage::default()));
        let start = usage.created;
        assert_eq!(clock.due(start), Due::Later(None));
        clock.watch(&name("a"), &usage, TIME);
        assert_eq!(clock.due(start + 9 * SECOND), Due::Later(Some(start + TIME)));
        used_at(&usage, 7);
        clock.watch(&name("a"), &usage, TIME);
        assert_eq!(clock.due(start + TIME), Due::Later(Some(start + 17 * SECOND)));
        assert_eq!(clock.due(start + 17 * SECOND), idle("a"));
        assert_eq!(clock.due(start + 17 * SECOND), Due::Later(Some(start + 27 * SECOND)));
        assert_eq!(clock.due(start + 28 * SECOND), idle("a"));
        clock.forget(&name("a"));
        assert_eq!(clock.due(start + 100 * SECOND), Due::Later(None));
        assert!(clock.agents().by_name.is_empty());
    }

    #[test]
    fn invokes_in_flight_keep_an_agent_from_being_idle() {
        let (clock, usage) = (IdleClock::default(), Arc::new(Usage::default()));
        let start = usage.created;
        clock.watch(&name("a"), &usage, TIME);
        let stream = usage.slot(2).unwrap();
        let other = usage.slot(2).unwrap();
        assert!(usage.slot(2).is_none());
        drop(other);
        for second in [10, 20, 30] {
            assert_eq!(clock.due(start + second * SECOND), Due::Later(Some(start + (second + 10) * SECOND)));
        }
        drop(stream);
        assert_eq!(usage.in_flight(), 0);
        used_at(&usage, 35);
        assert_eq!(clock.due(start + 40 * SECOND), Due::Later(Some(start + 45 * SECOND)));
        assert_eq!(clock.due(start + 45 * SECOND), idle("a"));
    }

    #[test]
    fn a_report_is_taken_back_once_when_the_agent_is_invoked_again() {
        let (clock, usage) = (IdleClock::default(), Arc::new(Usage::default()));
        let start = usage.created;
        let invoke = || {
            let slot = usage.slot(2);
            clock.used(&name("a"), &usage);
            slot
        };
        clock.watch(&name("a"), &usage, TIME);
        drop(invoke());
        used_at(&usage, 0);
        assert_eq!(clock.due(start + TIME), idle("a"), "nothing was reported before");
        let slots = [invoke(), invoke()];
        assert_eq!(clock.due(start + TIME), Due::Now(IdleReport::Used(name("a"))));
        assert_eq!(clock.due(start + TIME), Due::Later(Some(start + TIME * 2)));
        // It is in flight when it is looked at: that is no report to take back.
        assert_eq!(clock.due(start + TIME * 2), Due::Later(Some(start + TIME * 3)));
        drop(slots);
        drop(invoke());
        used_at(&usage, 20);
        assert_eq!(clock.due(start + TIME * 3), idle("a"));
        // What is not watched any more has nothing to report.
        drop(invoke());
        clock.forget(&name("a"));
        assert_eq!(clock.due(start + TIME * 9), Due::Later(None));
    }

    #[test]
    fn agents_come_up_in_the_order_of_their_deadlines() {
        let (clock, usage) = (IdleClock::default(), Arc::new(Usage::default()));
        let start = usage.created;
        clock.watch(&name("b"), &usage, TIME * 2);
        clock.watch(&name("a"), &usage, TIME);
        assert_eq!(clock.due(start + TIME), idle("a"));
        let late = start + TIME * 2;
        assert_eq!((clock.due(late), clock.due(late)), (idle("a"), idle("b")));
        // Another time is another deadline.
        clock.watch(&name("b"), &usage, TIME * 3);
        clock.forget(&name("a"));
        assert_eq!(clock.due(late), Due::Later(Some(start + TIME * 3)));
    }

    #[test]
    fn ten_thousand_agents_cost_one_look_each_in_their_time() {
        let (clock, usage) = (IdleClock::default(), Arc::new(Usage::default()));
        let start = usage.created;
        let names: Vec<Name> = (0..10_000).map(|n| name(&format!("a{n}"))).collect();
        names.iter().for_each(|name| clock.watch(name, &usage, TIME));
        let _running = usage.slot(1).unwrap();
        assert_eq!(clock.due(start + TIME), Due::Later(Some(start + TIME * 2)));
        let agents = clock.agents();
        assert_eq!((agents.deadlines.len(), agents.by_name.len()), (10_000, 10_000));
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_an_earlier_deadline() {
        let (clock, usage) = (IdleClock::default(), Arc::new(Usage::default()));
        clock.watch(&name("late"), &usage, Duration::from_secs(3600));
        let earlier = async {
            tokio::task::yield_now().await;
            clock.watch(&name("soon"), &usage, Duration::from_millis(1));
        };
        assert_eq!(tokio::join!(clock.next(), earlier).0, IdleReport::Idle(name("soon")));
    }
}
