//! An agent's configuration, whose members are inlined in the messages that contain it.

use super::{name, optional, required};
use crate::agents::v1 as pb;
use hoistway_model::{
    Error, Result, Secret,
    agent::{AgentConfig, AgentConfigChange, EnvVar, LlmConfig, LlmRole},
};
use std::mem::take;

/// A specification with only the configuration.
impl From<AgentConfig> for pb::AgentSpec {
    fn from(config: AgentConfig) -> Self {
        Self {
            system_prompt: config.system_prompt,
            llm: config.llm.into_iter().map(Into::into).collect(),
            env: config.env.into_iter().map(Into::into).collect(),
            identity_provider: config.identity_provider.map(Into::into).unwrap_or_default(),
            framework: config.framework.unwrap_or_default(),
            description: config.description,
            ..Self::default()
        }
    }
}

/// Takes the configuration out of a specification.
pub(super) fn of_spec(spec: &mut pb::AgentSpec) -> Result<AgentConfig> {
    let provider = optional(take(&mut spec.identity_provider));
    Ok(AgentConfig {
        system_prompt: take(&mut spec.system_prompt),
        llm: take(&mut spec.llm).into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        env: take(&mut spec.env).into_iter().map(Into::into).collect(),
        identity_provider: provider.map(|n| name("spec.identity_provider", &n)).transpose()?,
        framework: optional(take(&mut spec.framework)),
        description: take(&mut spec.description),
    })
}

/// A derivation with only the change.
impl From<AgentConfigChange> for pb::DeriveRevisionRequest {
    fn from(change: AgentConfigChange) -> Self {
        Self {
            system_prompt: change.system_prompt,
            llm: change.llm.map(|llm| pb::LlmConfigs { llm: llm.into_iter().map(Into::into).collect() }),
            identity_provider: change.identity_provider.map(|name| name.map(Into::into).unwrap_or_default()),
            description: change.description,
            ..Self::default()
        }
    }
}

/// Takes the change of the configuration out of a derivation.
pub(super) fn of_derivation(request: &mut pb::DeriveRevisionRequest) -> Result<AgentConfigChange> {
    let models = |l: pb::LlmConfigs| l.llm.into_iter().map(TryInto::try_into).collect();
    let provider = |text: String| optional(text).map(|n| name("identity_provider", &n)).transpose();
    Ok(AgentConfigChange {
        system_prompt: request.system_prompt.take(),
        llm: request.llm.take().map(models).transpose()?,
        identity_provider: request.identity_provider.take().map(provider).transpose()?,
        description: request.description.take(),
    })
}

impl From<LlmConfig> for pb::LlmConfig {
    fn from(c: LlmConfig) -> Self {
        Self { role: c.role.as_str().into(), provider: c.provider, model: c.model }
    }
}

impl TryFrom<pb::LlmConfig> for LlmConfig {
    type Error = Error;

    fn try_from(c: pb::LlmConfig) -> Result<Self> {
        Ok(Self { role: required("llm.role", LlmRole::parse(&c.role))?, provider: c.provider, model: c.model })
    }
}

impl From<EnvVar> for pb::EnvVar {
    fn from(e: EnvVar) -> Self {
        Self { name: e.name, value: e.value.expose().to_owned(), secret: e.secret }
    }
}

impl From<pb::EnvVar> for EnvVar {
    fn from(e: pb::EnvVar) -> Self {
        Self { name: e.name, value: Secret::new(e.value), secret: e.secret }
    }
}
