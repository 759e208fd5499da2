use super::{name, parsed, required};
use crate::tools::v1 as pb;
use hoistway_model::{
    Error, ModelPrice, ModelPrices, Name, Result, Secret,
    tool::{
        ApiKeyLocation, AppliedTools, Connection, IdentityProvider, ModelProvider, NewModelProvider, NewTool, OAuth2,
        Resolved, Tool, ToolPlan,
    },
};
use std::collections::{BTreeMap, HashMap};

/// Converts credential fields to their form in messages.
pub fn exposed(credentials: BTreeMap<String, Secret>) -> HashMap<String, String> {
    credentials.into_iter().map(|(key, value)| (key, value.expose().to_owned())).collect()
}

/// Converts credential fields from their form in messages.
pub fn secrets(credentials: HashMap<String, String>) -> BTreeMap<String, Secret> {
    credentials.into_iter().map(|(key, value)| (key, Secret::new(value))).collect()
}

fn names(field: &str, texts: Vec<String>) -> Result<Vec<Name>> {
    texts.iter().enumerate().map(|(i, t)| name(&format!("{field}[{i}]"), t)).collect()
}

impl From<ApiKeyLocation> for pb::ApiKeyPlace {
    fn from(k: ApiKeyLocation) -> Self {
        Self { location: k.location, name: k.name, value_prefix: k.value_prefix }
    }
}

impl From<pb::ApiKeyPlace> for ApiKeyLocation {
    fn from(k: pb::ApiKeyPlace) -> Self {
        Self { location: k.location, name: k.name, value_prefix: k.value_prefix }
    }
}

impl From<OAuth2> for pb::OAuth2 {
    fn from(o: OAuth2) -> Self {
        Self { token_url: o.token_url, scopes: o.scopes }
    }
}

impl From<pb::OAuth2> for OAuth2 {
    fn from(o: pb::OAuth2) -> Self {
        Self { token_url: o.token_url, scopes: o.scopes }
    }
}

impl From<Connection> for pb::Connection {
    fn from(c: Connection) -> Self {
        Self {
            base_url: c.base_url,
            port: c.port.into(),
            scheme: c.scheme.as_str().into(),
            auth_type: c.auth_type.as_str().into(),
            api_key: c.api_key.map(Into::into),
            oauth2: c.oauth2.map(Into::into),
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
            api_key: c.api_key.map(Into::into),
            oauth2: c.oauth2.map(Into::into),
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
            credentials: exposed(t.credentials),
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
            credentials: secrets(t.credentials),
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
            credentials_set_at: t.credentials_set_at,
            version: t.version.to_string(),
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
            credentials_set_at: t.credentials_set_at,
            version: parsed("tool.version", &t.version)?,
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
            prices: price_messages(p.prices),
            timeout_seconds: p.timeout_seconds,
            retries: p.retries,
            labels: p.labels.into_iter().collect(),
            created_at: p.created_at,
            updated_at: p.updated_at,
            credentials_set_at: p.credentials_set_at,
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
            prices: prices(p.prices)?,
            timeout_seconds: p.timeout_seconds,
            retries: p.retries,
            labels: p.labels.into_iter().collect(),
            credentials_set_at: p.credentials_set_at,
            created_at: p.created_at,
            updated_at: p.updated_at,
        })
    }
}

/// Converts prices to their form in messages.
pub(super) fn price_messages(prices: ModelPrices) -> HashMap<String, pb::ModelPrice> {
    let message = |price: ModelPrice| pb::ModelPrice {
        input: price.input.to_string(),
        cached_input: price.cached_input.to_string(),
        output: price.output.to_string(),
    };
    prices.into_iter().map(|(model, price)| (model, message(price))).collect()
}

/// Parses a result of [`price_messages`].
pub(super) fn prices(messages: HashMap<String, pb::ModelPrice>) -> Result<ModelPrices> {
    let amount = |text: &str| text.parse().map_err(|()| Error::field("prices", "are not amounts"));
    let price = |p: pb::ModelPrice| -> Result<_> {
        let (input, cached_input, output) = (amount(&p.input)?, amount(&p.cached_input)?, amount(&p.output)?);
        Ok(ModelPrice { input, cached_input, output })
    };
    messages.into_iter().map(|(model, message)| Ok((model, price(message)?))).collect()
}

/// Converts a provider to be registered into the message and its separate credentials.
pub fn new_provider_message(p: NewModelProvider) -> (pb::ModelProvider, HashMap<String, String>) {
    let message = pb::ModelProvider {
        name: p.name.into(),
        provider: p.provider,
        endpoint: p.endpoint,
        models: p.models,
        prices: price_messages(p.prices),
        timeout_seconds: p.timeout_seconds,
        retries: p.retries,
        labels: p.labels.into_iter().collect(),
        ..pb::ModelProvider::default()
    };
    (message, exposed(p.credentials))
}

/// Parses a result of [`new_provider_message`].
pub fn new_provider(
    message: Option<pb::ModelProvider>,
    credentials: HashMap<String, String>,
) -> Result<NewModelProvider> {
    let p = required("model_provider", message)?;
    Ok(NewModelProvider {
        name: name("model_provider.name", &p.name)?,
        provider: p.provider,
        endpoint: p.endpoint,
        models: p.models,
        prices: prices(p.prices)?,
        timeout_seconds: p.timeout_seconds,
        retries: p.retries,
        labels: p.labels.into_iter().collect(),
        credentials: secrets(credentials),
    })
}

impl From<IdentityProvider> for pb::IdentityProvider {
    fn from(p: IdentityProvider) -> Self {
        Self {
            name: p.name.into(),
            host: p.host,
            issuer: p.issuer,
            jwks_uri: p.jwks_uri,
            audiences: p.audiences,
            user_id_claim: p.user_id_claim,
            allowed_domains: p.allowed_domains,
            labels: p.labels.into_iter().collect(),
            created_at: p.created_at,
            updated_at: p.updated_at,
        }
    }
}

impl TryFrom<pb::IdentityProvider> for IdentityProvider {
    type Error = Error;

    fn try_from(p: pb::IdentityProvider) -> Result<Self> {
        Ok(Self {
            name: name("identity_provider.name", &p.name)?,
            host: p.host,
            issuer: p.issuer,
            jwks_uri: p.jwks_uri,
            audiences: p.audiences,
            user_id_claim: p.user_id_claim,
            allowed_domains: p.allowed_domains,
            labels: p.labels.into_iter().collect(),
            created_at: p.created_at,
            updated_at: p.updated_at,
        })
    }
}
