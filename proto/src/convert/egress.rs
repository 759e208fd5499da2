use super::{
    name, optional, parsed, required,
    tools::{exposed, price_messages, prices, secrets},
};
use crate::{agents::v1 as agents, common::v1 as common, egress::v1 as pb, tools::v1 as tools};
use hoistway_model::{
    Error, Name, Result, RevisionId,
    egress::{
        AgentIdentity, Call, CallQuery, CallTarget, CallUpdate, Check, CheckStep, EgressStatus, ModelProviderAccess,
        PolicySource, RefusedCall, ToolAccess,
    },
    watch::Update,
};

impl From<ToolAccess> for tools::ToolAccess {
    fn from(t: ToolAccess) -> Self {
        Self {
            name: t.name.into(),
            url: t.url,
            auth_type: t.auth_type.as_str().into(),
            api_key: t.api_key.map(Into::into),
            oauth2: t.oauth2.map(Into::into),
            credentials: exposed(t.credentials),
        }
    }
}

impl TryFrom<tools::ToolAccess> for ToolAccess {
    type Error = Error;

    fn try_from(t: tools::ToolAccess) -> Result<Self> {
        Ok(Self {
            name: name("tool.name", &t.name)?,
            url: t.url,
            auth_type: parsed("tool.auth_type", &t.auth_type)?,
            api_key: t.api_key.map(Into::into),
            oauth2: t.oauth2.map(Into::into),
            credentials: secrets(t.credentials),
        })
    }
}

impl From<Update<Name, ToolAccess>> for tools::WatchToolsResponse {
    fn from(u: Update<Name, ToolAccess>) -> Self {
        use tools::watch_tools_response::Update as Message;
        let update = match u {
            Update::Set(_, tool) => Message::Tool(tool.into()),
            Update::Removed(name) => Message::Removed(name.into()),
            Update::Complete => Message::Complete(common::Complete {}),
        };
        Self { update: Some(update) }
    }
}

impl TryFrom<tools::WatchToolsResponse> for Update<Name, ToolAccess> {
    type Error = Error;

    fn try_from(r: tools::WatchToolsResponse) -> Result<Self> {
        use tools::watch_tools_response::Update as Message;
        Ok(match required("update", r.update)? {
            Message::Tool(tool) => {
                let tool = ToolAccess::try_from(tool)?;
                Update::Set(tool.name.clone(), tool)
            }
            Message::Removed(removed) => Update::Removed(name("removed", &removed)?),
            Message::Complete(common::Complete {}) => Update::Complete,
        })
    }
}

impl From<ModelProviderAccess> for tools::ModelProviderAccess {
    fn from(p: ModelProviderAccess) -> Self {
        Self {
            name: p.name.into(),
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            prices: price_messages(p.prices),
            timeout_seconds: p.timeout_seconds,
            retries: p.retries,
            credentials: exposed(p.credentials),
            demo: p.demo,
        }
    }
}

impl TryFrom<tools::ModelProviderAccess> for ModelProviderAccess {
    type Error = Error;

    fn try_from(p: tools::ModelProviderAccess) -> Result<Self> {
        Ok(Self {
            name: name("model_provider.name", &p.name)?,
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            prices: prices(p.prices)?,
            timeout_seconds: p.timeout_seconds,
            retries: p.retries,
            credentials: secrets(p.credentials),
            demo: p.demo,
        })
    }
}

impl From<Update<Name, ModelProviderAccess>> for tools::WatchModelProvidersResponse {
    fn from(u: Update<Name, ModelProviderAccess>) -> Self {
        use tools::watch_model_providers_response::Update as Message;
        let update = match u {
            Update::Set(_, provider) => Message::ModelProvider(provider.into()),
            Update::Removed(name) => Message::Removed(name.into()),
            Update::Complete => Message::Complete(common::Complete {}),
        };
        Self { update: Some(update) }
    }
}

impl TryFrom<tools::WatchModelProvidersResponse> for Update<Name, ModelProviderAccess> {
    type Error = Error;

    fn try_from(r: tools::WatchModelProvidersResponse) -> Result<Self> {
        use tools::watch_model_providers_response::Update as Message;
        Ok(match required("update", r.update)? {
            Message::ModelProvider(provider) => {
                let provider = ModelProviderAccess::try_from(provider)?;
                Update::Set(provider.name.clone(), provider)
            }
            Message::Removed(removed) => Update::Removed(name("removed", &removed)?),
            Message::Complete(common::Complete {}) => Update::Complete,
        })
    }
}

impl From<AgentIdentity> for agents::AgentIdentity {
    fn from(i: AgentIdentity) -> Self {
        Self {
            revision_id: i.revision.to_string(),
            agent: i.agent.into(),
            required_tools: i.required_tools.into_iter().map(Into::into).collect(),
            open_network: i.open_network,
            llm: i.llm.into_iter().map(Into::into).collect(),
            own_key_origins: i.own_key_origins,
        }
    }
}

impl From<RefusedCall> for agents::RefusedCall {
    fn from(c: RefusedCall) -> Self {
        Self { revision_id: c.revision.to_string(), text: c.text }
    }
}

impl TryFrom<agents::RefusedCall> for RefusedCall {
    type Error = Error;

    fn try_from(c: agents::RefusedCall) -> Result<Self> {
        Ok(Self { revision: parsed("call.revision_id", &c.revision_id)?, text: c.text })
    }
}

impl TryFrom<agents::AgentIdentity> for AgentIdentity {
    type Error = Error;

    fn try_from(i: agents::AgentIdentity) -> Result<Self> {
        Ok(Self {
            revision: parsed("identity.revision_id", &i.revision_id)?,
            agent: name("identity.agent", &i.agent)?,
            required_tools: i
                .required_tools
                .iter()
                .enumerate()
                .map(|(index, tool)| name(&format!("identity.required_tools[{index}]"), tool))
                .collect::<Result<_>>()?,
            open_network: i.open_network,
            llm: i.llm.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            own_key_origins: i.own_key_origins,
        })
    }
}

impl From<Update<RevisionId, AgentIdentity>> for agents::WatchIdentitiesResponse {
    fn from(u: Update<RevisionId, AgentIdentity>) -> Self {
        use agents::watch_identities_response::Update as Message;
        let update = match u {
            Update::Set(_, identity) => Message::Identity(identity.into()),
            Update::Removed(revision) => Message::Removed(revision.to_string()),
            Update::Complete => Message::Complete(common::Complete {}),
        };
        Self { update: Some(update) }
    }
}

impl TryFrom<agents::WatchIdentitiesResponse> for Update<RevisionId, AgentIdentity> {
    type Error = Error;

    fn try_from(r: agents::WatchIdentitiesResponse) -> Result<Self> {
        use agents::watch_identities_response::Update as Message;
        Ok(match required("update", r.update)? {
            Message::Identity(identity) => {
                let identity = AgentIdentity::try_from(identity)?;
                Update::Set(identity.revision, identity)
            }
            Message::Removed(revision) => Update::Removed(parsed("removed", &revision)?),
            Message::Complete(common::Complete {}) => Update::Complete,
        })
    }
}

impl From<PolicySource> for pb::PolicySource {
    fn from(s: PolicySource) -> Self {
        Self { complete: s.complete, connected: s.connected, records: s.records }
    }
}

impl From<pb::PolicySource> for PolicySource {
    fn from(s: pb::PolicySource) -> Self {
        Self { complete: s.complete, connected: s.connected, records: s.records }
    }
}

impl From<EgressStatus> for pb::GetEgressStatusResponse {
    fn from(s: EgressStatus) -> Self {
        Self {
            tools: Some(s.tools.into()),
            identities: Some(s.identities.into()),
            model_providers: Some(s.model_providers.into()),
        }
    }
}

impl TryFrom<pb::GetEgressStatusResponse> for EgressStatus {
    type Error = Error;

    fn try_from(s: pb::GetEgressStatusResponse) -> Result<Self> {
        let tools = required("tools", s.tools)?.into();
        // Older versions of egress do not report model providers.
        let model_providers = s.model_providers.map(Into::into).unwrap_or_default();
        Ok(Self { tools, identities: required("identities", s.identities)?.into(), model_providers })
    }
}

impl From<Call> for pb::Call {
    fn from(c: Call) -> Self {
        Self {
            id: c.id,
            time: c.at,
            agent: c.agent.map(Into::into).unwrap_or_default(),
            revision_id: c.revision.map(|revision| revision.to_string()).unwrap_or_default(),
            target: c.target.map(|target| match target {
                CallTarget::Tool(name) => pb::call::Target::Tool(name.into()),
                CallTarget::ModelProvider(name) => pb::call::Target::ModelProvider(name.into()),
            }),
            method: c.method,
            origin: c.origin,
            path: c.path,
            status: c.status.map(Into::into),
            first_byte_ms: c.first_byte_ms,
            duration_ms: c.duration_ms,
            bytes_up: c.bytes_up,
            bytes_down: c.bytes_down,
            refused: c.refused.unwrap_or_default(),
            broken: c.broken.unwrap_or_default(),
            error: c.error.unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::Call> for Call {
    type Error = Error;

    fn try_from(c: pb::Call) -> Result<Self> {
        let target = c.target.map(|target| match target {
            pb::call::Target::Tool(tool) => name("call.tool", &tool).map(CallTarget::Tool),
            pb::call::Target::ModelProvider(provider) => {
                name("call.model_provider", &provider).map(CallTarget::ModelProvider)
            }
        });
        let status = |status| u16::try_from(status).map_err(|_| Error::field("call.status", "is not an HTTP status"));
        Ok(Self {
            id: c.id,
            at: c.time,
            agent: optional(c.agent).map(|agent| name("call.agent", &agent)).transpose()?,
            revision: optional(c.revision_id).map(|id| parsed("call.revision_id", &id)).transpose()?,
            target: target.transpose()?,
            method: c.method,
            origin: c.origin,
            path: c.path,
            status: c.status.map(status).transpose()?,
            first_byte_ms: c.first_byte_ms,
            duration_ms: c.duration_ms,
            bytes_up: c.bytes_up,
            bytes_down: c.bytes_down,
            refused: optional(c.refused),
            broken: optional(c.broken),
            error: optional(c.error),
        })
    }
}

impl From<CallUpdate> for pb::WatchCallsResponse {
    fn from(u: CallUpdate) -> Self {
        use pb::watch_calls_response::Update as Message;
        let update = match u {
            CallUpdate::Position(id) => Message::Position(id),
            CallUpdate::Call(call) => Message::Call((*call).into()),
            CallUpdate::Missed(count) => Message::Missed(count),
            CallUpdate::Budget(notice) => Message::Budget(notice.into()),
        };
        Self { update: Some(update) }
    }
}

impl TryFrom<pb::WatchCallsResponse> for CallUpdate {
    type Error = Error;

    fn try_from(r: pb::WatchCallsResponse) -> Result<Self> {
        use pb::watch_calls_response::Update as Message;
        Ok(match required("update", r.update)? {
            Message::Position(id) => CallUpdate::Position(id),
            Message::Call(call) => CallUpdate::Call(Box::new(call.try_into()?)),
            Message::Missed(count) => CallUpdate::Missed(count),
            Message::Budget(notice) => CallUpdate::Budget(notice.try_into()?),
        })
    }
}

/// Both kinds of checks have the same response.
macro_rules! check_response {
    ($response:ty) => {
        impl From<Check> for $response {
            fn from(c: Check) -> Self {
                Self {
                    checks: c.steps.into_iter().map(Into::into).collect(),
                    status: c.status.map(Into::into),
                    latency_ms: c.latency_ms,
                }
            }
        }

        impl TryFrom<$response> for Check {
            type Error = Error;

            fn try_from(r: $response) -> Result<Self> {
                let status =
                    |status| u16::try_from(status).map_err(|_| Error::field("status", "is not an HTTP status"));
                Ok(Self {
                    status: r.status.map(status).transpose()?,
                    latency_ms: r.latency_ms,
                    steps: r.checks.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
                })
            }
        }
    };
}

check_response!(pb::CheckToolResponse);
check_response!(pb::CheckModelProviderResponse);

impl From<CheckStep> for pb::CheckStep {
    fn from(s: CheckStep) -> Self {
        Self { check: s.check.as_str().into(), ok: s.ok, message: s.message }
    }
}

impl TryFrom<pb::CheckStep> for CheckStep {
    type Error = Error;

    fn try_from(s: pb::CheckStep) -> Result<Self> {
        Ok(Self { check: parsed("checks.check", &s.check)?, ok: s.ok, message: s.message })
    }
}

impl From<CallQuery> for pb::ListCallsRequest {
    fn from(q: CallQuery) -> Self {
        Self {
            agent: q.agent.map(Into::into).unwrap_or_default(),
            tool: q.tool.map(Into::into).unwrap_or_default(),
            refused: q.refused,
            before: q.before,
            limit: q.limit,
        }
    }
}

impl TryFrom<pb::ListCallsRequest> for CallQuery {
    type Error = Error;

    fn try_from(r: pb::ListCallsRequest) -> Result<Self> {
        Ok(Self {
            agent: optional(r.agent).map(|agent| name("agent", &agent)).transpose()?,
            tool: optional(r.tool).map(|tool| name("tool", &tool)).transpose()?,
            refused: r.refused,
            before: r.before,
            limit: r.limit,
        })
    }
}
