//! Egress as the HTTP API uses it.

use crate::fakes::name;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hoistway_kit::{metrics, process_metrics};
use hoistway_model::{
    Code, EgressService, Error, Name, Result, RevisionId,
    budget::{Budget, BudgetUse, LimitUse},
    egress::{Call, CallQuery, CallTarget, CallUpdate, CallUpdates, Check, EgressStatus, PolicySource},
    metric::{Kind, Metrics},
    usage::{UsageQuery, UsageReport},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// An egress with calls that a test sets.
#[derive(Debug, Default)]
pub struct FakeEgress {
    /// Its state; `None`: it does not answer.
    pub status: Mutex<Option<EgressStatus>>,
    /// Recorded calls, oldest first.
    pub calls: Mutex<Vec<Call>>,
    /// The use of models by agents, and the queries for it.
    pub usage: Mutex<UsageReport>,
    pub usage_queries: Mutex<Vec<UsageQuery>>,
    /// Budgets of agents, which are unused.
    pub budgets: Mutex<BTreeMap<Name, Budget>>,
    /// The result of a check of any tool.
    pub check: Mutex<Option<Check>>,
    /// The positions that followers requested to continue from.
    pub watched: Mutex<Vec<Option<u64>>>,
    pub updates: Mutex<Option<mpsc::Sender<CallUpdate>>>,
}

impl FakeEgress {
    pub fn new() -> Arc<Self> {
        let known = |records| PolicySource { complete: true, connected: true, records };
        Arc::new(Self {
            status: Mutex::new(Some(EgressStatus { tools: known(2), identities: known(1), model_providers: known(1) })),
            ..Self::default()
        })
    }
}

impl FakeEgress {
    /// Sends an update to the `nth` follower.
    pub async fn update(&self, nth: usize, update: CallUpdate) {
        while self.watched.lock().unwrap().len() < nth {
            tokio::task::yield_now().await;
        }
        let updates = self.updates.lock().unwrap().clone().unwrap();
        updates.send(update).await.unwrap();
    }

    /// Ends all followed streams, as a restart of the service would.
    pub fn hang_up(&self) {
        self.updates.lock().unwrap().take();
    }
}

/// Returns a call that a tool answered.
pub fn call(id: u64, agent: &str, tool: &str) -> Call {
    Call {
        id,
        at: 1_500,
        agent: Some(name(agent)),
        revision: Some(RevisionId::mint()),
        target: Some(CallTarget::Tool(name(tool))),
        method: "POST".into(),
        origin: "https://api.example:8443".into(),
        path: "/v1/charges".into(),
        status: Some(201),
        first_byte_ms: 20,
        duration_ms: 30,
        bytes_up: 7,
        bytes_down: 9,
        refused: None,
        error: None,
        broken: None,
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

    async fn calls(&self, query: CallQuery) -> Result<Vec<Call>> {
        self.status().await?;
        let calls = self.calls.lock().unwrap().clone().into_iter().rev();
        let wanted = calls
            .filter(|call| query.agent.is_none() || call.agent == query.agent)
            .filter(|call| query.tool.as_ref().is_none_or(|tool| call.target == Some(CallTarget::Tool(tool.clone()))))
            .filter(|call| !query.refused || call.refused.is_some())
            .filter(|call| query.before.is_none_or(|before| call.id < before));
        Ok(wanted.take(query.limit as usize).collect())
    }

    async fn watch_calls(&self, after: Option<u64>) -> Result<CallUpdates> {
        self.status().await?;
        let (sender, updates) = mpsc::channel(16);
        let _ = sender.try_send(CallUpdate::Position(after.unwrap_or_default()));
        *self.updates.lock().unwrap() = Some(sender);
        self.watched.lock().unwrap().push(after);
        Ok(stream::unfold(updates, |mut u| async move { u.recv().await.map(|update| (Ok(update), u)) }).boxed())
    }

    async fn usage(&self, query: UsageQuery) -> Result<UsageReport> {
        let (from, to) = (query.from, query.to);
        self.usage_queries.lock().unwrap().push(query);
        Ok(UsageReport { from, to, ..self.usage.lock().unwrap().clone() })
    }

    async fn budget(&self, agent: Name) -> Result<Option<BudgetUse>> {
        let budget = self.budgets.lock().unwrap().get(&agent).cloned();
        let unused = |&(limit, most): &_| LimitUse { limit, most, used: 0, resets_at: 86_400_000 };
        Ok(budget.map(|budget| {
            let limits = budget.limits().iter().map(unused).collect();
            BudgetUse { limits, unpriced_models: vec!["m".into()] }
        }))
    }

    async fn set_budget(&self, agent: Name, budget: Option<Budget>) -> Result<()> {
        let mut budgets = self.budgets.lock().unwrap();
        budgets.remove(&agent);
        budgets.extend(budget.map(|budget| (agent, budget)));
        Ok(())
    }

    async fn check_tool(&self, name: Name) -> Result<Check> {
        self.check.lock().unwrap().clone().ok_or_else(|| Error::not_found("tool", name))
    }

    async fn check_model_provider(&self, name: Name) -> Result<Check> {
        self.check.lock().unwrap().clone().ok_or_else(|| Error::not_found("model provider", name))
    }

    async fn egress_metrics(&self) -> Result<Metrics> {
        self.status().await?;
        let dropped = metrics::family(Kind::Counter, "hoistway_egress_dropped_records_total", "Lost.", [([], 0.0)]);
        Ok(process_metrics::of_service("egress", vec![dropped]))
    }
}
