//! The rows of the tables, as the service sees them.

use super::entity::{agent, revision};
use hoistway_kit::secrets::MasterKey;
use hoistway_model::{
    Code, DeploymentId, Digest, Error, Name, OperationId, Result, RevisionId, Secret, agent::AgentSpec, image::layout,
    revision::Reason,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentRecord {
    pub name: Name,
    /// The revision that is wanted; `None` until a first one was switched to.
    pub desired: Option<RevisionId>,
    /// The revision that answers, or did last; differs from `desired` while that waits for its image.
    pub active: Option<RevisionId>,
    /// Stays down until it is started or deployed again.
    pub stopped: bool,
    /// The active instance is started by the next invoke.
    pub idle: bool,
    pub created_at: i64,
    pub updated_at: i64,
}

/// The stored part of a revision's state. Its state at the moment is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredPhase {
    /// Its start has not been decided yet.
    Starting,
    /// It has been ready.
    Ready,
    /// It waits for its registry.
    PendingImage,
    /// It could not be started.
    Failed,
    /// Another one took its place.
    Retired,
}

impl StoredPhase {
    const ALL: [StoredPhase; 5] = [
        StoredPhase::Starting,
        StoredPhase::Ready,
        StoredPhase::PendingImage,
        StoredPhase::Failed,
        StoredPhase::Retired,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            StoredPhase::Starting => "starting",
            StoredPhase::Ready => "ready",
            StoredPhase::PendingImage => "pending_image",
            StoredPhase::Failed => "failed",
            StoredPhase::Retired => "retired",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let found = StoredPhase::ALL.into_iter().find(|k| k.as_str() == text);
        found.ok_or_else(|| Error::internal(READING, format!("unknown phase {text}")))
    }
}

/// The facts that pulling an image has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    pub digest: Digest,
    pub layers: Vec<Digest>,
    pub python: String,
    /// One of [`hoistway_model::image::layout`].
    pub layout: String,
    /// Whether there is a base below its own layers; `None` if that was not kept when it was pulled.
    pub has_base: Option<bool>,
    pub entry_point: Option<String>,
}

impl ImageFacts {
    /// Whether the packages in the image were put together by an older Hoistway. Beside them there are the layers of
    /// the runtime and of the source, which are as they always were.
    pub fn has_former_packages(&self) -> bool {
        self.layout != layout::CURRENT && self.layers.len() > 2
    }
}

/// One instance of a revision of an agent. A revision that was never started anew has one, with its own id.
#[derive(Debug, Clone)]
pub(crate) struct Revision {
    /// The instance.
    pub id: RevisionId,
    /// The revision, as users know it.
    pub public: RevisionId,
    /// Counts the agent's revisions; given when the revision is recorded.
    pub number: u64,
    pub reason: Reason,
    pub deployment: Option<DeploymentId>,
    /// The number of the revision that it was made of.
    pub of: Option<u64>,
    pub served_at: Option<i64>,
    /// The call that started it; `None` for an instance that the service made by itself.
    pub operation: Option<OperationId>,
    pub spec: AgentSpec,
    /// The token that its runner demands of callers.
    pub token: Secret,
    pub phase: StoredPhase,
    pub message: String,
    /// Why it could not be started.
    pub failure: Option<(Code, String, Vec<String>)>,
    pub image: Option<ImageFacts>,
    pub created_at: i64,
}

const READING: &str = "reading a stored agent";

fn corrupt(e: Error) -> Error {
    Error::internal(READING, e)
}

impl AgentRecord {
    pub(super) fn read(row: agent::Model) -> Result<Self> {
        let id = |text: Option<String>| text.map(|t| t.parse::<RevisionId>()).transpose().map_err(corrupt);
        Ok(Self {
            name: Name::parse("name", &row.name).map_err(corrupt)?,
            desired: id(row.desired_revision)?,
            active: id(row.active_revision)?,
            stopped: row.stopped,
            idle: row.idle,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

impl Revision {
    pub(super) fn read(row: revision::Model, key: &MasterKey) -> Result<Self> {
        let spec = read_json(&key.open(&place(&row.id, "spec"), &row.spec)?)?;
        let token = String::from_utf8(key.open(&place(&row.id, "token"), &row.token)?)
            .map_err(|e| Error::internal(READING, e))?;
        let failure = row.failure.map(|f| read_json::<StoredFailure>(f.as_bytes())).transpose()?;
        let layers: Vec<Digest> = read_json(row.layers.as_bytes())?;
        let image = match (row.image_digest, row.python) {
            (Some(digest), Some(python)) => Some(ImageFacts {
                digest: digest.parse().map_err(corrupt)?,
                layers,
                python,
                layout: row.image_layout.unwrap_or_else(|| layout::FORMER.to_owned()),
                has_base: row.image_has_base,
                entry_point: row.entry_point,
            }),
            _ => None,
        };
        Ok(Self {
            id: row.id.parse().map_err(corrupt)?,
            public: row.public_id.parse().map_err(corrupt)?,
            number: row.number.unsigned_abs(),
            reason: Reason::parse(&row.reason)
                .ok_or_else(|| Error::internal(READING, format!("unknown reason {}", row.reason)))?,
            deployment: row.deployment.map(|d| d.parse()).transpose().map_err(corrupt)?,
            of: row.derived_from.map(i64::unsigned_abs),
            served_at: row.served_at,
            operation: row.operation.map(|o| o.parse()).transpose().map_err(corrupt)?,
            spec,
            token: Secret::new(token),
            phase: StoredPhase::parse(&row.phase)?,
            message: row.message,
            failure: failure.map(|f| (Code::parse(&f.code).unwrap_or(Code::AgentStartFailed), f.message, f.details)),
            image,
            created_at: row.created_at,
        })
    }

    pub(super) fn write(&self, key: &MasterKey) -> Result<revision::Model> {
        let id = self.id.to_string();
        let image = self.image.as_ref();
        Ok(revision::Model {
            public_id: self.public.to_string(),
            number: i64::try_from(self.number).unwrap_or(i64::MAX),
            reason: self.reason.as_str().to_owned(),
            deployment: self.deployment.map(|d| d.to_string()),
            derived_from: self.of.map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
            served_at: self.served_at,
            agent: self.spec.agent.to_string(),
            operation: self.operation.map(|o| o.to_string()),
            spec: key.seal(&place(&id, "spec"), &write_json(&self.spec)?)?,
            token: key.seal(&place(&id, "token"), self.token.expose().as_bytes())?,
            phase: self.phase.as_str().to_owned(),
            message: self.message.clone(),
            failure: self.failure.as_ref().map(stored_failure).transpose()?,
            image_digest: image.map(|i| i.digest.to_string()),
            layers: layers_text(image.map_or(&[], |i| &i.layers))?,
            python: image.map(|i| i.python.clone()),
            image_layout: image.map(|i| i.layout.clone()),
            image_has_base: image.and_then(|i| i.has_base),
            entry_point: image.and_then(|i| i.entry_point.clone()),
            created_at: self.created_at,
            id,
        })
    }

    /// Tells this specification from every other, and tells nobody without the key what is in it.
    pub(super) fn fingerprint(&self, key: &MasterKey) -> Result<Digest> {
        let mut bytes = write_json(&self.spec)?;
        bytes.extend_from_slice(self.id.to_string().as_bytes());
        Ok(key.fingerprint("agents.start", &bytes))
    }
}

/// Why a revision could not be started, as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredFailure {
    code: String,
    message: String,
    details: Vec<String>,
}

impl From<&Error> for StoredFailure {
    fn from(e: &Error) -> Self {
        Self { code: e.code.as_str().to_owned(), message: e.message.clone(), details: e.details.clone() }
    }
}

fn write_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("writing a revision", e))
}

pub(super) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::internal("reading a stored revision", e))
}

pub(super) fn layers_text(layers: &[Digest]) -> Result<String> {
    serde_json::to_string(layers).map_err(|e| Error::internal("writing a revision", e))
}

pub(super) fn failure_text(e: &Error) -> Result<String> {
    serde_json::to_string(&StoredFailure::from(e)).map_err(|e| Error::internal("writing a revision", e))
}

fn stored_failure((code, message, details): &(Code, String, Vec<String>)) -> Result<String> {
    failure_text(&Error::new(*code, message.clone()).with_details(details.clone()))
}

/// Where a sealed text belongs.
pub(super) fn place(id: &str, column: &str) -> String {
    format!("revisions/{id}/{column}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::{
        agent::{AgentConfig, EnvVar, LlmConfig, LlmRole},
        tool::BoundTool,
    };

    #[test]
    fn specifications_that_earlier_versions_stored_are_read() {
        let name = |text: &str| Name::parse("name", text).unwrap();
        let var = |name: &str, value, secret| EnvVar { name: name.into(), value: Secret::new(value), secret };
        let spec = AgentSpec {
            agent: name("a"),
            image: "127.0.0.1:1/a:1".parse().unwrap(),
            build_id: Some("build-1".into()),
            entry_point: Some("agent.py".into()),
            tools: vec![
                BoundTool { name: name("t"), url: Some("http://t".into()) },
                BoundTool { name: name("u"), url: None },
            ],
            config: AgentConfig {
                system_prompt: "p".into(),
                llm: vec![LlmConfig { role: LlmRole::Embedding, provider: "openai".into(), model: "m".into() }],
                env: vec![var("B", "2", None), var("A", "1", Some(true))],
                identity_provider: Some(name("sso")),
                framework: Some("flask".into()),
                ..AgentConfig::default()
            },
            fingerprint: Digest::of(b"x"),
        };
        let fingerprint = Digest::of(b"x");
        let with_triples = format!(
            r#"{{"agent":"a","image":"127.0.0.1:1/a:1","build_id":"build-1","system_prompt":"p","tools":[["t","http://t"],["u",null]],"llm":[["embedding","openai","m"]],"env":[["B","2"],["A","1"]],"secret":{{"A":true}},"framework":"flask","identity_provider":"sso","entry_point":"agent.py","fingerprint":"{fingerprint}"}}"#
        );
        assert_eq!(read_json::<AgentSpec>(with_triples.as_bytes()).unwrap(), spec);
        let first = with_triples.replace(r#","secret":{"A":true},"framework":"flask""#, "");
        let read = read_json::<AgentSpec>(first.as_bytes()).unwrap();
        assert_eq!((read.config.framework, read.config.env[1].secret), (None, None));
        assert_eq!(read_json::<AgentSpec>(&write_json(&spec).unwrap()).unwrap(), spec);
    }
}
