//! Egress as the rest of the platform sees it.

use crate::{
    Authority, Egress,
    calls::metrics::CallMetrics,
    check,
    config::SERVICE,
    store::Store,
    usage::{Budgets, Uncommitted, UsageMetrics},
};
use async_trait::async_trait;
use hoistway_kit::{metrics, probes::ReadyCheck, process_metrics};
use hoistway_model::{
    Code, EgressService, Error, Name, Result,
    budget::{Budget, BudgetUse},
    egress::{Call, CallQuery, CallUpdates, Check, CheckKind, EgressStatus},
    metric::{Kind, Metrics},
    usage::{UsageQuery, UsageReport},
};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{Mutex, SemaphorePermit};

/// A handle on an opened service. It does not keep the service from ending.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    egress: Weak<Egress>,
    authority: Arc<Authority>,
    dropped_records: Arc<AtomicU64>,
    call_metrics: Arc<CallMetrics>,
    usage_metrics: Arc<UsageMetrics>,
    uncommitted: Uncommitted,
    budgets: Arc<Budgets>,
    /// Held while a budget is set: in the database and in memory in the same order.
    setting: Arc<Mutex<()>>,
    store: Store,
}

impl Handle {
    pub(crate) fn new(egress: &Arc<Egress>, authority: Arc<Authority>, store: Store) -> Self {
        let dropped_records = egress.recorder.dropped();
        let (call_metrics, usage_metrics) = (Arc::clone(&egress.call_metrics), egress.usage.metrics());
        Self {
            egress: Arc::downgrade(egress),
            authority,
            dropped_records,
            call_metrics,
            usage_metrics,
            uncommitted: egress.usage.uncommitted(),
            budgets: Arc::clone(&egress.budgets),
            setting: Arc::default(),
            store,
        }
    }

    fn egress(&self) -> Result<Arc<Egress>> {
        self.egress.upgrade().ok_or_else(|| Error::new(Code::Unavailable, "egress is shutting down"))
    }
}

fn may_check(egress: &Egress) -> Result<SemaphorePermit<'_>> {
    let full = |_| Error::new(Code::ResourceExhausted, "too many checks are in progress already");
    egress.checks.try_acquire().map_err(full)
}

#[async_trait]
impl ReadyCheck for Handle {
    async fn check(&self) -> Result<()> {
        // Calls do not wait for the database.
        match self.egress()?.policies.status().is_complete() {
            true => Ok(()),
            false => Err(Error::new(Code::Unavailable, "it is not known yet what agents may call")),
        }
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

    async fn calls(&self, query: CallQuery) -> Result<Vec<Call>> {
        self.store.calls(query).await
    }

    async fn watch_calls(&self, after: Option<u64>) -> Result<CallUpdates> {
        self.store.follow(after).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<UsageReport> {
        self.store.usage(query, &self.uncommitted.sums()).await
    }

    async fn budget(&self, agent: Name) -> Result<Option<BudgetUse>> {
        let Some(limits) = self.budgets.of(&agent) else { return Ok(None) };
        let unpriced_models = self.store.unpriced_models(&agent).await?;
        Ok(Some(BudgetUse { limits, unpriced_models }))
    }

    async fn set_budget(&self, agent: Name, budget: Option<Budget>) -> Result<()> {
        let _setting = self.setting.lock().await;
        self.store.keep_budget(&agent, budget.as_ref()).await?;
        self.budgets.set(&agent, budget);
        Ok(())
    }

    async fn check_tool(&self, name: Name) -> Result<Check> {
        let egress = self.egress()?;
        let _permit = may_check(&egress)?;
        match egress.policies.tool(&name).await {
            Ok(tool) => Ok(check::check_tool(&egress, &tool).await),
            Err(e) if e.code == Code::InvalidArgument => Ok(check::unusable(CheckKind::Address, e.message)),
            Err(e) => Err(e),
        }
    }

    async fn check_model_provider(&self, name: Name) -> Result<Check> {
        let egress = self.egress()?;
        let _permit = may_check(&egress)?;
        let provider = egress.policies.model_provider(&name).await?;
        Ok(check::check_model_provider(&egress, &provider).await)
    }

    async fn egress_metrics(&self) -> Result<Metrics> {
        let EgressStatus { tools, identities, model_providers } = self.status().await?;
        let sources = [("tool-registry", tools), ("agent", identities), ("model-providers", model_providers)];
        let by_source = |value: fn(&hoistway_model::egress::PolicySource) -> f64| {
            sources.map(|(source, at)| ([("source", source.to_owned())], value(&at)))
        };
        let dropped = self.dropped_records.load(Ordering::Relaxed) + self.store.lost();
        let dropped = [([] as [(&str, String); 0], dropped as f64)];
        let mut families = vec![
            metrics::family(
                Kind::Gauge,
                "hoistway_egress_policy_source_up",
                "1 while changes of what agents may call arrive from the service, else 0.",
                by_source(|at| f64::from(u8::from(at.connected))),
            ),
            metrics::family(
                Kind::Gauge,
                "hoistway_egress_policy_records",
                "What egress knows from the service: tools, revisions of agents, or model providers.",
                by_source(|at| at.records as f64),
            ),
            metrics::family(
                Kind::Counter,
                "hoistway_egress_dropped_records_total",
                "Records of calls that were not kept, because the queue was full or the database failed.",
                dropped,
            ),
        ];
        let known = self.egress.upgrade().and_then(|egress| egress.policies.agents());
        families.extend(self.call_metrics.families(known.as_ref()));
        families.extend(self.usage_metrics.families(known.as_ref()));
        let database = self.store.size().await.ok();
        let read = move || {
            families.push(metrics::database(SERVICE, database));
            process_metrics::of_service(SERVICE, families)
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal("reading what was measured", e))
    }
}
