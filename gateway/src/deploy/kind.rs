//! What a deployment is to do: a deploy, a return to an earlier revision, or a change of the configuration only. All
//! of them are carried out by the same saga, each agent's in the order they were accepted.

use super::{
    providers,
    request::{DeployRequest, Source},
};
use hoistway_model::{
    Error, Name, Result, RevisionId, Secret,
    agent::{Agent, EnvVar, LlmConfig, LlmRole},
    build::BuildSource,
    revision::{Reason, RevisionRef},
    source::SourceFiles,
};
use serde::{Deserialize, Serialize};

/// The work of one deployment.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// `POST /deploy`.
    Deploy(Box<DeployRequest>),
    /// `POST /agents/{name}/rollback`.
    Rollback(Rollback),
    /// `PUT /agents/{name}/config`.
    Config(ConfigChange),
    /// The agent's image built again from what it keeps, because what it runs on has changed.
    Rebuild(Rebuild),
}

/// A return to an earlier revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// The agent.
    pub agent: Name,
    /// Which revision.
    pub to: RevisionRef,
}

/// An image built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    /// The agent.
    pub agent: Name,
    /// Whether a stopped agent is started by it; else nothing is done with one.
    pub start: bool,
}

/// A change of an agent's configuration; `None` leaves a member as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// The agent.
    pub agent: Name,
    /// The system prompt.
    pub system_prompt: Option<String>,
    /// Who authenticates callers; `Some(None)`: nobody.
    pub identity_provider: Option<Option<Name>>,
    /// Every model.
    pub llm: Option<Vec<LlmConfig>>,
    /// Every required tool, no name twice.
    pub required_tools: Option<Vec<Name>>,
}

impl ConfigChange {
    /// The tools that the agent requires afterwards.
    pub fn tools_of(&self, agent: &Agent) -> Vec<Name> {
        let present = || agent.spec.tools.iter().map(|tool| tool.name.clone()).collect();
        self.required_tools.clone().unwrap_or_else(present)
    }

    /// The models that it sets, each with its path in the request.
    pub fn named_models(&self) -> Vec<(String, &LlmConfig)> {
        let models = self.llm.iter().flatten().enumerate();
        models.map(|(i, model)| (format!("llm_configs[{i}]"), model)).collect()
    }

    /// The model providers that have to be looked up, each with its path in the request.
    pub fn unknown_providers(&self) -> Vec<(String, String)> {
        let models = self.llm.iter().flatten().enumerate();
        let unknown = models.filter(|(_, model)| !providers::is_known(&model.provider));
        unknown.map(|(i, model)| (format!("llm_configs[{i}].provider"), model.provider.clone())).collect()
    }

    /// Whether the agent has all of it already, its tools aside.
    pub fn is_in(&self, agent: &Agent) -> bool {
        let spec = &agent.spec;
        let by_role = |models: &[LlmConfig]| {
            let mut sorted = models.to_vec();
            sorted.sort_by_key(|model| model.role);
            sorted
        };
        self.system_prompt.as_ref().is_none_or(|prompt| *prompt == spec.system_prompt)
            && self.identity_provider.as_ref().is_none_or(|provider| *provider == spec.identity_provider)
            && self.llm.as_ref().is_none_or(|models| by_role(models) == by_role(&spec.llm))
    }
}

impl From<DeployRequest> for Work {
    fn from(request: DeployRequest) -> Self {
        Self::Deploy(Box::new(request))
    }
}

impl Work {
    /// The agent.
    pub fn agent(&self) -> &Name {
        match self {
            Self::Deploy(request) => &request.agent,
            Self::Rollback(rollback) => &rollback.agent,
            Self::Config(change) => &change.agent,
            Self::Rebuild(rebuild) => &rebuild.agent,
        }
    }

    /// Why its revision is made.
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

    /// What must not appear in anything that is shown.
    pub fn secrets(&self) -> Vec<Secret> {
        let env = match self {
            Self::Deploy(request) => request.env.as_slice(),
            Self::Rollback(_) | Self::Config(_) | Self::Rebuild(_) => &[],
        };
        env.iter().flat_map(EnvVar::hidden).collect()
    }

    /// How much source there is.
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

    /// Lets the source go, once the image is built of it.
    pub fn forget_source(&mut self) {
        if let Self::Deploy(request) = self
            && let Source::Files(source) = &mut request.source
        {
            source.files = SourceFiles::default();
        }
    }

    /// How the text of a failure begins that is not of one tool or of the build.
    pub fn failed(&self) -> &'static str {
        match self {
            Self::Deploy(_) => "failed to create agent: ",
            Self::Rollback(_) => "rollback failed: ",
            Self::Config(_) => "the configuration was not changed: ",
            Self::Rebuild(_) => "rebuild failed: ",
        }
    }

    /// Bytes that two works share exactly when they mean the same. Only a keyed hash of them may be kept.
    pub fn canonical(&self) -> Vec<u8> {
        match self {
            Self::Deploy(request) => request.canonical(),
            other => other.stored().to_string().into_bytes(),
        }
    }

    /// The whole work for the journal, to be sealed before it is stored.
    pub fn to_journal(&self) -> Result<Vec<u8>> {
        match self {
            Self::Deploy(request) => request.to_journal(),
            other => Ok(other.stored().to_string().into_bytes()),
        }
    }

    /// Reads what [`Work::to_journal`] wrote for this reason.
    pub fn from_journal(reason: Reason, bytes: &[u8]) -> Result<Self> {
        if reason == Reason::Deploy {
            return DeployRequest::from_journal(bytes).map(Into::into);
        }
        let malformed = || Error::internal("reading a deployment's work", "it is malformed");
        let stored: Stored = serde_json::from_slice(bytes).map_err(|_| malformed())?;
        stored.read().ok_or_else(malformed)
    }

    fn stored(&self) -> serde_json::Value {
        let stored = match self {
            // It has a form of its own.
            Self::Deploy(_) => return serde_json::Value::Null,
            Self::Rollback(r) => Stored::Rollback { agent: r.agent.clone(), to: r.to.to_string() },
            Self::Rebuild(r) => Stored::Rebuild { agent: r.agent.clone(), start: r.start },
            Self::Config(c) => Stored::Config {
                agent: c.agent.clone(),
                system_prompt: c.system_prompt.clone(),
                identity_provider: c.identity_provider.clone().map(|provider| provider.into_iter().collect()),
                llm: c.llm.as_ref().map(|models| {
                    let model = |m: &LlmConfig| (m.role.as_str().to_owned(), m.provider.clone(), m.model.clone());
                    models.iter().map(model).collect()
                }),
                required_tools: c.required_tools.clone(),
            },
        };
        // Texts and lists of them always make JSON.
        serde_json::to_value(stored).unwrap_or_default()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Rollback {
        agent: Name,
        to: String,
    },
    Config {
        agent: Name,
        system_prompt: Option<String>,
        /// An empty list takes the provider away.
        identity_provider: Option<Vec<Name>>,
        llm: Option<Vec<(String, String, String)>>,
        required_tools: Option<Vec<Name>>,
    },
    Rebuild {
        agent: Name,
        #[serde(default)]
        start: bool,
    },
}

impl Stored {
    fn read(self) -> Option<Work> {
        Some(match self {
            Stored::Rollback { agent, to } => Work::Rollback(Rollback { agent, to: to.parse().ok()? }),
            Stored::Rebuild { agent, start } => Work::Rebuild(Rebuild { agent, start }),
            Stored::Config { agent, system_prompt, identity_provider, llm, required_tools } => {
                let model = |(role, provider, model): (String, String, String)| {
                    Some(LlmConfig { role: LlmRole::parse(&role)?, provider, model })
                };
                let llm = match llm {
                    Some(models) => Some(models.into_iter().map(model).collect::<Option<_>>()?),
                    None => None,
                };
                let identity_provider = identity_provider.map(|provider| provider.into_iter().next());
                Work::Config(ConfigChange { agent, system_prompt, identity_provider, llm, required_tools })
            }
        })
    }
}

/// The revision that a deployment has made or is making, for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
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

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    #[test]
    fn the_journal_gives_back_what_it_was_given() {
        let config = ConfigChange {
            agent: name("a"),
            system_prompt: Some(String::new()),
            identity_provider: Some(None),
            llm: Some(vec![LlmConfig { role: LlmRole::Classify, provider: "openai".into(), model: "m".into() }]),
            required_tools: Some(vec![name("t")]),
        };
        let nothing = ConfigChange {
            system_prompt: None,
            identity_provider: None,
            llm: None,
            required_tools: None,
            ..config.clone()
        };
        let mut seen = Vec::new();
        for work in [
            Work::Rollback(Rollback { agent: name("a"), to: RevisionRef::Previous }),
            Work::Rollback(Rollback { agent: name("a"), to: RevisionRef::Number(3) }),
            Work::Rollback(Rollback { agent: name("a"), to: RevisionRef::Id(RevisionId::mint()) }),
            Work::Config(ConfigChange { identity_provider: Some(Some(name("i"))), ..config.clone() }),
            Work::Config(config),
            Work::Config(nothing),
            Work::Rebuild(Rebuild { agent: name("a"), start: false }),
            Work::Rebuild(Rebuild { agent: name("a"), start: true }),
        ] {
            assert_eq!(Work::from_journal(work.reason(), &work.to_journal().unwrap()).unwrap(), work);
            assert!(!seen.contains(&work.canonical()));
            seen.push(work.canonical());
        }
        assert!(Work::from_journal(Reason::Config, b"{}").is_err());
    }
}
