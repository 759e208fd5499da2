//! A quota that all callers share (slots, bytes), with a limit for each holder: a caller that requests too much waits,
//! and no other caller does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// A total amount and the amounts of its holders.
#[derive(Debug)]
pub struct SharedQuota {
    total: usize,
    each: usize,
    held: Mutex<Held>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by: HashMap<Arc<str>, usize>,
}

/// The limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaExceeded {
    /// That of the holder.
    OfHolder,
    /// The total.
    Total,
}

impl SharedQuota {
    /// Creates a quota of `total`, of which one holder gets at most `each`.
    pub fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { total, each, held: Mutex::default(), returned: Notify::new() })
    }

    /// Returns the limit of one holder.
    pub fn each(&self) -> usize {
        self.each
    }

    /// Returns an empty grant of a holder.
    pub fn share(self: &Arc<Self>, holder: &Arc<str>) -> QuotaGrant {
        QuotaGrant { of: self.clone(), holder: holder.clone(), amount: 0, reserved: 0 }
    }

    /// Returns a grant of the full amount, or an error.
    pub fn take(self: &Arc<Self>, holder: &Arc<str>, amount: usize) -> Result<QuotaGrant, QuotaExceeded> {
        let mut share = self.share(holder);
        share.try_grow(amount).map(|()| share)
    }

    /// Returns the granted amount of all holders.
    pub fn given(&self) -> usize {
        self.held().all
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A granted amount of one holder; dropping it returns the amount.
#[derive(Debug)]
pub struct QuotaGrant {
    of: Arc<SharedQuota>,
    holder: Arc<str>,
    amount: usize,
    reserved: usize,
}

impl QuotaGrant {
    /// Returns the amount.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Adds to it, out of the reservation first, if that is available now.
    pub fn try_grow(&mut self, by: usize) -> Result<(), QuotaExceeded> {
        let reserved = self.reserved.min(by);
        let mut held = self.of.held();
        let own = held.by.get(&self.holder).copied().unwrap_or_default();
        if own + by - reserved > self.of.each {
            return Err(QuotaExceeded::OfHolder);
        }
        if held.all + by > self.of.total {
            return Err(QuotaExceeded::Total);
        }
        held.all += by;
        *held.by.entry(self.holder.clone()).or_default() += by - reserved;
        self.amount += by;
        self.reserved -= reserved;
        Ok(())
    }

    /// Reserves growth to `amount` against other grants of the same holder, which would deadlock if each had a part. It
    /// does not reduce the share of other holders.
    pub fn try_reserve(&mut self, amount: usize) -> Result<(), QuotaExceeded> {
        let more = amount.saturating_sub(self.amount + self.reserved);
        let mut held = self.of.held();
        if held.by.get(&self.holder).copied().unwrap_or_default() + more > self.of.each {
            return Err(QuotaExceeded::OfHolder);
        }
        *held.by.entry(self.holder.clone()).or_default() += more;
        self.reserved += more;
        Ok(())
    }

    /// Adds to it as soon as others have returned enough, within `patience`.
    pub async fn grow(&mut self, by: usize, patience: Duration) -> Result<(), QuotaExceeded> {
        self.wait(patience, |share| share.try_grow(by)).await
    }

    /// Reserves as [`Self::try_reserve`] does, as soon as the holder's other grants leave enough, within `patience`.
    pub async fn reserve(&mut self, amount: usize, patience: Duration) -> Result<(), QuotaExceeded> {
        self.wait(patience, |share| share.try_reserve(amount)).await
    }

    async fn wait(
        &mut self,
        patience: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<(), QuotaExceeded>,
    ) -> Result<(), QuotaExceeded> {
        let of = self.of.clone();
        let mut why = QuotaExceeded::Total;
        let waiting = async {
            loop {
                let returned = of.returned.notified();
                tokio::pin!(returned);
                // Every return from here on wakes this task.
                returned.as_mut().enable();
                match attempt(self) {
                    Ok(()) => return,
                    Err(full) => why = full,
                }
                returned.await;
            }
        };
        timeout(patience, waiting).await.map_err(|_| why)
    }
}

impl Drop for QuotaGrant {
    fn drop(&mut self) {
        let own_amount = self.amount + self.reserved;
        if own_amount == 0 {
            return;
        }
        let mut held = self.of.held();
        held.all -= self.amount;
        if let Some(own) = held.by.get_mut(&self.holder) {
            *own -= own_amount;
            if *own == 0 {
                held.by.remove(&self.holder);
            }
        }
        drop(held);
        self.of.returned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_holder_gets_its_part_and_waits_for_what_it_gives_back() {
        let shares = SharedQuota::new(10, 6);
        let (a, b) = ("a".into(), "b".into());
        let first = shares.take(&a, 6).unwrap();
        assert_eq!(shares.take(&a, 1).unwrap_err(), QuotaExceeded::OfHolder);
        let mut second = shares.take(&b, 3).unwrap();
        assert_eq!(second.try_grow(2), Err(QuotaExceeded::Total));
        assert_eq!(second.grow(2, Duration::from_millis(20)).await, Err(QuotaExceeded::Total));
        let waiting = tokio::spawn(async move { second.grow(2, Duration::from_secs(20)).await.map(|()| second) });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert_eq!(second.amount(), 5);
        drop(second);
        assert!(shares.held().by.is_empty() && shares.held().all == 0);
    }

    #[tokio::test]
    async fn a_reservation_reduces_the_quota_of_its_holder_only() {
        let shares = SharedQuota::new(10, 6);
        let (a, b) = ("a".into(), "b".into());
        let (mut first, mut second) = (shares.share(&a), shares.share(&a));
        first.try_reserve(6).unwrap();
        assert_eq!(
            (second.try_reserve(1), second.try_grow(1)),
            (Err(QuotaExceeded::OfHolder), Err(QuotaExceeded::OfHolder))
        );
        let other = shares.take(&b, 6).unwrap();
        first.try_grow(4).unwrap();
        first.try_reserve(6).unwrap();
        assert_eq!(first.try_grow(1), Err(QuotaExceeded::Total));
        drop(other);
        first.try_grow(2).unwrap();
        assert_eq!(first.try_grow(1), Err(QuotaExceeded::OfHolder));
        let waiting = tokio::spawn(async move { second.reserve(5, Duration::from_secs(20)).await.map(|()| second) });
        tokio::task::yield_now().await;
        drop(first);
        drop(waiting.await.unwrap().unwrap());
        assert!(shares.held().by.is_empty() && shares.held().all == 0);
    }
}
