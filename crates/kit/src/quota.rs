//! Something that all callers share (places, bytes), of which none may have more than a part: whoever asks for much is
//! told to wait, and nobody else is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// So much of it, and what everybody has of that.
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

/// Why there is nothing to be had now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaExceeded {
    /// The holder has as much as one may have.
    OfHolder,
    /// All is given out.
    Total,
}

impl SharedQuota {
    /// `total` of something, of which one holder gets `each` at most.
    pub fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { total, each, held: Mutex::default(), returned: Notify::new() })
    }

    /// How much of it one holder gets at most.
    pub fn each(&self) -> usize {
        self.each
    }

    /// An empty share of a holder's.
    pub fn share(self: &Arc<Self>, holder: &Arc<str>) -> QuotaGrant {
        QuotaGrant { of: self.clone(), holder: holder.clone(), amount: 0, reserved: 0 }
    }

    /// A share that has something, or nothing at all.
    pub fn take(self: &Arc<Self>, holder: &Arc<str>, amount: usize) -> Result<QuotaGrant, QuotaExceeded> {
        let mut share = self.share(holder);
        share.try_grow(amount).map(|()| share)
    }

    /// How much of it is given out.
    pub fn given(&self) -> usize {
        self.held().all
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one holder has; it is given back when this is dropped.
#[derive(Debug)]
pub struct QuotaGrant {
    of: Arc<SharedQuota>,
    holder: Arc<str>,
    amount: usize,
    reserved: usize,
}

impl QuotaGrant {
    /// How much it is.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Adds to it, out of what is reserved first, if that can be had now.
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

    /// Sees to it that it can grow to `amount` without other shares of the same holder being in the way, which would wait
    /// for each other if each had a part. Other holders lose nothing by it.
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

    /// Adds to it as soon as others have given enough back, within `patience`.
    pub async fn grow(&mut self, by: usize, patience: Duration) -> Result<(), QuotaExceeded> {
        self.wait(patience, |share| share.try_grow(by)).await
    }

    /// Reserves as [`Self::try_reserve`] does, as soon as the holder's other shares leave enough, within `patience`.
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
                // Whatever is given back from here on is heard of.
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
    async fn what_one_reserves_is_missing_to_its_own_shares_alone() {
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
