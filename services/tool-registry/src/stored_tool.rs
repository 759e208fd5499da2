//! A tool as the store keeps it: what [`hoistway_model::tool::Tool`] shows, and what undoing needs to know.

use crate::vault::Sealed;
use hoistway_model::{Name, OperationId, tool::Connection};
use std::collections::BTreeMap;

/// A tool that this service itself serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// `POST /echo`.
    Echo,
}

impl Builtin {
    /// The spelling in the database.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Builtin::Echo => "echo",
        }
    }

    /// The one that [`Builtin::as_str`] names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        (text == Builtin::Echo.as_str()).then_some(Builtin::Echo)
    }
}

/// The part of a tool that later registrations may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) description: String,
    /// As it was registered. Of a built-in tool the addresses of the day are shown instead.
    pub(crate) connection: Connection,
    pub(crate) builtin: Option<Builtin>,
    /// Sealed under the master key.
    pub(crate) credentials: Option<Sealed>,
}

/// One row of the tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTool {
    pub(crate) name: Name,
    pub(crate) content: Content,
    pub(crate) labels: BTreeMap<String, String>,
    /// The deploy whose undo may still delete the tool; nobody once that deploy has settled, or somebody else has
    /// registered the same tool.
    pub(crate) created_by: Option<OperationId>,
    /// The operation that wrote `content`: what compare-and-set compares. Unlike a counter it cannot come back when
    /// a tool is deleted and registered again.
    pub(crate) written_by: OperationId,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}
