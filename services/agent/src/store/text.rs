//! Records as JSON: the specification, which is sealed before it is stored, and failures.

use hoistway_model::{
    Code, Digest, Error, Name, Result, Secret,
    agent::{AgentSpec, EnvVar, LlmConfig, LlmRole},
    tool::BoundTool,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

const READING: &str = "reading a stored revision";

pub(super) fn write(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("writing a revision", e))
}

pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::internal(READING, e))
}

#[derive(Serialize, Deserialize)]
pub(super) struct SpecText {
    agent: Name,
    image: String,
    build_id: Option<String>,
    system_prompt: String,
    tools: Vec<(Name, Option<String>)>,
    llm: Vec<(String, String, String)>,
    env: Vec<(String, Secret)>,
    /// What the user says of values by their names, where anything is said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secret: BTreeMap<String, bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    framework: Option<String>,
    identity_provider: Option<Name>,
    entry_point: Option<String>,
    fingerprint: Digest,
}

impl From<&AgentSpec> for SpecText {
    fn from(spec: &AgentSpec) -> Self {
        let spec = spec.clone();
        Self {
            agent: spec.agent,
            image: spec.image.to_string(),
            build_id: spec.build_id,
            system_prompt: spec.system_prompt,
            tools: spec.tools.into_iter().map(|t| (t.name, t.url)).collect(),
            llm: spec.llm.into_iter().map(|c| (c.role.as_str().to_owned(), c.provider, c.model)).collect(),
            secret: spec.env.iter().filter_map(|v| Some((v.name.clone(), v.secret?))).collect(),
            env: spec.env.into_iter().map(|v| (v.name, v.value)).collect(),
            identity_provider: spec.identity_provider,
            entry_point: spec.entry_point,
            fingerprint: spec.fingerprint,
            framework: spec.framework,
        }
    }
}

impl TryFrom<SpecText> for AgentSpec {
    type Error = Error;

    fn try_from(text: SpecText) -> Result<Self> {
        let llm = |(role, provider, model): (String, String, String)| -> Result<LlmConfig> {
            let role = LlmRole::parse(&role).ok_or_else(|| Error::internal(READING, "unknown role"))?;
            Ok(LlmConfig { role, provider, model })
        };
        let env = |(name, value): (String, Secret)| EnvVar { secret: text.secret.get(&name).copied(), name, value };
        Ok(Self {
            agent: text.agent,
            image: text.image.parse().map_err(|e: Error| Error::internal(READING, e))?,
            build_id: text.build_id,
            system_prompt: text.system_prompt,
            tools: text.tools.into_iter().map(|(name, url)| BoundTool { name, url }).collect(),
            llm: text.llm.into_iter().map(llm).collect::<Result<_>>()?,
            env: text.env.into_iter().map(env).collect(),
            identity_provider: text.identity_provider,
            entry_point: text.entry_point,
            fingerprint: text.fingerprint,
            framework: text.framework,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct FailureText {
    code: String,
    message: String,
    details: Vec<String>,
}

impl From<&Error> for FailureText {
    fn from(e: &Error) -> Self {
        Self { code: e.code.as_str().to_owned(), message: e.message.clone(), details: e.details.clone() }
    }
}

impl From<FailureText> for Error {
    fn from(text: FailureText) -> Self {
        let code = Code::parse(&text.code).unwrap_or(Code::AgentStartFailed);
        Error::new(code, text.message).with_details(text.details)
    }
}
