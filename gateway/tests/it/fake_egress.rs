//! Egress as far as the HTTP edge can tell.

use async_trait::async_trait;
use hoistway_kit::metrics;
use hoistway_model::{
    Code, EgressService, Error, Result,
    egress::{Call, CallQuery, EgressStatus, PolicySource},
    metric::{Kind, Metrics},
};
use std::sync::{Arc, Mutex};

/// An egress with calls that a test makes.
#[derive(Debug, Default)]
pub struct FakeEgress {
    /// Its state; none: it does not answer.
    pub status: Mutex<Option<EgressStatus>>,
}

impl FakeEgress {
    pub fn new() -> Arc<Self> {
        let known = |records| PolicySource { complete: true, connected: true, records };
        Arc::new(Self { status: Mutex::new(Some(EgressStatus { tools: known(2), identities: known(1) })) })
    }
}

#[async_trait]
impl EgressService for FakeEgress {
    async fn status(&self) -> Result<EgressStatus> {
        self.status.lock().unwrap().ok_or_else(|| Error::new(Code::Unavailable, "away"))
    }

    async fn authority(&self) -> Result<String> {
        Err(Error::new(Code::Internal, "the edge does not call this"))
    }

    async fn calls(&self, _: CallQuery) -> Result<Vec<Call>> {
        Ok(Vec::new())
    }

    async fn egress_metrics(&self) -> Result<Metrics> {
        self.status().await?;
        let dropped = metrics::family(Kind::Counter, "hoistway_egress_dropped_records_total", "Lost.", [([], 0.0)]);
        Ok(metrics::of_service("egress", vec![dropped]))
    }
}
