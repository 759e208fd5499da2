//! A deploy as the saga carries it out: the validated request, and the checks that need look-ups.

mod stored;

use super::providers;
use hoistway_model::{
    Error, Name, Result,
    agent::{AgentConfig, LlmConfig},
    build::BuildSource,
    image::ImageRef,
    tool::{NewTool, Resolved},
};
use serde::{Deserialize, Serialize};

/// A requested deploy. Its JSON is stored in the journal: members are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeployRequest {
    /// The agent.
    pub agent: Name,
    /// The source of the agent.
    pub source: Source,
    /// The configuration of the agent. A provider other than the known four, and the identity provider, need a look-up.
    #[serde(flatten)]
    pub config: AgentConfig,
    /// The tools that it uses, no name twice.
    pub required_tools: Vec<Name>,
    /// Tools to register unless they exist, in the request's order, no name twice.
    pub tools_to_create: Vec<NewTool>,
    /// Whether to resolve the requirements again, although nothing else has changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refresh: bool,
    /// The paths in the body of the members that a look-up may refuse.
    #[serde(rename = "notes")]
    pub paths: Paths,
}

/// Paths of members in the request's body, for errors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Paths {
    /// The path of each required tool.
    #[serde(rename = "tool_paths")]
    pub tools: Vec<String>,
    /// The path of each model.
    #[serde(rename = "llm_paths")]
    pub llm: Vec<String>,
    /// The framework, which earlier versions stored here.
    #[serde(default, skip_serializing)]
    framework: Option<String>,
}

impl Paths {
    /// Returns the paths of the required tools and of the models.
    pub fn new(tools: Vec<String>, llm: Vec<String>) -> Self {
        Self { tools, llm, framework: None }
    }
}

/// The source of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An existing image; the platform's registry has its symbolic name.
    Image(ImageRef),
    /// Files for a build.
    Files(#[serde(with = "stored::source")] BuildSource),
}

impl DeployRequest {
    /// Returns the deploy with the query's `refresh`; beside an image that is ignored, with the returned warning.
    pub fn refreshed(mut self, refresh: bool) -> (Self, Option<String>) {
        self.refresh = refresh && self.wants_build();
        let ignored = refresh && !self.refresh;
        let warning = || "refresh is ignored, because an image is given and nothing is built".to_owned();
        (self, ignored.then(warning))
    }

    /// Whether an image is to be built.
    pub fn wants_build(&self) -> bool {
        matches!(self.source, Source::Files(_))
    }

    /// Returns the model providers that have to be looked up, each with its path in the request.
    pub fn unknown_providers(&self) -> Vec<(String, String)> {
        let all = self.paths.llm.iter().zip(&self.config.llm);
        let unknown = all.filter(|(_, model)| !providers::is_known(&model.provider));
        unknown.map(|(path, model)| (format!("{path}.provider"), model.provider.clone())).collect()
    }

    /// Returns the models, each with its path in the request.
    pub fn named_models(&self) -> Vec<(String, &LlmConfig)> {
        self.paths.llm.iter().cloned().zip(&self.config.llm).collect()
    }

    /// Checks the results of the look-ups. Unregistered tools are a warning, or an error when `strict`.
    pub fn check_lookups(&self, resolved: &Resolved, strict: bool) -> Result<Vec<String>> {
        for (path, provider) in self.unknown_providers() {
            if !resolved.providers.contains(&provider) {
                return Err(providers::unknown_provider(&path, &provider));
            }
        }
        if let Some(name) = self.config.identity_provider.as_ref().filter(|_| !resolved.identity_provider_known) {
            let message = format!("\"{name}\" is not a registered identity provider");
            let remedy = "`POST /api/identity-providers` registers one".to_owned();
            return Err(Error::field("identity_provider", message).with_details([remedy]));
        }
        let mut warnings = Vec::new();
        for (path, name) in self.paths.tools.iter().zip(&self.required_tools) {
            if resolved.tools.iter().any(|tool| tool.name == *name && tool.url.is_some()) {
                continue;
            }
            if strict {
                return Err(Error::field(path.as_str(), format!("no tool \"{name}\" is registered")));
            }
            warnings.push(unregistered(name));
        }
        Ok(warnings)
    }
}

/// Returns the warning about an unregistered required tool.
fn unregistered(name: &Name) -> String {
    let later = "the agent cannot use it before it is; then it is bound by itself";
    format!("no tool \"{name}\" is registered: {later}")
}

/// Returns the same warning about each unregistered tool in `resolved`.
pub fn not_registered(resolved: &Resolved) -> impl Iterator<Item = String> {
    resolved.tools.iter().filter(|tool| tool.url.is_none()).map(|tool| unregistered(&tool.name))
}
