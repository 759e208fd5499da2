//! Counts that wait for being committed. Those of the same hour and key are one sum, so that no count is ever dropped
//! however long the database fails, and what waits is bounded by how many keys there are.

use super::{
    Sums, UsageKey, UsageMetrics,
    outage::{Outage, SLOW},
    this_hour,
};
use async_trait::async_trait;
use hoistway_kit::backoff::Backoff;
use hoistway_model::{Result, usage::UsageSums};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The time that an answer waits for its count being committed.
const PATIENCE: Duration = SLOW;
/// The pause after a commit that failed, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// More sums than this are those of too many users: they go on without a user.
const MANY: usize = 16_384;

/// Sums that are committed together.
#[derive(Debug)]
pub(crate) struct Batch {
    /// By which a commit is recognised whose answer was lost.
    pub(crate) id: Uuid,
    pub(crate) sums: Sums,
}

impl Batch {
    pub(crate) fn new(sums: Sums) -> Self {
        Self { id: Uuid::now_v7(), sums }
    }
}

/// Whoever keeps sums.
#[async_trait]
pub(crate) trait KeepsUsage: fmt::Debug + Send + Sync + 'static {
    /// Adds to what is kept, all of it or nothing. The batch that was added last is not added again.
    async fn add_usage(&self, batch: &Batch) -> Result<()>;
}

/// The end at which counts go in. Cheap to clone; [`keep`] ends when every one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    shared: Arc<Shared>,
    wake: mpsc::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<UsageMetrics>,
    waiting: Mutex<Waiting>,
    committed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    sums: Sums,
    /// Those that are being committed, and the number of the last count among them. They stay together until that has
    /// succeeded: a failure does not say that they are not committed.
    writing: Option<(Arc<Batch>, u64)>,
    /// The number of the last count.
    last: u64,
    /// Whether the database fails or is slow.
    is_late: bool,
}

impl Waiting {
    fn total(&self) -> UsageSums {
        let mut total = UsageSums::default();
        let writing = self.writing.iter().flat_map(|(batch, _)| batch.sums.values());
        self.sums.values().chain(writing).for_each(|sums| total += *sums);
        total
    }

    /// What is to be committed next: again what was not, before what is new; nothing if nothing waits.
    fn begin(&mut self) -> Option<(Arc<Batch>, u64)> {
        if self.writing.is_none() && !self.sums.is_empty() {
            self.writing = Some((Arc::new(Batch::new(std::mem::take(&mut self.sums))), self.last));
        }
        self.writing.clone()
    }
}

/// The sums that are not in the database yet, for whoever reads it there. It does not keep the ledger open.
#[derive(Debug, Clone)]
pub(crate) struct Uncommitted(Arc<Shared>);

impl Uncommitted {
    /// The sums that wait while the database cannot be written; none while it can, since a count is then in the
    /// database before the answer ends.
    pub(crate) fn sums(&self) -> UncommittedSums {
        let waiting = self.0.waiting();
        if !waiting.is_late {
            return UncommittedSums::default();
        }
        let writing = waiting.writing.as_ref().map(|(batch, _)| Arc::clone(batch));
        UncommittedSums { waiting: waiting.sums.clone(), writing }
    }
}

/// Sums that wait.
#[derive(Debug, Default)]
pub(crate) struct UncommittedSums {
    /// Those that are not in the database.
    pub(crate) waiting: Sums,
    /// Those that may be in it already.
    pub(crate) writing: Option<Arc<Batch>>,
}

/// Done when a count is committed, or that has taken too long.
pub(crate) struct Commit(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for Commit {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// The other end, for [`keep`].
#[derive(Debug)]
pub(crate) struct Counts {
    shared: Arc<Shared>,
    woken: mpsc::Receiver<()>,
}

impl Ledger {
    pub(crate) fn new() -> (Self, Counts) {
        let (wake, woken) = mpsc::channel(1);
        let (metrics, committed) = (Arc::new(UsageMetrics::new()), watch::Sender::new(0));
        let shared = Arc::new(Shared { metrics, waiting: Mutex::default(), committed });
        (Self { shared: Arc::clone(&shared), wake }, Counts { shared, woken })
    }

    /// The sums since the process began. Whoever reads it does not keep the ledger open.
    pub(crate) fn metrics(&self) -> Arc<UsageMetrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// The sums that wait. Whoever reads it does not keep the ledger open either.
    pub(crate) fn uncommitted(&self) -> Uncommitted {
        Uncommitted(Arc::clone(&self.shared))
    }

    /// Counts a call that has ended.
    pub(crate) fn count(&self, key: UsageKey, sums: UsageSums) -> Commit {
        self.shared.metrics.count(&key, &sums);
        let number = {
            let mut waiting = self.shared.waiting();
            add(&mut waiting.sums, (this_hour(), key), sums);
            waiting.last += 1;
            waiting.last
        };
        // If it cannot be woken it is awake.
        let _ = self.wake.try_send(());
        let mut committed = self.shared.committed.subscribe();
        Commit(Box::pin(async move {
            let _ = timeout(PATIENCE, committed.wait_for(|committed| *committed >= number)).await;
        }))
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the database fails or is slow; what waits for it.
    fn late(&self) -> UsageSums {
        let mut waiting = self.waiting();
        waiting.is_late = true;
        waiting.total()
    }
}

fn add(all: &mut Sums, (hour, mut key): (i64, UsageKey), sums: UsageSums) {
    if all.len() >= MANY && !all.contains_key(&(hour, key.clone())) {
        key.user.clear();
    }
    *all.entry((hour, key)).or_default() += sums;
}

/// Commits counts, as many at a time as there are, until nobody can make another one and all are committed. When
/// `out_of_time` comes first, what waits is lost, and said.
pub(crate) async fn keep(counts: Counts, store: Arc<dyn KeepsUsage>, out_of_time: CancellationToken) {
    let Counts { shared, mut woken } = counts;
    let mut outage = Outage::default();
    out_of_time.run_until_cancelled(write(&shared, &mut woken, store.as_ref(), &mut outage)).await;
    let waits = shared.waiting().total();
    if waits.requests > 0 {
        outage.lost(&waits);
    }
}

async fn write(shared: &Shared, woken: &mut mpsc::Receiver<()>, store: &dyn KeepsUsage, outage: &mut Outage) {
    let mut is_open = true;
    while is_open {
        is_open = woken.recv().await.is_some();
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        while commit(shared, store, outage).await.is_err() {
            if is_open {
                let closed = async { while woken.recv().await.is_some() {} };
                is_open = timeout(backoff.pause(), closed).await.is_err();
            } else {
                // The process ends: soon again, as long as there is time.
                sleep(FIRST_RETRY).await;
            }
        }
    }
}

/// Sums that could not be committed go on waiting.
struct Uncommittable;

/// Commits what waits.
async fn commit(shared: &Shared, store: &dyn KeepsUsage, outage: &mut Outage) -> Result<(), Uncommittable> {
    loop {
        let Some((batch, last)) = shared.waiting().begin() else { return Ok(()) };
        let mut adding = store.add_usage(&batch);
        let outcome = loop {
            match timeout(outage.patience(), &mut adding).await {
                Ok(outcome) => break outcome,
                Err(_) => outage.report(&shared.late()),
            }
        };
        if let Err(e) = outcome {
            outage.failed(e, &shared.late());
            return Err(Uncommittable);
        }
        let mut total = UsageSums::default();
        batch.sums.values().for_each(|sums| total += *sums);
        {
            let mut waiting = shared.waiting();
            (waiting.writing, waiting.is_late) = (None, false);
        }
        shared.committed.send_replace(last);
        outage.over(&total);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::{Code, Error, Name};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A database that can fail.
    #[derive(Debug, Default)]
    struct Kept {
        fails: AtomicBool,
        /// Whether what is committed gets no answer.
        loses_answers: AtomicBool,
        last: Mutex<Option<Uuid>>,
        sums: Mutex<Sums>,
        commits: Mutex<u32>,
    }

    #[async_trait]
    impl KeepsUsage for Kept {
        async fn add_usage(&self, batch: &Batch) -> Result<()> {
            *self.commits.lock().unwrap() += 1;
            if self.fails.load(Ordering::SeqCst) {
                return Err(Error::new(Code::Unavailable, "the disk is full"));
            }
            if self.last.lock().unwrap().replace(batch.id) != Some(batch.id) {
                let mut kept = self.sums.lock().unwrap();
                batch.sums.iter().for_each(|(key, sums)| add(&mut kept, key.clone(), *sums));
            }
            if self.loses_answers.load(Ordering::SeqCst) {
                return Err(Error::new(Code::Unavailable, "the connection was closed"));
            }
            Ok(())
        }
    }

    impl Kept {
        fn requests(&self) -> u64 {
            self.sums.lock().unwrap().values().map(|sums| sums.requests).sum()
        }
    }

    fn key(user: &str) -> UsageKey {
        let name = Name::parse("name", "a").unwrap();
        UsageKey { agent: name.clone(), provider: name, model: "m".into(), user: user.into() }
    }

    const ONE: UsageSums = UsageSums {
        requests: 1,
        failed_requests: 0,
        estimated_requests: 0,
        priced_requests: 0,
        input_tokens: 5,
        cached_input_tokens: 0,
        output_tokens: 0,
        cost: hoistway_model::Money::from_units(0),
    };

    #[tokio::test]
    async fn counts_at_the_same_time_share_commits_and_each_waits_for_its_own() {
        let (ledger, counts) = Ledger::new();
        let kept = Arc::new(Kept::default());
        let commits: Vec<_> = (0..500).map(|_| ledger.count(key(""), ONE)).collect();
        let keeping = tokio::spawn(keep(counts, kept.clone(), CancellationToken::new()));
        futures_util::future::join_all(commits).await;
        assert_eq!((kept.requests(), *kept.commits.lock().unwrap()), (500, 1));
        ledger.count(key("ada"), ONE).await;
        assert_eq!(kept.requests(), 501);
        let last = ledger.count(key(""), ONE);
        drop((ledger, last));
        keeping.await.unwrap();
        assert_eq!(kept.requests(), 502, "what is counted last is kept before the end");
    }

    #[tokio::test]
    async fn while_the_database_fails_nothing_is_dropped_and_answers_wait_a_second() {
        let (ledger, counts) = Ledger::new();
        let kept = Arc::new(Kept { fails: true.into(), ..Kept::default() });
        let keeping = tokio::spawn(keep(counts, kept.clone(), CancellationToken::new()));
        let began = tokio::time::Instant::now();
        let counts: Vec<_> = (0..3).map(|_| ledger.count(key(""), ONE)).collect();
        futures_util::future::join_all(counts).await;
        assert!(began.elapsed() >= PATIENCE);
        kept.fails.store(false, Ordering::SeqCst);
        let mut committed = ledger.shared.committed.subscribe();
        committed.wait_for(|number| *number == 3).await.unwrap();
        assert_eq!(kept.requests(), 3);
        drop(ledger);
        keeping.await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_whose_answer_is_lost_is_not_counted_twice() {
        let (ledger, counts) = Ledger::new();
        let kept = Arc::new(Kept { loses_answers: true.into(), ..Kept::default() });
        let keeping = tokio::spawn(keep(counts, kept.clone(), CancellationToken::new()));
        ledger.count(key("ada"), ONE).await;
        ledger.count(key("ada"), ONE).await;
        assert_eq!(kept.requests(), 1, "the second count waits for the first one's answer");
        kept.loses_answers.store(false, Ordering::SeqCst);
        let mut committed = ledger.shared.committed.subscribe();
        committed.wait_for(|number| *number == 2).await.unwrap();
        assert_eq!(kept.requests(), 2);
        drop(ledger);
        keeping.await.unwrap();
    }

    fn requests(uncommitted: &Uncommitted) -> u64 {
        let UncommittedSums { waiting, writing } = uncommitted.sums();
        let writing = writing.iter().flat_map(|batch| batch.sums.values());
        waiting.values().chain(writing).map(|sums| sums.requests).sum()
    }

    /// A database that another process has locked for good.
    #[derive(Debug)]
    struct Locked;

    #[async_trait]
    impl KeepsUsage for Locked {
        async fn add_usage(&self, _: &Batch) -> Result<()> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn waiting_sums_are_readable_and_retried() {
        let (ledger, counts) = Ledger::new();
        let kept = Arc::new(Kept { fails: true.into(), ..Kept::default() });
        let keeping = tokio::spawn(keep(counts, kept.clone(), CancellationToken::new()));
        let uncommitted = ledger.uncommitted();
        let waits = || requests(&uncommitted);
        assert_eq!(waits(), 0);
        ledger.count(key("ada"), ONE).await;
        ledger.count(key(""), ONE).await;
        assert_eq!(waits(), 2);
        drop(ledger);
        kept.fails.store(false, Ordering::SeqCst);
        keeping.await.unwrap();
        assert_eq!((kept.requests(), waits()), (2, 0));
    }

    #[tokio::test]
    async fn a_commit_that_hangs_is_readable_too_and_given_up_when_there_is_no_time_left() {
        let (ledger, counts) = Ledger::new();
        let out_of_time = CancellationToken::new();
        let keeping = tokio::spawn(keep(counts, Arc::new(Locked), out_of_time.clone()));
        let uncommitted = ledger.uncommitted();
        ledger.count(key("ada"), ONE).await;
        ledger.count(key("ada"), ONE).await;
        assert_eq!(requests(&uncommitted), 2);
        drop(ledger);
        out_of_time.cancel();
        keeping.await.unwrap();
    }

    #[test]
    fn of_too_many_users_those_that_come_last_have_no_name() {
        let mut all = Sums::new();
        for n in 0..MANY + 10 {
            add(&mut all, (0, key(&n.to_string())), ONE);
        }
        assert_eq!((all.len(), all[&(0, key(""))].requests), (MANY + 1, 10));
        assert_eq!(all.values().map(|sums| sums.requests).sum::<u64>(), (MANY + 10) as u64);
    }
}
