//! Revisions of agents: immutable, numbered, each created for a reason.

use crate::{
    Code, DeploymentId, Digest, Error, Name, Result, RevisionId,
    agent::{AgentConfigChange, AgentSpec},
    image::ImageRef,
    text_serde::serde_by_text,
    tool::BoundTool,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The reason of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A deploy.
    Deploy,
    /// A change of the configuration only.
    Config,
    /// A return to an earlier revision.
    Rollback,
    /// The same source rebuilt, because its base has changed.
    Rebuild,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 4] = [Reason::Deploy, Reason::Config, Reason::Rollback, Reason::Rebuild];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Deploy => "deploy",
            Reason::Config => "config",
            Reason::Rollback => "rollback",
            Reason::Rebuild => "rebuild",
        }
    }

    /// Parses the public spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Reason::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevisionState {
    /// Starting, or waiting for its image.
    Starting,
    /// The agent's invokes go to it.
    Serving,
    /// It would serve if the agent were not stopped.
    Stopped,
    /// Another one replaced it; it is kept for a rollback.
    Superseded,
    /// It could not be started.
    Failed,
}

impl RevisionState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Serving, Self::Stopped, Self::Superseded, Self::Failed];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Stopped => "stopped",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
        }
    }

    /// Parses the public spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A reference to a revision: `current`, `previous`, a number or an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevisionRef {
    /// The wanted one.
    Current,
    /// The one that served before the current one.
    Previous,
    /// By its number.
    Number(u64),
    /// By its id.
    Id(RevisionId),
}

impl fmt::Display for RevisionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Previous => f.write_str("previous"),
            Self::Number(number) => number.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

serde_by_text!(to_string of RevisionRef);

impl FromStr for RevisionRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "current" => return Ok(Self::Current),
            "previous" => return Ok(Self::Previous),
            _ => {}
        }
        // An id of digits only would not be shorter than any number.
        if text.len() < 20
            && text.bytes().all(|b| b.is_ascii_digit())
            && let Ok(number) = text.parse()
        {
            return Ok(Self::Number(number));
        }
        text.parse().map(Self::Id).map_err(|_: Error| {
            Error::new(Code::InvalidArgument, "a revision is named by its number, its id, \"current\" or \"previous\"")
        })
    }
}

/// A revision as shown by the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its id.
    pub id: RevisionId,
    /// 1, 2, 3… for each agent; never reused, with gaps for failed deploys.
    pub number: u64,
    /// Its specification, with every user variable's value masked.
    pub spec: AgentSpec,
    /// The digest of the image's manifest, once known.
    pub image_digest: Option<Digest>,
    /// The reason why it was created.
    pub reason: Reason,
    /// The deployment that created it; unknown for those of an older version.
    pub deployment: Option<DeploymentId>,
    /// The number of the revision from which it was derived, if any.
    pub of: Option<u64>,
    /// Its state.
    pub state: RevisionState,
    /// The reason why it failed or waits; else empty.
    pub message: String,
    /// Whether it is the wanted one.
    pub current: bool,
    /// Whether its image must be rebuilt before it runs; see [`Agent::needs_rebuild`](crate::agent::Agent).
    pub needs_rebuild: bool,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// The last time it began to serve, in milliseconds since the epoch; absent if it never did.
    pub served_at: Option<i64>,
}

/// A revision that is derived from an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The agent.
    pub agent: Name,
    /// The revision whose specification is copied.
    pub from: RevisionId,
    /// The reason.
    pub reason: Reason,
    /// The changes.
    pub changes: SpecChanges,
}

/// The changes of a derived revision against its base; `None` keeps the base's value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecChanges {
    /// Another image.
    pub image: Option<NewImage>,
    /// Required tools with their current addresses. Set even when only an address may have changed.
    pub tools: Option<Vec<BoundTool>>,
    /// Another configuration.
    pub config: AgentConfigChange,
    /// The fingerprint with which a later request is compared.
    pub fingerprint: Option<Digest>,
}

/// The image of a derived revision, with its build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// The image.
    pub image: ImageRef,
    /// `build-<hex>` if it was built here.
    pub build_id: Option<String>,
    /// Its entry file.
    pub entry_point: Option<String>,
}

impl SpecChanges {
    /// Returns the specification with the changes applied.
    pub fn apply(self, mut spec: AgentSpec) -> AgentSpec {
        if let Some(NewImage { image, build_id, entry_point }) = self.image {
            (spec.image, spec.build_id, spec.entry_point) = (image, build_id, entry_point);
        }
        if let Some(tools) = self.tools {
            spec.tools = tools;
        }
        self.config.apply(&mut spec.config);
        if let Some(fingerprint) = self.fingerprint {
            spec.fingerprint = fingerprint;
        }
        spec
    }
}

/// The differences between two revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// The earlier side: id and number; absent when there is nothing to compare with.
    pub from: Option<(RevisionId, u64)>,
    /// The later side.
    pub to: (RevisionId, u64),
    /// Every difference, by field.
    pub changes: Vec<Change>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path, such as `env[NAME]`.
    pub field: String,
    /// The old value; absent if the field was added. Values of variables are masked.
    pub from: Option<String>,
    /// The new value; absent if the field was removed.
    pub to: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn references_round_trip() {
        let id = RevisionId::mint();
        for (text, want) in [
            ("current", RevisionRef::Current),
            ("previous", RevisionRef::Previous),
            ("12", RevisionRef::Number(12)),
            (id.to_string().as_str(), RevisionRef::Id(id)),
        ] {
            let read: RevisionRef = text.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (want, text));
        }
        for wrong in ["", "-1", "1.5", "newest", "99999999999999999999999"] {
            assert_eq!(wrong.parse::<RevisionRef>().unwrap_err().code, Code::InvalidArgument, "{wrong}");
        }
    }
}
