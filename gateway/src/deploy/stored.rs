//! A request as bytes: for the journal, where it is sealed, and in the one form that equal requests share.

use super::request::{DeployRequest, Source};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hoistway_model::{
    Error, Name, Result, Secret,
    agent::{EnvVar, LlmConfig, LlmRole},
    build::BuildSource,
    tool::{AuthType, Connection, NewTool, Scheme},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap};

type Text<'a> = Cow<'a, str>;

// The order of members here is the canonical order: moving one makes every agent's next redeploy a change.
#[derive(Serialize, Deserialize)]
struct Request<'a> {
    version: u8,
    agent: Text<'a>,
    source: StoredSource<'a>,
    system_prompt: Text<'a>,
    required_tools: Vec<Text<'a>>,
    tools_to_create: Vec<Tool<'a>>,
    llm: Vec<Model<'a>>,
    env: Vec<(Text<'a>, Text<'a>)>,
    identity_provider: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    refresh: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notes: Option<Notes<'a>>,
    /// What the request says of variables' values being secret, where it says anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secret: BTreeMap<Text<'a>, bool>,
    /// Absent in the journal, whose notes have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    framework: Option<Text<'a>>,
}

/// What is worth keeping and means nothing for what runs.
#[derive(Serialize, Deserialize)]
struct Notes<'a> {
    framework: Option<Text<'a>>,
    tool_paths: Vec<Text<'a>>,
    llm_paths: Vec<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredSource<'a> {
    Image(String),
    Files {
        /// Those whose bytes are UTF-8, which is most of them.
        files: BTreeMap<Text<'a>, Text<'a>>,
        entry_point: Text<'a>,
        requirements: Option<Text<'a>>,
        /// The others in Base64.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        binary_files: BTreeMap<Text<'a>, String>,
    },
}

// What the other ways of registering a tool can say besides has no place in a deploy.
#[derive(Serialize, Deserialize)]
struct Tool<'a> {
    name: Text<'a>,
    description: Text<'a>,
    base_url: Text<'a>,
    port: u16,
    scheme: Text<'a>,
    auth_type: Text<'a>,
}

#[derive(Serialize, Deserialize)]
struct Model<'a> {
    role: Text<'a>,
    provider: Text<'a>,
    model: Text<'a>,
}

const VERSION: u8 = 1;

impl DeployRequest {
    /// Bytes that two requests share exactly when they mean the same. They hold the values of variables: only a
    /// keyed hash of them may be kept.
    pub fn canonical(&self) -> Vec<u8> {
        let mut form = self.form();
        form.llm.sort_by(|a, b| a.role.cmp(&b.role));
        // Writing texts and numbers into memory cannot fail.
        serde_json::to_vec(&form).unwrap_or_default()
    }

    /// The same without `tools_to_create` and `refresh`: what makes a revision of the agent. What is registered beside
    /// it shows in the tools that the agent is bound to, and what was resolved anew in the image.
    pub fn canonical_revision(&self) -> Vec<u8> {
        Self { tools_to_create: Vec::new(), refresh: false, ..self.clone() }.canonical()
    }

    /// The whole request for the journal, to be sealed before it is stored.
    pub fn to_journal(&self) -> Result<Vec<u8>> {
        let texts = |list: &'_ [String]| list.iter().map(|text| Cow::Owned(text.clone())).collect();
        let mut form = Request { framework: None, ..self.form() };
        form.notes = Some(Notes {
            framework: self.framework.as_deref().map(Cow::Borrowed),
            tool_paths: texts(&self.tool_paths),
            llm_paths: texts(&self.llm_paths),
        });
        serde_json::to_vec(&form).map_err(|e| Error::internal("writing a deployment's request", e))
    }

    /// Reads what [`DeployRequest::to_journal`] wrote.
    pub fn from_journal(bytes: &[u8]) -> Result<Self> {
        const DOING: &str = "reading a deployment's request";
        // A parse error would repeat some of the text, which is secret.
        let form: Request<'_> = serde_json::from_slice(bytes).map_err(|_| Error::internal(DOING, "it is malformed"))?;
        if form.version != VERSION {
            return Err(Error::internal(DOING, format!("unknown version {}", form.version)));
        }
        form.read().map_err(|e| Error::internal(DOING, e.field.unwrap_or(e.message)))
    }

    fn form(&self) -> Request<'_> {
        Request {
            version: VERSION,
            agent: self.agent.as_str().into(),
            source: match &self.source {
                Source::Image(image) => StoredSource::Image(image.to_string()),
                Source::Files(build) => StoredSource::of(build),
            },
            system_prompt: self.system_prompt.as_str().into(),
            required_tools: self.required_tools.iter().map(|name| name.as_str().into()).collect(),
            tools_to_create: self.tools_to_create.iter().map(Tool::of).collect(),
            llm: self.llm.iter().map(Model::of).collect(),
            env: self.env.iter().map(|var| (var.name.as_str().into(), var.value.expose().into())).collect(),
            identity_provider: self.identity_provider.as_ref().map(|name| name.as_str().into()),
            refresh: self.refresh,
            notes: None,
            secret: self.env.iter().filter_map(|var| Some((var.name.as_str().into(), var.secret?))).collect(),
            framework: self.framework.as_deref().map(Cow::Borrowed),
        }
    }
}

impl Request<'_> {
    fn read(self) -> Result<DeployRequest> {
        let name = |field: &str, text: &str| Name::parse(field, text);
        let notes = self.notes.ok_or_else(|| Error::field("notes", "missing"))?;
        let texts = |list: Vec<Text<'_>>| list.into_iter().map(Cow::into_owned).collect();
        let env = |(name, value): (Text<'_>, Text<'_>)| EnvVar {
            secret: self.secret.get(&name).copied(),
            name: name.into_owned(),
            value: Secret::new(value),
        };
        Ok(DeployRequest {
            agent: name("agent", &self.agent)?,
            source: match self.source {
                StoredSource::Image(image) => Source::Image(image.parse()?),
                StoredSource::Files { files, entry_point, requirements, binary_files } => {
                    let mut all = BTreeMap::new();
                    for (name, text) in binary_files {
                        let content = BASE64.decode(text).map_err(|_| Error::field("binary_files", "is not base64"))?;
                        all.insert(name.into_owned(), content);
                    }
                    all.extend(
                        files.into_iter().map(|(name, text)| (name.into_owned(), text.into_owned().into_bytes())),
                    );
                    Source::Files(BuildSource::parse(all, Some(&entry_point), requirements.as_deref())?)
                }
            },
            system_prompt: self.system_prompt.into_owned(),
            required_tools: self
                .required_tools
                .iter()
                .map(|text| name("required_tools", text))
                .collect::<Result<_>>()?,
            tools_to_create: self.tools_to_create.into_iter().map(Tool::read).collect::<Result<_>>()?,
            llm: self.llm.into_iter().map(Model::read).collect::<Result<_>>()?,
            env: self.env.into_iter().map(env).collect(),
            identity_provider: self.identity_provider.map(|text| name("identity_provider", &text)).transpose()?,
            framework: notes.framework.map(Cow::into_owned),
            refresh: self.refresh,
            tool_paths: texts(notes.tool_paths),
            llm_paths: texts(notes.llm_paths),
        })
    }
}

impl<'a> StoredSource<'a> {
    fn of(build: &'a BuildSource) -> Self {
        let (mut files, mut binary_files) = (BTreeMap::new(), BTreeMap::new());
        for (name, content) in build.files.iter() {
            match std::str::from_utf8(content) {
                Ok(text) => drop(files.insert(name.into(), text.into())),
                Err(_) => drop(binary_files.insert(name.into(), BASE64.encode(content))),
            }
        }
        Self::Files {
            files,
            entry_point: build.entry_point.as_str().into(),
            requirements: build.requirements.as_ref().map(|r| r.text().into()),
            binary_files,
        }
    }
}

impl<'a> Tool<'a> {
    fn of(tool: &'a NewTool) -> Self {
        Self {
            name: tool.name.as_str().into(),
            description: tool.description.as_str().into(),
            base_url: tool.connection.base_url.as_str().into(),
            port: tool.connection.port,
            scheme: tool.connection.scheme.as_str().into(),
            auth_type: tool.connection.auth_type.as_str().into(),
        }
    }

    fn read(self) -> Result<NewTool> {
        let wrong = |why: String| Error::field("tools_to_create", why);
        Ok(NewTool {
            name: Name::parse("tools_to_create", &self.name)?,
            description: self.description.into_owned(),
            connection: Connection {
                base_url: self.base_url.into_owned(),
                port: self.port,
                scheme: self.scheme.parse::<Scheme>().map_err(wrong)?,
                auth_type: self.auth_type.parse::<AuthType>().map_err(wrong)?,
                api_key: None,
                oauth2: None,
            },
            labels: BTreeMap::new(),
            credentials: BTreeMap::new(),
        })
    }
}

impl<'a> Model<'a> {
    fn of(model: &'a LlmConfig) -> Self {
        Self {
            role: model.role.as_str().into(),
            provider: model.provider.as_str().into(),
            model: model.model.as_str().into(),
        }
    }

    fn read(self) -> Result<LlmConfig> {
        Ok(LlmConfig {
            role: LlmRole::parse(&self.role).ok_or_else(|| Error::field("llm", "unknown role"))?,
            provider: self.provider.into_owned(),
            model: self.model.into_owned(),
        })
    }
}
