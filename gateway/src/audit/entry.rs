//! Entries of the audit log, and queries for them.

use hoistway_model::AuditId;

/// The outcome of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is under way, or its process was killed.
    Pending,
    /// It was made.
    Success,
    /// It was refused, or failed.
    Failure,
    /// The caller hung up before the answer; it may have been made.
    Interrupted,
    /// The process ended before it could be recorded; it may have been made.
    Unknown,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Success, Self::Failure, Self::Interrupted, Self::Unknown];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Interrupted => "interrupted",
            Self::Unknown => "unknown",
        }
    }

    /// Reads the public spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id; ids sort by time.
    pub id: AuditId,
    /// Milliseconds since the epoch.
    pub at: i64,
    /// The id of the key that was used.
    pub key_id: String,
    /// That key's name.
    pub key_name: String,
    /// The action, such as `agent.deploy`.
    pub action: String,
    /// The name or id of the action's target.
    pub target: Option<String>,
    /// The deployment, if the change is one.
    pub deployment: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// The client's user agent.
    pub user_agent: Option<String>,
    /// The request's id.
    pub request_id: String,
    /// The outcome.
    pub outcome: Outcome,
    /// The status that was answered. A deploy has none: its outcome is the deployment's.
    pub status: Option<u16>,
    /// The error's code.
    pub code: Option<String>,
}

/// A query for entries.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those about this target.
    pub target: Option<String>,
    /// Only actions on agents.
    pub agents_only: bool,
    /// Only this action; if it ends in `.`, every action with this prefix.
    pub action: Option<String>,
    /// Only those of this key.
    pub key: Option<String>,
    /// Only those older than this one.
    pub before: Option<AuditId>,
}
