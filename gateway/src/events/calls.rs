//! Events of agents' outbound calls and budgets, followed from egress.

use super::{Event, Events, follow};
use crate::{budget_amount::amount, call_view::CallOut};
use futures_util::Stream;
use hoistway_kit::{
    event_log::Next,
    time::{now_ms, rfc3339},
};
use hoistway_model::{
    EgressService,
    egress::{BudgetNotice, Call, CallUpdate},
};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The event of an agent's call that ended.
pub const CALL_ENDED: &str = "call.ended";
/// The event of calls that are missing before the next one.
pub const CALLS_MISSED: &str = "call.missed";

/// The events of an agent that has used most of a limit of its budget, or all of it.
pub const BUDGET_WARNING: &str = "budget.warning";
pub const BUDGET_EXCEEDED: &str = "budget.exceeded";

impl Events {
    /// Follows the calls that egress records, until `shutdown`. Calls that ended during an interruption follow
    /// afterwards.
    pub async fn follow_egress(self: Arc<Self>, egress: Arc<dyn EgressService>, shutdown: CancellationToken) {
        let take = |after: &mut Option<u64>, update| match update {
            CallUpdate::Position(position) => *after = Some(position),
            CallUpdate::Missed(count) => {
                *after = after.map(|after| after.saturating_add(count));
                self.calls_missed();
            }
            CallUpdate::Call(call) => {
                *after = Some(call.id);
                self.call_ended(*call);
            }
            CallUpdate::Budget(notice) => self.budget_changed(notice),
        };
        follow(None, |after| egress.watch_calls(*after), take, shutdown).await
    }

    /// Follows calls from now on.
    pub fn follow_calls(&self) -> impl Stream<Item = Next<Event>> + Send + use<> {
        self.calls.follow(None)
    }

    fn call_ended(&self, call: Call) {
        let (agent, ended) = (call.agent.clone(), call.at.saturating_add_unsigned(call.duration_ms));
        let data = serde_json::to_value(CallOut::from(call)).unwrap_or_default();
        self.calls.push(|place| Event { place, kind: CALL_ENDED, time_ms: ended, agent, data });
    }

    fn budget_changed(&self, notice: BudgetNotice) {
        let BudgetNotice { at, agent, limit: used, is_exceeded } = notice;
        let kind = if is_exceeded { BUDGET_EXCEEDED } else { BUDGET_WARNING };
        let data = json!({
            "limit": used.limit.as_str(),
            "used": amount(used.limit, used.used),
            "most": amount(used.limit, used.most),
            "resets_at": rfc3339(used.resets_at),
        });
        self.events.push(|place| Event { place, kind, time_ms: at, agent: Some(agent), data });
    }

    fn calls_missed(&self) {
        let data = json!({"reason": "more calls ended than could be followed"});
        self.calls.push(|place| Event { place, kind: CALLS_MISSED, time_ms: now_ms(), agent: None, data });
    }
}
