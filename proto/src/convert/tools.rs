use super::{name, parsed, required};
use crate::tools::v1 as pb;
use hoistway_model::{
    Error, Name, Result, Secret,
    tool::{ApiKeyPlace, AppliedTools, Connection, ModelProvider, NewTool, Resolved, Tool, ToolPlan},
};

fn names(field: &str, texts: Vec<String>) -> Result<Vec<Name>> {
    texts.iter().enumerate().map(|(i, t)| name(&format!("{field}[{i}]"), t)).collect()
}

impl From<Connection> for pb::Connection {
    fn from(c: Connection) -> Self {
        Self {
            base_url: c.base_url,
            port: c.port.into(),
            scheme: c.scheme.as_str().into(),
            auth_type: c.auth_type.as_str().into(),
            api_key: c.api_key.map(|k| pb::ApiKeyPlace {
                location: k.location,
                name: k.name,
                value_prefix: k.value_prefix,
            }),
        }
    }
}

impl TryFrom<pb::Connection> for Connection {
    type Error = Error;

    fn try_from(c: pb::Connection) -> Result<Self> {
        Ok(Self {
            port: u16::try_from(c.port).map_err(|_| Error::field("connection.port", "is not a TCP port"))?,
            scheme: parsed("connection.scheme", &c.scheme)?,
            auth_type: parsed("connection.auth_type", &c.auth_type)?,
            base_url: c.base_url,
            api_key: c.api_key.map(|k| ApiKeyPlace {
                location: k.location,
                name: k.name,
                value_prefix: k.value_prefix,
            }),
        })
    }
}

impl From<NewTool> for pb::NewTool {
    fn from(t: NewTool) -> Self {
        Self {
            name: t.name.into(),
            description: t.description,
            connection: Some(t.connection.into()),
            labels: t.labels.into_iter().collect(),
            credentials: t.credentials.into_iter().map(|(k, v)| (k, v.expose().to_owned())).collect(),
        }
    }
}

impl TryFrom<pb::NewTool> for NewTool {
    type Error = Error;

    fn try_from(t: pb::NewTool) -> Result<Self> {
        Ok(Self {
            name: name("tool.name", &t.name)?,
            description: t.description,
            connection: required("tool.connection", t.connection)?.try_into()?,
            labels: t.labels.into_iter().collect(),
            credentials: t.credentials.into_iter().map(|(k, v)| (k, Secret::new(v))).collect(),
        })
    }
}

impl From<Tool> for pb::Tool {
    fn from(t: Tool) -> Self {
        Self {
            name: t.name.into(),
            description: t.description,
            connection: Some(t.connection.into()),
            internal_url: t.internal_url,
            labels: t.labels.into_iter().collect(),
            has_credentials: t.has_credentials,
            created_at: t.created_at,
            updated_at: t.updated_at,
        }
    }
}

impl TryFrom<pb::Tool> for Tool {
    type Error = Error;

    fn try_from(t: pb::Tool) -> Result<Self> {
        Ok(Self {
            name: name("tool.name", &t.name)?,
            description: t.description,
            connection: required("tool.connection", t.connection)?.try_into()?,
            internal_url: t.internal_url,
            labels: t.labels.into_iter().collect(),
            has_credentials: t.has_credentials,
            created_at: t.created_at,
            updated_at: t.updated_at,
        })
    }
}

impl From<ToolPlan> for pb::ToolPlan {
    fn from(p: ToolPlan) -> Self {
        Self {
            agent: p.agent.into(),
            create: p.create.into_iter().map(Into::into).collect(),
            bind: p.bind.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::ToolPlan> for ToolPlan {
    type Error = Error;

    fn try_from(p: pb::ToolPlan) -> Result<Self> {
        Ok(Self {
            agent: name("plan.agent", &p.agent)?,
            create: p.create.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            bind: names("plan.bind", p.bind)?,
        })
    }
}

impl From<Resolved> for pb::ResolveResponse {
    fn from(r: Resolved) -> Self {
        Self {
            tools: r.tools.into_iter().map(Into::into).collect(),
            changed: r.changed,
            providers: r.providers,
            identity_provider_known: r.identity_provider_known,
        }
    }
}

impl TryFrom<pb::ResolveResponse> for Resolved {
    type Error = Error;

    fn try_from(r: pb::ResolveResponse) -> Result<Self> {
        Ok(Self {
            tools: r.tools.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            changed: r.changed,
            providers: r.providers,
            identity_provider_known: r.identity_provider_known,
        })
    }
}

impl From<AppliedTools> for pb::ApplyToolsResponse {
    fn from(a: AppliedTools) -> Self {
        Self {
            created: a.created.into_iter().map(Into::into).collect(),
            tools: a.tools.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::ApplyToolsResponse> for AppliedTools {
    type Error = Error;

    fn try_from(a: pb::ApplyToolsResponse) -> Result<Self> {
        Ok(Self {
            created: names("created", a.created)?,
            tools: a.tools.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        })
    }
}

impl From<ModelProvider> for pb::ModelProvider {
    fn from(p: ModelProvider) -> Self {
        Self {
            name: p.name.into(),
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            labels: p.labels.into_iter().collect(),
            created_at: p.created_at,
        }
    }
}

impl TryFrom<pb::ModelProvider> for ModelProvider {
    type Error = Error;

    fn try_from(p: pb::ModelProvider) -> Result<Self> {
        Ok(Self {
            name: name("model_provider.name", &p.name)?,
            provider: p.provider,
            endpoint: p.endpoint,
            models: p.models,
            labels: p.labels.into_iter().collect(),
            created_at: p.created_at,
        })
    }
}
