//! The configuration of an agent in a deploy. One record goes from the request through the journal, the deployment and
//! the agent service's store to the instance's environment.

use crate::{
    Name,
    env::{EnvVar, platform},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The configuration of an agent. Its JSON is stored and part of the agent's fingerprint: members are only ever added,
/// with a default that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The system prompt; may be empty.
    pub system_prompt: String,
    /// Models, each role at most once.
    pub llm: Vec<LlmConfig>,
    /// The user's variables in order.
    #[serde(flatten, with = "crate::env::stored")]
    pub env: Vec<EnvVar>,
    /// The identity provider of its users. Such an agent refuses all other callers.
    pub identity_provider: Option<Name>,
    /// Its framework: the name of a [`crate::framework::Framework`], or the user's name for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<String>,
    /// Its purpose in plain words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl AgentConfig {
    /// Returns the members that are texts and not empty, by name.
    pub fn texts(&self) -> Vec<(String, String)> {
        let others = Self { llm: Vec::new(), env: Vec::new(), ..self.clone() };
        let Ok(Value::Object(members)) = serde_json::to_value(others) else { return Vec::new() };
        let text = |(name, value)| match value {
            Value::String(text) if !text.is_empty() => Some((name, text)),
            _ => None,
        };
        members.into_iter().filter_map(text).collect()
    }

    /// Returns the texts that the agent receives in variables, by the variable's name.
    pub fn variables(&self) -> Vec<(&'static str, &str)> {
        let mut variables = vec![(platform::SYSTEM_PROMPT, self.system_prompt.as_str())];
        if !self.description.is_empty() {
            variables.push((platform::AGENT_DESCRIPTION, &self.description));
        }
        variables
    }
}

/// A change of the configuration without another image; `None` leaves a member unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentConfigChange {
    /// The system prompt.
    pub system_prompt: Option<String>,
    /// Every model.
    pub llm: Option<Vec<LlmConfig>>,
    /// The identity provider of callers; `Some(None)` removes it.
    #[serde(with = "removable")]
    pub identity_provider: Option<Option<Name>>,
    /// Its purpose.
    pub description: Option<String>,
}

impl AgentConfigChange {
    /// Applies the change.
    pub fn apply(self, config: &mut AgentConfig) {
        let Self { system_prompt, llm, identity_provider, description } = self;
        replace(&mut config.system_prompt, system_prompt);
        replace(&mut config.llm, llm);
        replace(&mut config.identity_provider, identity_provider);
        replace(&mut config.description, description);
    }

    /// Whether a configuration has all of it already. The order of models is irrelevant.
    pub fn is_in(&self, config: &AgentConfig) -> bool {
        let by_role = |config: &AgentConfig| {
            let mut sorted = config.clone();
            sorted.llm.sort_by_key(|model| model.role);
            sorted
        };
        let mut changed = config.clone();
        self.clone().apply(&mut changed);
        by_role(&changed) == by_role(config)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn replace<T>(member: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *member = new;
    }
}

/// A removable member as a list: an empty list removes it.
mod removable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Option<Option<T>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(|value| value.iter().collect::<Vec<_>>()).serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        let list = Option::<Vec<T>>::deserialize(deserializer)?;
        Ok(list.map(|list| list.into_iter().next()))
    }
}

/// The purpose of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LlmRole {
    /// Conversation; `LLM_MODEL` without suffix.
    Chat,
    /// Embedding vectors.
    Embedding,
    /// Classification.
    Classify,
    /// Reranking.
    Reranking,
}

impl LlmRole {
    /// Every role.
    pub const ALL: [LlmRole; 4] = [LlmRole::Chat, LlmRole::Embedding, LlmRole::Classify, LlmRole::Reranking];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            LlmRole::Chat => "chat",
            LlmRole::Embedding => "embedding",
            LlmRole::Classify => "classify",
            LlmRole::Reranking => "reranking",
        }
    }

    /// Parses the public spelling in any letter case; `default` is chat.
    pub fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("default") {
            return Some(LlmRole::Chat);
        }
        LlmRole::ALL.into_iter().find(|r| r.as_str().eq_ignore_ascii_case(text))
    }

    /// Returns the suffix of `LLM_MODEL` and `LLM_PROVIDER`.
    pub const fn env_suffix(self) -> &'static str {
        match self {
            LlmRole::Chat => "",
            LlmRole::Embedding => "_EMBEDDING",
            LlmRole::Classify => "_CLASSIFY",
            LlmRole::Reranking => "_RERANKING",
        }
    }
}

/// One model of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LlmConfig {
    /// Its purpose; each role at most once in an agent.
    pub role: LlmRole,
    /// openai, anthropic, bedrock, ollama, or a registered provider's name.
    pub provider: String,
    /// Model identifier.
    pub model: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Secret;

    fn config() -> AgentConfig {
        let var = |name: &str, secret| EnvVar { name: name.into(), value: Secret::new("1"), secret };
        AgentConfig {
            system_prompt: "p".into(),
            llm: vec![LlmConfig { role: LlmRole::Embedding, provider: "openai".into(), model: "m".into() }],
            env: vec![var("B", None), var("A", Some(true))],
            identity_provider: Some(Name::parse("name", "sso").unwrap()),
            framework: Some("flask".into()),
            ..AgentConfig::default()
        }
    }

    #[test]
    fn the_stored_form_does_not_change_and_earlier_ones_are_read() {
        let stored = r#"{"system_prompt":"p","llm":[{"role":"embedding","provider":"openai","model":"m"}],"env":[["B","1"],["A","1"]],"secret":{"A":true},"identity_provider":"sso","framework":"flask"}"#;
        assert_eq!(serde_json::to_string(&config()).unwrap(), stored);
        assert_eq!(serde_json::from_str::<AgentConfig>(stored).unwrap(), config());
        let pairs =
            stored.replace(r#"{"role":"embedding","provider":"openai","model":"m"}"#, r#"["embedding","openai","m"]"#);
        assert_eq!(serde_json::from_str::<AgentConfig>(&pairs).unwrap(), config());
        let first = r#"{"system_prompt":"","llm":[],"env":[],"identity_provider":null}"#;
        assert_eq!(serde_json::from_str::<AgentConfig>(first).unwrap(), AgentConfig::default());
        assert_eq!(serde_json::to_string(&AgentConfig::default()).unwrap(), first);
    }

    #[test]
    fn a_change_replaces_only_what_it_names() {
        let change = AgentConfigChange { identity_provider: Some(None), ..AgentConfigChange::default() };
        assert!(!change.is_in(&config()) && !change.is_empty());
        let mut changed = config();
        change.clone().apply(&mut changed);
        assert_eq!(changed, AgentConfig { identity_provider: None, ..config() });
        assert!(change.is_in(&changed));
        assert!(AgentConfigChange::default().is_empty() && AgentConfigChange::default().is_in(&config()));
    }
}
