//! Budgets and how much of them is used, in memory: a call is let through or refused without waiting. What was used is
//! read from the database at the start, so a restart forgets nothing; more than a limit is used by calls in flight
//! only.

use super::DAY;
use crate::{forward::refusal::Refusal, store::Spent};
use hoistway_kit::time::{month, now_ms, rfc3339};
use hoistway_model::{
    Name, RevisionId,
    budget::{Budget, BudgetLimit, LimitUse},
    egress::{BudgetNotice, RefusedCall},
    usage::UsageSums,
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{broadcast, mpsc};

const MINUTE: i64 = 60_000;
/// The share of a limit that is reported, in thousandths, and that at which calls stop.
const WARNING: u64 = 800;
const FULL: u64 = 1000;

/// The budgets of agents, and their usage. The accounts are as many as agents called models this month.
#[derive(Debug)]
pub(crate) struct Budgets {
    accounts: Mutex<HashMap<Name, Account>>,
    /// The logs of agents; none: nobody writes them.
    lines: Option<mpsc::Sender<RefusedCall>>,
    notices: broadcast::Sender<BudgetNotice>,
}

#[derive(Debug, Default)]
struct Account {
    budget: Option<Budget>,
    day: Period,
    month: Period,
    minute: Period,
}

/// The usage since the beginning of a period.
#[derive(Debug, Clone, Copy, Default)]
struct Period {
    start: i64,
    end: i64,
    requests: u128,
    tokens: u128,
    cost: u128,
    /// Whether it was reported that its requests are refused.
    is_told: bool,
}

impl Period {
    /// Begins anew, if another period has begun. A clock that is set back gives nothing back.
    fn roll(&mut self, (start, end): (i64, i64)) {
        if start > self.start {
            *self = Self { start, end, ..Self::default() };
        }
    }

    fn add(&mut self, tokens: u128, cost: u128) {
        self.tokens += tokens;
        self.cost += cost;
    }
}

impl Account {
    fn roll(&mut self, now: i64) {
        let of = |length: i64| (now - now.rem_euclid(length), now - now.rem_euclid(length) + length);
        self.minute.roll(of(MINUTE));
        self.day.roll(of(DAY));
        self.month.roll(month(now));
    }

    /// The part of each limit that is used.
    fn uses(&self) -> Vec<LimitUse> {
        let limits = self.budget.as_ref().map(Budget::limits).unwrap_or_default();
        let of = |&(limit, most): &(BudgetLimit, u128)| {
            let (used, period) = match limit {
                BudgetLimit::TokensPerDay => (self.day.tokens, &self.day),
                BudgetLimit::TokensPerMonth => (self.month.tokens, &self.month),
                BudgetLimit::CostPerDay => (self.day.cost, &self.day),
                BudgetLimit::CostPerMonth => (self.month.cost, &self.month),
                BudgetLimit::RequestsPerMinute => (self.minute.requests, &self.minute),
            };
            LimitUse { limit, most, used, resets_at: period.end }
        };
        limits.iter().map(of).collect()
    }
}

impl Budgets {
    /// Those that are kept, with what was used this month.
    pub(crate) fn new(
        kept: Vec<(Name, Budget)>,
        spent: Vec<(Name, Spent)>,
        lines: Option<mpsc::Sender<RefusedCall>>,
        notices: broadcast::Sender<BudgetNotice>,
    ) -> Self {
        let (mut accounts, now) = (HashMap::<Name, Account>::new(), now_ms());
        for (agent, budget) in kept {
            accounts.entry(agent).or_default().budget = Some(budget);
        }
        for (agent, Spent { day, month }) in spent {
            let account = accounts.entry(agent).or_default();
            account.roll(now);
            account.day.add(day.0, day.1);
            account.month.add(month.0, month.1);
        }
        Self { accounts: Mutex::new(accounts), lines, notices }
    }

    /// Lets a call of a model through, or says which limit is used up.
    pub(crate) fn check(&self, agent: &Name) -> Result<(), Refusal> {
        let now = now_ms();
        let (at, is_news) = {
            let mut accounts = self.accounts();
            let Some(account) = accounts.get_mut(agent).filter(|account| account.budget.is_some()) else {
                return Ok(());
            };
            account.roll(now);
            let Some(at) = account.uses().into_iter().find(|at| at.used >= at.most) else {
                account.minute.requests += 1;
                return Ok(());
            };
            // The other limits are met by what is counted at the end of a call.
            let is_rate = at.limit == BudgetLimit::RequestsPerMinute;
            let is_news = is_rate && !account.minute.is_told;
            account.minute.is_told |= is_rate;
            (at, is_news)
        };
        if is_news {
            // The refusal itself is in the agent's log.
            self.report(agent, None, &at, now);
        }
        Err(refusal(agent, &at, now))
    }

    /// Whether the agent has used up its tokens or its money, so that a call which failed is not made again.
    pub(crate) fn is_used_up(&self, agent: &Name) -> bool {
        let (mut accounts, now) = (self.accounts(), now_ms());
        let Some(account) = accounts.get_mut(agent) else { return false };
        account.roll(now);
        // The call itself is one of this minute already.
        account.uses().iter().any(|at| at.limit != BudgetLimit::RequestsPerMinute && at.used >= at.most)
    }

    /// Counts what a call has used, and tells whoever should know.
    pub(crate) fn count(&self, agent: &Name, revision: RevisionId, sums: &UsageSums) {
        let now = now_ms();
        let crossed: Vec<LimitUse> = {
            let mut accounts = self.accounts();
            let account = accounts.entry(agent.clone()).or_default();
            account.roll(now);
            let before = account.uses();
            let (tokens, cost) = (sums.total_tokens().into(), sums.cost.units());
            account.day.add(tokens, cost);
            account.month.add(tokens, cost);
            let before = before.into_iter().map(Some).zip(account.uses());
            before.filter(|(before, after)| crosses(before.as_ref(), after)).map(|(_, after)| after).collect()
        };
        for at in crossed {
            self.report(agent, Some(revision), &at, now);
        }
    }

    /// Tells the operator and whoever follows, and in the log of the revision whose call it was, if it was one.
    fn report(&self, agent: &Name, revision: Option<RevisionId>, at: &LimitUse, now: i64) {
        let is_exceeded = at.share() >= FULL;
        let text = match is_exceeded {
            true => format!("{}; its calls of models are refused until then", shown(agent, at)),
            false => format!("{}, at which its calls of models stop", shown(agent, at)),
        };
        tracing::warn!("{text}");
        if let (Some(lines), Some(revision)) = (&self.lines, revision) {
            // A full queue means that the agent service is lost, or that the agent's log is full of refusals already.
            let _ = lines.try_send(RefusedCall { revision, text });
        }
        // Nobody need follow.
        let _ = self.notices.send(BudgetNotice { at: now, agent: agent.clone(), limit: *at, is_exceeded });
    }

    /// The part of an agent's budget that is used; none: it has no budget.
    pub(crate) fn of(&self, agent: &Name) -> Option<Vec<LimitUse>> {
        let mut accounts = self.accounts();
        let account = accounts.get_mut(agent).filter(|account| account.budget.is_some())?;
        account.roll(now_ms());
        Some(account.uses())
    }

    /// Gives an agent a budget in the place of another one, or takes it away. A budget that is used up as it is set is
    /// reported, since no call will cross the mark any more.
    pub(crate) fn set(&self, agent: &Name, budget: Option<Budget>) {
        let now = now_ms();
        let crossed: Vec<LimitUse> = {
            let mut accounts = self.accounts();
            let account = accounts.entry(agent.clone()).or_default();
            account.roll(now);
            let before = account.uses();
            account.budget = budget;
            account.minute.is_told = false;
            let before = |at: &LimitUse| before.iter().find(|before| before.limit == at.limit);
            let is_of_calls_that_ended = |at: &LimitUse| at.limit != BudgetLimit::RequestsPerMinute;
            account.uses().into_iter().filter(|at| is_of_calls_that_ended(at) && crosses(before(at), at)).collect()
        };
        for at in crossed {
            self.report(agent, None, &at, now);
        }
    }

    /// Forgets agents without a budget that have used nothing this month.
    pub(crate) fn tidy(&self) {
        let (this_month, _) = month(now_ms());
        self.accounts().retain(|_, account| account.budget.is_some() || account.month.start >= this_month);
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Name, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether so much more is used now, or so much less may be, that people should know.
fn crosses(before: Option<&LimitUse>, after: &LimitUse) -> bool {
    let before = before.map_or(0, LimitUse::share);
    [WARNING, FULL].into_iter().any(|mark| before < mark && after.share() >= mark)
}

fn shown(agent: &Name, LimitUse { limit, most, used, resets_at }: &LimitUse) -> String {
    let (used, most, anew) = (limit.show(*used), limit.show(*most), rfc3339(*resets_at));
    format!("the agent \"{agent}\" has used {used} of {most} {limit} of its budget, which begins anew at {anew}")
}

fn refusal(agent: &Name, at: &LimitUse, now: i64) -> Refusal {
    let wait = Duration::from_millis(at.resets_at.saturating_sub(now).max(1).unsigned_abs());
    let text = format!("{}; an operator raises it with PUT /api/agents/{agent}/budget", shown(agent, at));
    match at.limit {
        BudgetLimit::RequestsPerMinute => Refusal::rate_limited(wait, text),
        _ => Refusal::budget_exceeded(wait, text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name() -> Name {
        Name::parse("name", "a").unwrap()
    }

    fn budgets(
        limits: &[(BudgetLimit, u128)],
        spent: Vec<(Name, Spent)>,
    ) -> (Budgets, broadcast::Receiver<BudgetNotice>) {
        let (notices, told) = broadcast::channel(16);
        let budget = Budget::new(limits.iter().copied()).unwrap();
        (Budgets::new(vec![(name(), budget)], spent, None, notices), told)
    }

    fn used(tokens: u64) -> UsageSums {
        UsageSums { requests: 1, input_tokens: tokens, ..UsageSums::default() }
    }

    #[test]
    fn earlier_usage_counts_and_each_mark_is_reported_once() {
        let spent = vec![(name(), Spent { day: (700, 0), month: (5_000, 0) })];
        let (budgets, mut told) = budgets(&[(BudgetLimit::TokensPerDay, 1_000)], spent);
        let revision = RevisionId::mint();
        let mut marks = Vec::new();
        for _ in 0..5 {
            budgets.check(&name()).unwrap();
            budgets.count(&name(), revision, &used(60));
            marks.extend(told.try_recv().map(|notice| (notice.limit.used, notice.is_exceeded)));
        }
        budgets.count(&name(), revision, &used(60));
        assert_eq!(marks, [(820, false), (1_000, true)]);
        assert!(told.try_recv().is_err());
        let refusal = budgets.check(&name()).unwrap_err();
        assert!(refusal.message.contains("has used 1060 of 1000 tokens_per_day"), "{}", refusal.message);
        assert_eq!((refusal.word, refusal.status.as_u16()), ("budget_exceeded", 429));
        budgets.set(&name(), Some(Budget::new([(BudgetLimit::TokensPerDay, 2_000)]).unwrap()));
        budgets.check(&name()).unwrap();
        budgets.set(&name(), None);
        assert_eq!(budgets.of(&name()), None);
    }

    #[test]
    fn a_budget_that_is_used_up_as_it_is_set_is_told_once() {
        let spent = vec![(name(), Spent { day: (700, 0), month: (700, 0) })];
        let (budgets, mut told) = budgets(&[(BudgetLimit::TokensPerDay, 10_000)], spent);
        let mut set = |most| {
            budgets.set(&name(), Some(Budget::new([(BudgetLimit::TokensPerDay, most)]).unwrap()));
            told.try_recv().map(|notice| (notice.limit.used, notice.is_exceeded)).ok()
        };
        assert_eq!(
            [900, 800, 700, 700, 500, 5_000, 500].map(&mut set),
            [None, Some((700, false)), Some((700, true)), None, None, None, Some((700, true)),]
        );
    }

    #[test]
    fn a_period_begins_anew_and_a_clock_that_is_set_back_gives_nothing_back() {
        let mut account = Account { budget: Budget::new([(BudgetLimit::TokensPerDay, 10)]).ok(), ..Account::default() };
        let used = |account: &Account| account.uses()[0].used;
        account.roll(5 * DAY);
        account.day.add(7, 0);
        account.roll(5 * DAY - 1);
        assert_eq!((used(&account), account.uses()[0].resets_at), (7, 6 * DAY));
        account.roll(6 * DAY);
        assert_eq!(used(&account), 0);
    }

    #[test]
    fn requests_are_counted_as_they_are_let_through() {
        let (budgets, mut told) = budgets(&[(BudgetLimit::RequestsPerMinute, 3)], Vec::new());
        let refused = (0..10).filter(|_| budgets.check(&name()).is_err()).count();
        // The minute may end meanwhile.
        assert!((4..=7).contains(&refused), "{refused}");
        let notice = told.try_recv().unwrap();
        assert_eq!((notice.limit.limit, notice.limit.used), (BudgetLimit::RequestsPerMinute, 3));
        assert!(notice.is_exceeded);
        let more = std::iter::from_fn(|| told.try_recv().ok()).count();
        assert!(more <= 1, "once in each minute, not {more} times more");
        let of_others = Name::parse("name", "b").unwrap();
        assert!((0..10).all(|_| budgets.check(&of_others).is_ok()));
    }

    #[test]
    fn agents_that_used_nothing_this_month_are_forgotten() {
        let (budgets, _told) = budgets(&[(BudgetLimit::TokensPerDay, 1)], Vec::new());
        budgets.accounts().insert(Name::parse("name", "old").unwrap(), Account::default());
        budgets.count(&Name::parse("name", "new").unwrap(), RevisionId::mint(), &used(1));
        budgets.tidy();
        assert_eq!(budgets.accounts().len(), 2);
    }
}
