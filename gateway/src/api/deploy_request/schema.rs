//! The body of a deploy as the API's document describes it, and its examples. What is described here is read by
//! [`super::parse()`], which knows a little more than a schema can say.

use crate::api::config_fields::DeployConfig;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The specification of a deploy. Either `source_files` or `image` is needed. A redeploy replaces the whole
/// specification: what is left out takes its default. `null` is the same as absent. A field that is not listed here is
/// ignored, and the answer's `warnings` say so.
#[derive(Debug, ToSchema)]
#[schema(as = DeployRequest)]
pub struct DeployBody {
    /// The agent's name, a DNS label. An agent of this name is updated, otherwise it is created.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63, examples("hello"))]
    pub agent_name: String,
    /// An image that is built already. It wins over `source_files`, with a warning.
    #[schema(max_length = 1024, examples("registry.example.com/team/hello:1.0"))]
    pub image: Option<String>,
    /// File names and their text, or `{"base64": "…"}` for a binary file. Names are relative and normalised: no `..`, no
    /// leading `/`, no backslash. An image is built from them on the server.
    pub source_files: Option<BTreeMap<String, SourceFile>>,
    /// The configuration of the agent.
    #[serde(flatten)]
    pub config: DeployConfig,
    /// Tools that the agent uses. One that is not registered is bound as soon as it is, unless `strict` is asked for.
    /// Repetitions are merged.
    #[schema(max_items = 256)]
    pub required_tools: Option<Vec<String>>,
    /// Tools to register before the agent starts. One that exists with the same endpoint is left as it is.
    #[schema(max_items = 256)]
    pub tools_to_create: Option<Vec<DeployTool>>,
    /// Python packages, one requirement on each line as pip writes it, with `--hash=sha256:…`, and with `-r` and `-c` for
    /// files of the source; no other options and no URLs. When this is absent, `requirements.txt`, then `pyproject.toml`,
    /// then the entry file's PEP 723 header, then the imports of the source decide.
    #[schema(examples("openai>=1.0\nrequests"))]
    pub requirements: Option<String>,
    /// The file to start. Default: the only `.py` file, else `agent.py`, `main.py` or `app.py`, at the root or in `src`.
    #[schema(examples("agent.py"))]
    pub entry_point: Option<String>,
}

/// A tool to register with a deploy.
#[derive(Debug, ToSchema)]
pub struct DeployTool {
    /// The tool's name, a DNS label.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63, examples("weather"))]
    pub name: String,
    /// The purpose of the tool, for people and models.
    #[schema(max_length = 16384)]
    pub description: Option<String>,
    /// Where the tool is reached, with `http://` or `https://`.
    #[schema(max_length = 2048, examples("https://weather.example.com/v1"))]
    pub base_url: String,
    /// The authentication of calls to the tool. Letter case does not matter. Default: `None`.
    #[schema(inline)]
    pub auth_type: Option<DeployAuthType>,
    /// The port. Default: the one in `base_url`, else 443, or 80 for `http://`.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// The protocol. Letter case does not matter. Default: that of `base_url`.
    #[schema(inline)]
    pub scheme: Option<DeployScheme>,
}

/// The authentication of calls to a tool.
#[derive(Debug, ToSchema)]
pub enum DeployAuthType {
    /// Not at all.
    None,
    /// With a key.
    #[schema(rename = "APIKey")]
    ApiKey,
    /// With a token that is fetched with client credentials.
    OAuth2,
}

/// The protocol of calls to a tool.
#[derive(Debug, ToSchema)]
pub enum DeployScheme {
    /// Without TLS.
    #[schema(rename = "HTTP")]
    Http,
    /// With TLS.
    #[schema(rename = "HTTPS")]
    Https,
}

/// The content of a source file. What a text declares as its encoding (PEP 263) becomes UTF-8.
#[derive(Debug, ToSchema, serde::Serialize)]
#[serde(untagged)]
pub enum SourceFile {
    /// Text.
    Text(String),
    /// Any bytes.
    Binary {
        /// The bytes in Base64, with padding.
        base64: String,
    },
}

/// Returns the smallest deploy: one file, whose `handler` receives the body of `POST /api/agents/hello/invoke`.
pub fn from_source() -> Value {
    json!({
        "agent_name": "hello",
        "source_files": {"agent.py": "def handler(message):\n    return \"Hello, \" + message\n"}
    })
}

/// Returns a deploy with all other parts: a tool, a model, a package and a variable.
pub fn with_everything() -> Value {
    json!({
        "agent_name": "forecaster",
        "source_files": {
            "agent.py": "import os\nimport requests\n\ndef handler(message):\n    \
                url = os.environ[\"TOOL_URL_WEATHER\"]\n    \
                return requests.get(url, params={\"place\": message}, timeout=10).json()\n"
        },
        "entry_point": "agent.py",
        "requirements": "requests>=2.31",
        "system_prompt": "You tell people what weather to expect.",
        "tools_to_create": [{
            "name": "weather",
            "description": "Forecasts by place",
            "base_url": "https://weather.example.com/v1",
            "auth_type": "APIKey"
        }],
        "required_tools": ["weather"],
        "llm_configs": [{"role": "chat", "provider": "openai", "model": "gpt-4o-mini"}],
        "env": [{"name": "UNITS", "value": "metric"}]
    })
}

/// Returns a deploy of an existing image, with a model for each role.
pub fn from_image() -> Value {
    json!({
        "agent_name": "librarian",
        "image": "registry.example.com/team/librarian:1.4",
        "llm_configs": [
            {"role": "chat", "provider": "openai", "model": "gpt-4o"},
            {"role": "embedding", "provider": "openai", "model": "text-embedding-3-small"}
        ]
    })
}
