//! A request as bytes: for the journal, where it is sealed, and in the canonical forms that equal requests share.

use super::{DeployRequest, Paths, Source};
use hoistway_model::{
    Error, Name, Result,
    agent::{AgentConfig, LlmConfig},
};
use serde::Serialize;
use std::collections::BTreeMap;

impl DeployRequest {
    /// Returns bytes that are equal exactly for requests with the same meaning. They contain the values of variables:
    /// only a keyed hash of them may be stored.
    pub fn canonical(&self) -> Vec<u8> {
        let mut request = Self { paths: Paths::default(), ..self.clone() };
        request.config.llm = sorted(&self.config.llm);
        // Writing texts and numbers into memory cannot fail.
        serde_json::to_vec(&request).unwrap_or_default()
    }

    /// Returns the canonical form of the parts that determine the agent's revision. The tools registered with it are
    /// part of the agent's bindings, and newly resolved requirements of the image. A keyed hash of these bytes is
    /// stored.
    pub fn canonical_revision(&self) -> Vec<u8> {
        serde_json::to_vec(&CanonicalRevision::of(self)).unwrap_or_default()
    }

    /// Returns the whole request for the journal, to be sealed before it is stored.
    pub fn to_journal(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal("writing a deployment's request", e))
    }

    /// Reads the bytes that [`DeployRequest::to_journal`] wrote.
    pub fn from_journal(bytes: &[u8]) -> Result<Self> {
        // A parse error would contain some of the text, which is secret.
        let malformed = |_| Error::internal("reading a deployment's request", "it is malformed");
        let mut request: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        request.config.framework = request.config.framework.or(request.paths.framework.take());
        Ok(request)
    }
}

/// Sorts by role, since the order in a request has no meaning.
fn sorted(models: &[LlmConfig]) -> Vec<LlmConfig> {
    let mut models = models.to_vec();
    models.sort_by_key(|model| model.role.as_str());
    models
}

/// The order and shape of these members determine the fingerprints of all agents: after a change every next redeploy
/// makes a new revision.
#[derive(Serialize)]
struct CanonicalRevision<'a> {
    version: u8,
    agent: &'a Name,
    source: &'a Source,
    system_prompt: &'a str,
    required_tools: &'a [Name],
    tools_to_create: [(); 0],
    llm: Vec<LlmConfig>,
    env: Vec<(&'a str, &'a str)>,
    identity_provider: &'a Option<Name>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    secret: BTreeMap<&'a str, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    framework: &'a Option<String>,
    /// The members that were added to the configuration later, by name.
    #[serde(flatten)]
    newer: BTreeMap<String, serde_json::Value>,
}

impl<'a> CanonicalRevision<'a> {
    fn of(request: &'a DeployRequest) -> Self {
        let config = &request.config;
        Self {
            version: 1,
            agent: &request.agent,
            source: &request.source,
            system_prompt: &config.system_prompt,
            required_tools: &request.required_tools,
            tools_to_create: [],
            llm: sorted(&config.llm),
            env: config.env.iter().map(|var| (var.name.as_str(), var.value.expose())).collect(),
            identity_provider: &config.identity_provider,
            secret: config.env.iter().filter_map(|var| Some((var.name.as_str(), var.secret?))).collect(),
            framework: &config.framework,
            newer: newer(config),
        }
    }
}

/// Returns the members of a configuration that are no named members of [`CanonicalRevision`].
fn newer(config: &AgentConfig) -> BTreeMap<String, serde_json::Value> {
    const NAMED: [&str; 6] = ["system_prompt", "llm", "env", "secret", "identity_provider", "framework"];
    match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(members)) => {
            members.into_iter().filter(|(name, _)| !NAMED.contains(&name.as_str())).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// The stored form of the source: files in UTF-8, which most are, as text, and the others in Base64.
pub mod source {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use hoistway_model::build::BuildSource;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
    use std::{borrow::Cow, collections::BTreeMap};

    #[derive(Serialize, Deserialize)]
    struct Stored<'a> {
        files: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
        entry_point: Cow<'a, str>,
        requirements: Option<Cow<'a, str>>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        binary_files: BTreeMap<Cow<'a, str>, String>,
    }

    pub fn serialize<S: Serializer>(source: &BuildSource, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut files, mut binary_files) = (BTreeMap::new(), BTreeMap::new());
        for (name, content) in source.files.iter() {
            match std::str::from_utf8(content) {
                Ok(text) => drop(files.insert(name.into(), text.into())),
                Err(_) => drop(binary_files.insert(name.into(), BASE64.encode(content))),
            }
        }
        let (entry_point, requirements) = (source.entry_point.as_str().into(), source.requirements.as_ref());
        let requirements = requirements.map(|requirements| requirements.text().into());
        Stored { files, entry_point, requirements, binary_files }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BuildSource, D::Error> {
        let Stored { files, entry_point, requirements, binary_files } = Stored::deserialize(deserializer)?;
        let mut all = BTreeMap::new();
        for (name, text) in binary_files {
            all.insert(name.into_owned(), BASE64.decode(text).map_err(D::Error::custom)?);
        }
        all.extend(files.into_iter().map(|(name, text)| (name.into_owned(), text.into_owned().into_bytes())));
        BuildSource::parse(all, Some(&entry_point), requirements.as_deref()).map_err(D::Error::custom)
    }
}
