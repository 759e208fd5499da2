//! A deploy as the saga carries it out: what passed the edge's checks, and what the look-ups say of it.

use super::providers;
use hoistway_model::{
    Error, Name, Result,
    agent::{EnvVar, LlmConfig},
    build::BuildSource,
    image::ImageRef,
    tool::{NewTool, Resolved},
};

/// A deploy as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct DeployRequest {
    /// The agent.
    pub agent: Name,
    /// What it is made of.
    pub source: Source,
    /// The system prompt; may be empty.
    pub system_prompt: String,
    /// The tools that it uses, no name twice.
    pub required_tools: Vec<Name>,
    /// Tools to make sure of, in the request's order, no name twice.
    pub tools_to_create: Vec<NewTool>,
    /// Models, each role at most once. A provider that is not one of the known four needs a look-up.
    pub llm: Vec<LlmConfig>,
    /// The user's variables, in order.
    pub env: Vec<EnvVar>,
    /// Who authenticates callers; needs a look-up.
    pub identity_provider: Option<Name>,
    /// What the user says the agent is written with: a name that the runner knows, or another.
    pub framework: Option<String>,
    /// Resolve the requirements anew, although nothing else has changed.
    pub refresh: bool,
    /// Where in the request each of `required_tools` was.
    pub tool_paths: Vec<String>,
    /// Where in the request each of `llm` was.
    pub llm_paths: Vec<String>,
}

/// What an agent is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// An image that exists; the platform's registry is in its symbolic form.
    Image(ImageRef),
    /// Files to build one from.
    Files(BuildSource),
}

impl DeployRequest {
    /// With the query's `refresh`; beside an image it means nothing, and the answer is the warning that says so.
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

    /// The model providers that have to be looked up, each with its path in the request.
    pub fn unknown_providers(&self) -> Vec<(String, String)> {
        let all = self.llm_paths.iter().zip(&self.llm);
        let unknown = all.filter(|(_, model)| !providers::is_known(&model.provider));
        unknown.map(|(path, model)| (format!("{path}.provider"), model.provider.clone())).collect()
    }

    /// The models, each with its path in the request.
    pub fn named_models(&self) -> Vec<(String, &LlmConfig)> {
        self.llm_paths.iter().cloned().zip(&self.llm).collect()
    }

    /// Judges what the look-ups found. Tools that nobody registered are a warning, or an error when `strict`.
    pub fn check_lookups(&self, resolved: &Resolved, strict: bool) -> Result<Vec<String>> {
        for (path, provider) in self.unknown_providers() {
            if !resolved.providers.contains(&provider) {
                return Err(providers::unknown_provider(&path, &provider));
            }
        }
        if let Some(name) = self.identity_provider.as_ref().filter(|_| !resolved.identity_provider_known) {
            let message = format!("\"{name}\" is not a registered identity provider");
            let remedy = "`POST /api/identity-providers` registers one".to_owned();
            return Err(Error::field("identity_provider", message).with_details([remedy]));
        }
        let mut warnings = Vec::new();
        for (path, name) in self.tool_paths.iter().zip(&self.required_tools) {
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

/// What to say about a required tool that nobody registered.
fn unregistered(name: &Name) -> String {
    let later = "the agent cannot use it before it is; then it is bound by itself";
    format!("no tool \"{name}\" is registered: {later}")
}

/// The same about each such tool among those that were looked up.
pub fn not_registered(resolved: &Resolved) -> impl Iterator<Item = String> {
    resolved.tools.iter().filter(|tool| tool.url.is_none()).map(|tool| unregistered(&tool.name))
}
