//! The quota of a body that arrives piece by piece.

use crate::quota::{QuotaExceeded, QuotaGrant};
use std::time::Duration;

/// The bytes of a body that are free, so that large bodies keep nobody from sending small ones, and the step in which
/// it is charged beyond them.
pub const STEP: usize = 64 << 10;

/// Charges a body for the bytes that have arrived: one that was only announced takes nothing from others. Of its own
/// holder's part all that it announced is reserved: several bodies of one holder with a part each would wait for each
/// other.
#[derive(Debug)]
pub struct BodyCharge {
    grant: QuotaGrant,
    announced: usize,
    charged: usize,
}

impl BodyCharge {
    /// The charge of a body of which nothing has arrived.
    pub fn new(grant: QuotaGrant, announced: Option<u64>) -> Self {
        let announced = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or_default().max(STEP);
        Self { grant, announced, charged: STEP }
    }

    /// Whether nothing is charged yet.
    pub fn is_free(&self) -> bool {
        self.charged == STEP
    }

    /// Charges for a body of `size` bytes so far, and waits up to `patience` for quota that others hold. Returns
    /// whether there was something to charge.
    pub async fn grow_to(&mut self, size: usize, patience: Duration) -> Result<bool, QuotaExceeded> {
        if size <= self.charged {
            return Ok(false);
        }
        if self.is_free() {
            self.grant.reserve(self.announced.next_multiple_of(STEP) - STEP, patience).await?;
        }
        let next = size.next_multiple_of(STEP);
        self.grant.grow(next - self.charged, patience).await?;
        self.charged = next;
        Ok(true)
    }

    /// The grant, which is held as long as the body is.
    pub fn into_grant(self) -> QuotaGrant {
        self.grant
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::quota::SharedQuota;

    #[tokio::test]
    async fn bodies_are_charged_in_steps_beyond_the_free_one() {
        let quota = SharedQuota::new(4 * STEP, 2 * STEP);
        let mut charge = BodyCharge::new(quota.share(&"a".into()), None);
        assert!(!charge.grow_to(STEP, Duration::ZERO).await.unwrap() && charge.is_free());
        assert!(charge.grow_to(STEP + 1, Duration::ZERO).await.unwrap());
        assert!(!charge.grow_to(2 * STEP, Duration::ZERO).await.unwrap());
        assert_eq!(quota.given(), STEP);
        assert!(charge.grow_to(5 * STEP, Duration::ZERO).await.is_err());
        drop(charge.into_grant());
        assert_eq!(quota.given(), 0);
    }
}
