//! The kinds of deployments: a deploy, a return to an earlier revision, or a change of the configuration only. All are
//! carried out by the same saga, for each agent in the order of their acceptance.

use super::{
    providers,
    request::{DeployRequest, Source},
};
use hoistway_model::{
    Error, Name, Result, RevisionId, Secret,
    agent::{Agent, AgentConfigChange, EnvVar, LlmConfig},
    build::BuildSource,
    revision::{Reason, RevisionRef},
    source::SourceFiles,
};
use serde::{Deserialize, Serialize};

/// The work of one deployment. Its JSON is stored in the journal, except that deploys have a form of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentKind {
    /// `POST /deploy`.
    #[serde(skip)]
    Deploy(Box<DeployRequest>),
    /// `POST /agents/{name}/rollback`.
    Rollback(Rollback),
    /// `PUT /agents/{name}/config`.
    Config(ConfigChange),
    /// Another build of the agent's image from its stored source, because this machine cannot run the image any more.
    Rebuild(Rebuild),
}

/// A return to an earlier revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The agent.
    pub agent: Name,
    /// The revision to return to.
    pub to: RevisionRef,
}

/// Another build of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// The agent.
    pub agent: Name,
    /// Whether a stopped agent is started by it; else a stopped agent is left as it is.
    #[serde(default)]
    pub start: bool,
}

/// A change of an agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The agent.
    pub agent: Name,
    /// The changed members of the configuration.
    #[serde(flatten)]
    pub config: AgentConfigChange,
    /// Every required tool, no name twice; `None` leaves them as they are.
    pub required_tools: Option<Vec<Name>>,
}

impl ConfigChange {
    /// Returns the tools that the agent requires afterwards.
    pub fn tools_of(&self, agent: &Agent) -> Vec<Name> {
        let present = || agent.spec.tools.iter().map(|tool| tool.name.clone()).collect();
        self.required_tools.clone().unwrap_or_else(present)
    }

    /// Returns the models that it sets, each with its path in the request.
    pub fn named_models(&self) -> Vec<(String, &LlmConfig)> {
        let models = self.config.llm.iter().flatten().enumerate();
        models.map(|(i, model)| (format!("llm_configs[{i}]"), model)).collect()
    }

    /// Returns the model providers that have to be looked up, each with its path in the request.
    pub fn unknown_providers(&self) -> Vec<(String, String)> {
        let models = self.config.llm.iter().flatten().enumerate();
        let unknown = models.filter(|(_, model)| !providers::is_known(&model.provider));
        unknown.map(|(i, model)| (format!("llm_configs[{i}].provider"), model.provider.clone())).collect()
    }
}

impl From<DeployRequest> for DeploymentKind {
    fn from(request: DeployRequest) -> Self {
        Self::Deploy(Box::new(request))
    }
}

impl DeploymentKind {
    /// Returns the agent.
    pub fn agent(&self) -> &Name {
        match self {
            Self::Deploy(request) => &request.agent,
            Self::Rollback(rollback) => &rollback.agent,
            Self::Config(change) => &change.agent,
            Self::Rebuild(rebuild) => &rebuild.agent,
        }
    }

    /// Returns the reason of its revision.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Deploy(_) => Reason::Deploy,
            Self::Rollback(_) => Reason::Rollback,
            Self::Config(_) => Reason::Config,
            Self::Rebuild(_) => Reason::Rebuild,
        }
    }

    /// Whether an image is to be built.
    pub fn wants_build(&self) -> bool {
        match self {
            Self::Deploy(request) => request.wants_build(),
            Self::Rebuild(_) => true,
            Self::Rollback(_) | Self::Config(_) => false,
        }
    }

    /// Returns the secrets that must not appear in any output.
    pub fn secrets(&self) -> Vec<Secret> {
        let env = match self {
            Self::Deploy(request) => request.config.env.as_slice(),
            Self::Rollback(_) | Self::Config(_) | Self::Rebuild(_) => &[],
        };
        env.iter().flat_map(EnvVar::hidden).collect()
    }

    /// Returns the size of the source, in bytes.
    pub fn bytes(&self) -> usize {
        let Some(source) = self.source() else { return 0 };
        source.files.bytes()
    }

    fn source(&self) -> Option<&BuildSource> {
        match self {
            Self::Deploy(request) => match &request.source {
                Source::Files(source) => Some(source),
                Source::Image(_) => None,
            },
            Self::Rollback(_) | Self::Config(_) | Self::Rebuild(_) => None,
        }
    }

    /// Drops the source, once the image is built.
    pub fn forget_source(&mut self) {
        if let Self::Deploy(request) = self
            && let Source::Files(source) = &mut request.source
        {
            source.files = SourceFiles::default();
        }
    }

    /// Returns the first words of the text of a failure that is not of one tool or of the build.
    pub fn failed(&self) -> &'static str {
        match self {
            Self::Deploy(_) => "failed to create agent: ",
            Self::Rollback(_) => "rollback failed: ",
            Self::Config(_) => "the configuration was not changed: ",
            Self::Rebuild(_) => "rebuild failed: ",
        }
    }

    /// Returns bytes that are equal exactly for works with the same meaning. Only a keyed hash of them may be stored.
    pub fn canonical(&self) -> Vec<u8> {
        match self {
            Self::Deploy(request) => request.canonical(),
            other => serde_json::to_vec(other).unwrap_or_default(),
        }
    }

    /// Returns the whole work for the journal, to be sealed before it is stored.
    pub fn to_journal(&self) -> Result<Vec<u8>> {
        match self {
            Self::Deploy(request) => request.to_journal(),
            other => serde_json::to_vec(other).map_err(|e| Error::internal("writing a deployment's work", e)),
        }
    }

    /// Reads the bytes that [`DeploymentKind::to_journal`] wrote for this reason.
    pub fn from_journal(reason: Reason, bytes: &[u8]) -> Result<Self> {
        if reason == Reason::Deploy {
            return DeployRequest::from_journal(bytes).map(Into::into);
        }
        serde_json::from_slice(bytes).map_err(|_| Error::internal("reading a deployment's work", "it is malformed"))
    }
}

/// The revision that a deployment has made or is making, for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevisionOutcome {
    /// Its id.
    pub id: RevisionId,
    /// Its number.
    pub number: u64,
    /// The number of the revision that it was made of.
    pub of: Option<u64>,
    /// Whether it is new; if not, it is the one that the agent had.
    pub new: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::agent::LlmRole;

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    #[test]
    fn the_journal_gives_back_what_it_was_given() {
        let models = vec![LlmConfig { role: LlmRole::Classify, provider: "openai".into(), model: "m".into() }];
        let change = AgentConfigChange {
            system_prompt: Some(String::new()),
            llm: Some(models),
            identity_provider: Some(None),
            ..AgentConfigChange::default()
        };
        let config = ConfigChange { agent: name("a"), config: change.clone(), required_tools: Some(vec![name("t")]) };
        let nothing = ConfigChange { config: AgentConfigChange::default(), required_tools: None, ..config.clone() };
        let provider = AgentConfigChange { identity_provider: Some(Some(name("i"))), ..change };
        let mut seen = Vec::new();
        for work in [
            DeploymentKind::Rollback(Rollback { agent: name("a"), to: RevisionRef::Previous }),
            DeploymentKind::Rollback(Rollback { agent: name("a"), to: RevisionRef::Number(3) }),
            DeploymentKind::Rollback(Rollback { agent: name("a"), to: RevisionRef::Id(RevisionId::mint()) }),
            DeploymentKind::Config(ConfigChange { config: provider, ..config.clone() }),
            DeploymentKind::Config(config),
            DeploymentKind::Config(nothing),
            DeploymentKind::Rebuild(Rebuild { agent: name("a"), start: false }),
            DeploymentKind::Rebuild(Rebuild { agent: name("a"), start: true }),
        ] {
            assert_eq!(DeploymentKind::from_journal(work.reason(), &work.to_journal().unwrap()).unwrap(), work);
            assert!(!seen.contains(&work.canonical()));
            seen.push(work.canonical());
        }
        assert!(DeploymentKind::from_journal(Reason::Config, b"{}").is_err());
    }

    #[test]
    fn work_that_earlier_versions_journalled_is_read() {
        let read = |reason, text: &str| DeploymentKind::from_journal(reason, text.as_bytes()).unwrap();
        let rollback = read(Reason::Rollback, r#"{"rollback":{"agent":"a","to":"3"}}"#);
        assert_eq!(rollback, DeploymentKind::Rollback(Rollback { agent: name("a"), to: RevisionRef::Number(3) }));
        let rebuild = read(Reason::Rebuild, r#"{"rebuild":{"agent":"a"}}"#);
        assert_eq!(rebuild, DeploymentKind::Rebuild(Rebuild { agent: name("a"), start: false }));
        let all = r#"{"config":{"agent":"a","identity_provider":[],"llm":[["classify","openai","m"]],"required_tools":["t"],"system_prompt":""}}"#;
        let models = vec![LlmConfig { role: LlmRole::Classify, provider: "openai".into(), model: "m".into() }];
        let config = AgentConfigChange {
            system_prompt: Some(String::new()),
            llm: Some(models),
            identity_provider: Some(None),
            ..AgentConfigChange::default()
        };
        let change = ConfigChange { agent: name("a"), config, required_tools: Some(vec![name("t")]) };
        assert_eq!(read(Reason::Config, all), DeploymentKind::Config(change));
        let nothing = r#"{"config":{"agent":"a","identity_provider":null,"llm":null,"required_tools":null,"system_prompt":null}}"#;
        let change = ConfigChange { agent: name("a"), config: AgentConfigChange::default(), required_tools: None };
        assert_eq!(read(Reason::Config, nothing), DeploymentKind::Config(change));
    }
}
