use super::{config, digest, name, optional, parsed, required};
use crate::agents::v1 as pb;
use hoistway_model::{
    Error, Result, Secret,
    agent::{
        Agent, AgentChange, AgentEvent, AgentSpec, EventPosition, Phase, RevisionStatus, Route, RouteEvent,
        RuntimeStatus, Target, VersionedRoute,
    },
};
use std::time::Duration;

impl From<AgentSpec> for pb::AgentSpec {
    fn from(s: AgentSpec) -> Self {
        Self {
            agent: s.agent.into(),
            image: s.image.to_string(),
            build_id: s.build_id.unwrap_or_default(),
            entry_point: s.entry_point.unwrap_or_default(),
            tools: s.tools.into_iter().map(Into::into).collect(),
            fingerprint: s.fingerprint.to_string(),
            ..s.config.into()
        }
    }
}

impl TryFrom<pb::AgentSpec> for AgentSpec {
    type Error = Error;

    fn try_from(mut s: pb::AgentSpec) -> Result<Self> {
        Ok(Self {
            config: config::of_spec(&mut s)?,
            agent: name("spec.agent", &s.agent)?,
            image: parsed("spec.image", &s.image)?,
            build_id: optional(s.build_id),
            entry_point: optional(s.entry_point),
            tools: s.tools.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            fingerprint: parsed("spec.fingerprint", &s.fingerprint)?,
        })
    }
}

impl From<RevisionStatus> for pb::StartRevisionResponse {
    fn from(s: RevisionStatus) -> Self {
        Self {
            revision_id: s.revision.to_string(),
            phase: s.phase.as_str().into(),
            message: s.message,
            image_digest: s.image_digest.map(Into::into),
            number: s.number,
        }
    }
}

impl TryFrom<pb::StartRevisionResponse> for RevisionStatus {
    type Error = Error;

    fn try_from(s: pb::StartRevisionResponse) -> Result<Self> {
        Ok(Self {
            revision: parsed("revision_id", &s.revision_id)?,
            number: s.number,
            phase: required("phase", Phase::parse(&s.phase))?,
            message: s.message,
            image_digest: digest("image_digest", s.image_digest)?,
        })
    }
}

impl From<Agent> for pb::Agent {
    fn from(a: Agent) -> Self {
        Self {
            name: a.name.into(),
            revision_id: a.revision.to_string(),
            spec: Some(a.spec.into()),
            shown_env: a.shown_env.into_iter().map(|(name, value)| pb::EnvVar { name, value, secret: None }).collect(),
            phase: a.phase.as_str().into(),
            message: a.message,
            image_digest: a.image_digest.map(Into::into),
            isolation: a.isolation,
            created_at: a.created_at,
            updated_at: a.updated_at,
            revision_number: a.revision_number,
            needs_rebuild: a.needs_rebuild,
            network: a.network,
            limits: a.limits,
            idle: a.idle,
        }
    }
}

impl TryFrom<pb::Agent> for Agent {
    type Error = Error;

    fn try_from(a: pb::Agent) -> Result<Self> {
        Ok(Self {
            name: name("agent.name", &a.name)?,
            revision: parsed("agent.revision_id", &a.revision_id)?,
            revision_number: a.revision_number,
            spec: required("agent.spec", a.spec)?.try_into()?,
            shown_env: a.shown_env.into_iter().map(|e| (e.name, e.value)).collect(),
            phase: required("agent.phase", Phase::parse(&a.phase))?,
            message: a.message,
            image_digest: digest("agent.image_digest", a.image_digest)?,
            isolation: a.isolation,
            created_at: a.created_at,
            updated_at: a.updated_at,
            needs_rebuild: a.needs_rebuild,
            network: a.network,
            limits: a.limits,
            idle: a.idle,
        })
    }
}

impl From<RuntimeStatus> for pb::GetRuntimeResponse {
    fn from(r: RuntimeStatus) -> Self {
        let RuntimeStatus { name, isolation, network, limits, python, notes } = r;
        Self { name, isolation, network, limits, python, notes }
    }
}

impl From<pb::GetRuntimeResponse> for RuntimeStatus {
    fn from(r: pb::GetRuntimeResponse) -> Self {
        let pb::GetRuntimeResponse { name, isolation, network, limits, python, notes } = r;
        Self { name, isolation, network, limits, python, notes }
    }
}

impl From<Route> for pb::Route {
    fn from(r: Route) -> Self {
        Self {
            agent: r.agent.into(),
            target: r.target.map(|t| pb::Target {
                revision_id: t.revision.to_string(),
                address: t.address,
                token: t.token.expose().to_owned(),
            }),
            ready: r.ready,
            message: r.message,
            needs_caller_identity: r.needs_caller_identity,
            identity_provider: r.identity_provider.map(Into::into).unwrap_or_default(),
            idle: r.idle,
            idle_after_ms: r.idle_after.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl TryFrom<pb::Route> for Route {
    type Error = Error;

    fn try_from(r: pb::Route) -> Result<Self> {
        let target = |t: pb::Target| -> Result<Target> {
            Ok(Target {
                revision: parsed("route.target.revision_id", &t.revision_id)?,
                address: t.address,
                token: Secret::new(t.token),
            })
        };
        Ok(Self {
            agent: name("route.agent", &r.agent)?,
            target: r.target.map(target).transpose()?,
            ready: r.ready,
            message: r.message,
            needs_caller_identity: r.needs_caller_identity || !r.identity_provider.is_empty(),
            identity_provider: optional(r.identity_provider)
                .map(|n| name("route.identity_provider", &n))
                .transpose()?,
            idle: r.idle,
            idle_after: (r.idle_after_ms > 0).then(|| Duration::from_millis(r.idle_after_ms)),
        })
    }
}

impl From<VersionedRoute> for pb::WatchRoutesResponse {
    fn from(v: VersionedRoute) -> Self {
        use pb::watch_routes_response::Event;
        let event = match v.event {
            RouteEvent::Snapshot(routes) => {
                Event::Snapshot(pb::Snapshot { routes: routes.into_iter().map(Into::into).collect() })
            }
            RouteEvent::Changed(route) => Event::Changed((*route).into()),
            RouteEvent::Removed(name) => Event::Removed(name.into()),
        };
        Self { version: v.version, event: Some(event) }
    }
}

impl TryFrom<pb::WatchRoutesResponse> for VersionedRoute {
    type Error = Error;

    fn try_from(v: pb::WatchRoutesResponse) -> Result<Self> {
        use pb::watch_routes_response::Event;
        let event = match required("event", v.event)? {
            Event::Snapshot(s) => {
                RouteEvent::Snapshot(s.routes.into_iter().map(TryInto::try_into).collect::<Result<_>>()?)
            }
            Event::Changed(route) => RouteEvent::Changed(Box::new(route.try_into()?)),
            Event::Removed(agent) => RouteEvent::Removed(name("removed", &agent)?),
        };
        Ok(Self { version: v.version, event })
    }
}

impl From<EventPosition> for pb::EventPlace {
    fn from(p: EventPosition) -> Self {
        Self { epoch: p.epoch, sequence: p.sequence }
    }
}

impl From<pb::EventPlace> for EventPosition {
    fn from(p: pb::EventPlace) -> Self {
        Self { epoch: p.epoch, sequence: p.sequence }
    }
}

impl From<AgentEvent> for pb::WatchAgentEventsResponse {
    fn from(e: AgentEvent) -> Self {
        use pb::watch_agent_events_response::Change;
        let change = match e.change {
            AgentChange::Phase(phase, message) => {
                Change::Phase(pb::PhaseChange { phase: phase.as_str().into(), message })
            }
            AgentChange::Crashed { reason, restarts } => Change::Crash(pb::Crash { reason, restarts }),
            AgentChange::Deleted => Change::Deletion(pb::Deletion {}),
        };
        Self {
            place: Some(e.place.into()),
            time: e.time_ms,
            agent: e.agent.into(),
            revision_id: e.revision.map(|r| r.to_string()).unwrap_or_default(),
            change: Some(change),
        }
    }
}

impl TryFrom<pb::WatchAgentEventsResponse> for AgentEvent {
    type Error = Error;

    fn try_from(e: pb::WatchAgentEventsResponse) -> Result<Self> {
        use pb::watch_agent_events_response::Change;
        let change = match required("change", e.change)? {
            Change::Phase(p) => AgentChange::Phase(required("phase", Phase::parse(&p.phase))?, p.message),
            Change::Crash(c) => AgentChange::Crashed { reason: c.reason, restarts: c.restarts },
            Change::Deletion(_) => AgentChange::Deleted,
        };
        Ok(Self {
            place: required("place", e.place)?.into(),
            time_ms: e.time,
            agent: name("agent", &e.agent)?,
            revision: optional(e.revision_id).map(|r| parsed("revision_id", &r)).transpose()?,
            change,
        })
    }
}
