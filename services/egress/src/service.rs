//! Egress as the rest of the platform sees it.

use crate::{Authority, Egress, config::SERVICE};
use async_trait::async_trait;
use hoistway_kit::metrics;
use hoistway_model::{
    EgressService, Error, Result,
    egress::EgressStatus,
    metric::{Kind, Metrics},
};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

/// A handle on an opened service. It does not keep the service from ending.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    egress: Weak<Egress>,
    authority: Arc<Authority>,
    dropped_records: Arc<AtomicU64>,
}

impl Handle {
    pub(crate) fn new(egress: &Arc<Egress>, authority: Arc<Authority>) -> Self {
        Self { egress: Arc::downgrade(egress), authority, dropped_records: egress.recorder.dropped() }
    }
}

#[async_trait]
impl EgressService for Handle {
    async fn status(&self) -> Result<EgressStatus> {
        Ok(self.egress.upgrade().map(|egress| egress.policies.status()).unwrap_or_default())
    }

    async fn authority(&self) -> Result<String> {
        Ok(self.authority.pem().to_owned())
    }

    async fn egress_metrics(&self) -> Result<Metrics> {
        let EgressStatus { tools, identities } = self.status().await?;
        let sources = [("tool-registry", tools), ("agent", identities)];
        let by_source = |value: fn(&hoistway_model::egress::PolicySource) -> f64| {
            sources.map(|(source, at)| ([("source", source.to_owned())], value(&at)))
        };
        let dropped = [([] as [(&str, String); 0], self.dropped_records.load(Ordering::Relaxed) as f64)];
        let families = vec![
            metrics::family(
                Kind::Gauge,
                "hoistway_egress_policy_source_up",
                "1 while changes of what agents may call arrive from the service, else 0.",
                by_source(|at| f64::from(u8::from(at.connected))),
            ),
            metrics::family(
                Kind::Gauge,
                "hoistway_egress_policy_records",
                "What egress knows from the service: tools, or revisions of agents.",
                by_source(|at| at.records as f64),
            ),
            metrics::family(
                Kind::Counter,
                "hoistway_egress_dropped_records_total",
                "Records of calls that were dropped because the queue was full.",
                dropped,
            ),
        ];
        let read = move || metrics::of_service(SERVICE, families);
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal("reading what was measured", e))
    }
}
