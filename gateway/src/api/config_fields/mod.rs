//! An agent's configuration in the public API: the members of a deploy and of a change, and the form in answers. Every
//! member of [`AgentConfig`] has its public side here.

pub mod env;
pub mod llm;

use super::json::{self, Object};
use crate::{deploy::providers, state::AppState};
use hoistway_model::{
    Code, Name, Result,
    agent::{AgentConfig, AgentConfigChange},
    env::platform,
    error::excerpt,
    framework::Framework,
    tool::BoundTool,
};
use llm::NamedProvider;
use serde::Serialize;
use utoipa::ToSchema;

/// The configuration of the agent in a deploy.
#[derive(Debug, ToSchema)]
pub struct DeployConfig {
    /// The value of the agent's variable `SYSTEM_PROMPT`.
    pub system_prompt: Option<String>,
    /// The models that the agent uses, each role at most once.
    #[schema(max_items = 4)]
    pub llm_configs: Option<Vec<DeployModel>>,
    /// The agent's model, where it has only one.
    pub llm_config: Option<DeployModel>,
    /// Variables of the agent's environment, no name twice. Answers mask their values, logs and errors those that are secret.
    #[schema(max_items = 1000)]
    pub env: Option<Vec<DeployVariable>>,
    /// The framework of the agent, in any letter case: `langchain`, `langgraph`, `crewai`, `openai`, `pydantic-ai`,
    /// `smolagents`, `llamaindex`, `autogen`, `google-adk`, `strands`, `mcp`, `fastapi`, `starlette`, `flask`, `django`
    /// or `custom`. It is shown with the agent; another one is shown too, with a warning.
    #[schema(examples("langchain"))]
    pub framework: Option<String>,
    /// The name of a registered identity provider that authenticates the agent's callers.
    pub identity_provider: Option<String>,
    /// The purpose of the agent, in words for people. It is shown with the agent, which finds it in
    /// `AGENT_DESCRIPTION`.
    #[schema(examples("Answers questions about the weather"))]
    pub description: Option<String>,
}

/// Reads a deploy's configuration; returns with it the path of each model in the body.
pub fn of_deploy(root: &mut Object, warnings: &mut Vec<String>) -> Result<(AgentConfig, Vec<String>)> {
    let system_prompt = variable(root, SYSTEM_PROMPT)?.unwrap_or_default();
    let description = variable(root, DESCRIPTION)?.unwrap_or_default();
    let (llm_paths, llm) = llm::parse(root, warnings)?.into_iter().unzip();
    let env = env::parse(root, warnings)?;
    let identity_provider = root.text("identity_provider")?;
    let identity_provider = identity_provider.map(|name| json::name("identity_provider", &name)).transpose()?;
    let framework = root.text("framework")?.map(|text| known_framework(&text, warnings));
    Ok((AgentConfig { system_prompt, llm, env, identity_provider, framework, description }, llm_paths))
}

/// A member whose text the agent receives in a variable.
type InVariable = (&'static str, &'static str);
const SYSTEM_PROMPT: InVariable = ("system_prompt", platform::SYSTEM_PROMPT);
const DESCRIPTION: InVariable = ("description", platform::AGENT_DESCRIPTION);

fn variable(root: &mut Object, (member, variable): InVariable) -> Result<Option<String>> {
    let text = root.string(member)?;
    text.as_ref().map_or(Ok(()), |text| env::fits(member, variable, text))?;
    Ok(text)
}

/// Returns a framework's public name. An unknown name is kept unchanged, with a warning.
fn known_framework(text: &str, warnings: &mut Vec<String>) -> String {
    if let Some(known) = Framework::parse(text) {
        return known.as_str().to_owned();
    }
    let known = Framework::ALL.map(Framework::as_str);
    let hint = json::did_you_mean(text, &known).map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
    let (text, known) = (excerpt(text.trim()), known.join(", "));
    warnings.push(format!("framework: \"{text}\" is not known and changes nothing; known are {known}{hint}"));
    text
}

/// A change of the configuration: what is given replaces what was there, the rest stays.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "`of_change` reads it; this describes it")]
pub struct ConfigChangeBody {
    /// The system prompt; an empty string removes it.
    system_prompt: Option<String>,
    /// A registered identity provider; an empty string removes it.
    identity_provider: Option<String>,
    /// Every model of the agent.
    #[schema(max_items = 4)]
    llm_configs: Option<Vec<ModelChange>>,
    /// The purpose of the agent; an empty string removes it.
    description: Option<String>,
}

/// The members that a change can have.
pub const CHANGEABLE: &str = "system_prompt, identity_provider, llm_configs, description";

/// Reads a change, and the registered providers that it refers to.
pub fn of_change(root: &mut Object, warnings: &mut Vec<String>) -> Result<(AgentConfigChange, Vec<NamedProvider>)> {
    let (system_prompt, description) = (variable(root, SYSTEM_PROMPT)?, variable(root, DESCRIPTION)?);
    let identity_provider = match root.string("identity_provider")? {
        None => None,
        Some(text) if text.trim().is_empty() => Some(None),
        Some(text) => Some(Some(json::name("identity_provider", &text)?)),
    };
    let (llm, named) = llm::change(root, warnings)?;
    Ok((AgentConfigChange { system_prompt, llm, identity_provider, description }, named))
}

/// The configuration as a part of the specification of an agent and of a revision.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpecConfig {
    /// The system prompt; empty when there is none.
    system_prompt: String,
    /// Its models, each role at most once.
    llm_config: Vec<ModelOut>,
    /// Its environment; the values of the user's own variables are masked, but for those with `"secret": false`.
    env: Vec<VariableOut>,
    /// The identity provider that authenticates its callers; null when there is none.
    #[schema(required)]
    identity_provider: Option<String>,
    /// The agent's framework, as it was deployed; null when none was given.
    #[schema(required, examples("langgraph"))]
    framework: Option<String>,
    /// The agent's purpose; empty when none was given.
    #[schema(examples("Answers questions about the weather"))]
    description: String,
}

impl SpecConfig {
    /// Returns a configuration with these variables; secret values are masked.
    pub fn of(config: AgentConfig, env: impl IntoIterator<Item = (String, String)>) -> Self {
        let models = config.llm.into_iter();
        Self {
            system_prompt: config.system_prompt,
            llm_config: models
                .map(|m| ModelOut { role: m.role.as_str(), provider: m.provider, model: m.model })
                .collect(),
            env: env.into_iter().map(|(name, value)| VariableOut { name, value }).collect(),
            identity_provider: config.identity_provider.map(Into::into),
            framework: config.framework,
            description: config.description,
        }
    }
}

/// The configuration alone, in the public SDK's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConfigOut {
    /// The system prompt; may be empty.
    system_prompt: String,
    /// Empty: nobody authenticates callers.
    identity_provider: String,
    /// Its models, each role at most once.
    llm_configs: Vec<ModelConfig>,
    /// The agent's purpose; may be empty.
    description: String,
}

impl ConfigOut {
    /// Returns a configuration with the known data of its models' registered providers.
    pub async fn of(state: &AppState, config: AgentConfig) -> Result<Self> {
        let mut llm_configs = Vec::with_capacity(config.llm.len());
        for model in config.llm {
            let (model_provider, provider) = if providers::is_known(&model.provider) {
                (None, Some(model.provider))
            } else {
                let protocol = match state.tools.get_model_provider(Name::parse("provider", &model.provider)?).await {
                    Ok(registered) => Some(registered.provider),
                    Err(e) if e.code == Code::NotFound => None,
                    Err(e) => return Err(e),
                };
                (Some(model.provider), protocol)
            };
            llm_configs.push(ModelConfig { role: model.role.as_str(), model_provider, provider, model: model.model });
        }
        Ok(Self {
            system_prompt: config.system_prompt,
            identity_provider: config.identity_provider.map(Into::into).unwrap_or_default(),
            llm_configs,
            description: config.description,
        })
    }
}

/// A model that an agent uses in one role.
#[derive(Debug, ToSchema)]
pub struct DeployModel {
    /// `openai`, `anthropic`, `bedrock`, `ollama`, or the name of a registered model provider.
    #[schema(examples("openai"))]
    pub provider: String,
    /// The model, as its provider calls it.
    #[schema(max_length = 2048, examples("gpt-4o-mini"))]
    pub model: String,
    /// The use of the model. Letter case does not matter, and `default` means `chat`. Default: `chat`.
    #[schema(inline)]
    pub role: Option<DeployRole>,
}

/// The use of a model.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum DeployRole {
    /// Conversation: `LLM_MODEL` and `LLM_PROVIDER`.
    Chat,
    /// Embedding: `LLM_MODEL_EMBEDDING`.
    Embedding,
    /// Classification: `LLM_MODEL_CLASSIFY`.
    Classify,
    /// Reranking: `LLM_MODEL_RERANKING`.
    Reranking,
}

/// A variable of the agent's environment.
#[derive(Debug, ToSchema)]
pub struct DeployVariable {
    /// The name. `PORT`, `AGENT_NAME`, `USER_ENTRY_POINT`, `SYSTEM_PROMPT`, `TOOL_NAMES`, `PYTHONPATH`, `PYTHONHOME` and
    /// what begins with `LLM_`, `TOOL_URL_`, `HOISTWAY_` or `LD_` are the platform's own.
    #[schema(pattern = "^[A-Za-z_.-][A-Za-z0-9_.-]*$", max_length = 255, examples("GREETING"))]
    pub name: String,
    /// The value; it may be empty.
    #[schema(examples("Good morning"))]
    pub value: String,
    /// Whether the value is secret, and so masked in logs and errors too. `false` shows it, also where the agent is shown. Default:
    /// the name (`…_KEY`, `…_TOKEN`, `…_PASSWORD` and the like) and the value itself (random letters and digits) decide, and of a URL
    /// only its password is secret.
    pub secret: Option<bool>,
}

/// A model: with the name of a registered provider, or with a protocol.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the strict reader reads it; this describes it")]
#[schema(as = AgentConfigModelChange)]
pub struct ModelChange {
    /// chat (default), embedding, classify or reranking.
    role: Option<String>,
    /// A registered model provider's name.
    model_provider: Option<String>,
    /// openai, anthropic, bedrock or ollama, when no registered provider is named.
    provider: Option<String>,
    /// The model's identifier.
    model: String,
}

/// A model of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentConfigModel)]
pub struct ModelConfig {
    /// `chat`, `embedding`, `classify` or `reranking`.
    role: &'static str,
    /// The registered model provider's name; absent for one that needs no registration.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    model_provider: Option<String>,
    /// The protocol: openai, anthropic, bedrock or ollama. Absent when the registered provider is gone.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// The model's identifier.
    model: String,
}

/// A model of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentModel)]
pub struct ModelOut {
    /// The use of the model: `chat`, `embedding`, `classify` or `reranking`.
    #[schema(examples("chat"))]
    role: &'static str,
    /// `openai`, `anthropic`, `bedrock`, `ollama` or a registered provider's name.
    #[schema(examples("openai"))]
    provider: String,
    /// The model, as its provider calls it.
    #[schema(examples("gpt-4o-mini"))]
    model: String,
}

/// A variable of an agent's environment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentVariable)]
pub struct VariableOut {
    /// Its name.
    #[schema(examples("AGENT_NAME"))]
    name: String,
    /// Its value, masked if it is the user's and was not deployed with `"secret": false`.
    #[schema(examples("hello"))]
    value: String,
}

/// A tool that an agent uses.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentTool)]
pub struct ToolOut {
    /// The tool's name.
    #[schema(examples("echo-tool"))]
    name: String,
}

impl From<BoundTool> for ToolOut {
    fn from(tool: BoundTool) -> Self {
        Self { name: tool.name.into() }
    }
}
