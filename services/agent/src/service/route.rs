//! The address that the gateway sends an agent's invokes to.

use super::{
    Service,
    failed_wake::not_started,
    revision_supervisor::{RevisionHealth, crashed},
    view::{STARTING, stopped},
};
use crate::store::AgentRecord;
use hoistway_model::agent::{Route, Target};

impl Service {
    /// Where invokes of an agent go.
    pub(super) fn route(&self, record: &AgentRecord) -> Route {
        let supervisor = record.active.or(record.desired).and_then(|id| self.supervisor(&id));
        let identity_provider =
            supervisor.as_ref().and_then(|supervisor| supervisor.revision.spec.config.identity_provider.clone());
        let needs_caller_identity = identity_provider.is_some();
        let agent = record.name.clone();
        let condition = supervisor.as_ref().map(|supervisor| supervisor.condition());
        let ready =
            record.active.is_some() && condition.as_ref().is_some_and(|c| matches!(c.life, RevisionHealth::Ready));
        if record.stopped {
            let message = stopped(record);
            return Route {
                agent,
                target: None,
                ready: false,
                message,
                needs_caller_identity,
                identity_provider,
                idle: false,
                idle_after: None,
            };
        }
        let message = match condition.as_ref().map(|c| &c.life) {
            _ if ready => String::new(),
            Some(RevisionHealth::Idle) => supervisor.as_ref().map(|s| s.idle_message()).unwrap_or_default(),
            Some(RevisionHealth::Waiting { why }) => why.clone(),
            Some(RevisionHealth::Down { why, .. }) => crashed(why),
            Some(RevisionHealth::Failed { message, .. }) => not_started(message),
            _ => STARTING.to_owned(),
        };
        let idle = match condition.as_ref().map(|c| &c.life) {
            Some(RevisionHealth::Idle) => true,
            _ => supervisor.as_ref().is_some_and(|supervisor| supervisor.is_waking()),
        };
        let target = match (record.active, &supervisor, condition.and_then(|c| c.address)) {
            (Some(revision), Some(supervisor), Some(address)) => {
                Some(Target { revision, address, token: supervisor.revision.token.clone() })
            }
            _ => None,
        };
        let idle_after = self.idle.after();
        Route { agent, target, ready, message, needs_caller_identity, identity_provider, idle, idle_after }
    }
}
