//! The effects of deploys on tools, as they are kept for settling and undoing it. Members are only ever added, with a
//! default: rows of older versions are read after an update.

use super::{
    column_values,
    entity::application::{self, Entity},
};
use crate::deploy_plan::{Changes, Update};
use hoistway_kit::db::db_error;
use hoistway_model::{Name, OperationId, Result, tool::Connection};
use sea_orm::{ConnectionTrait, EntityTrait};
use serde::{Deserialize, Serialize};

/// The effects of one ApplyTools.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Effects {
    pub(super) created: Vec<Name>,
    pub(super) updated: Vec<Previous>,
    /// Whether it wrote the agent's bindings, be it that there are none.
    pub(super) bound: bool,
}

/// A tool before an update.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Previous {
    pub(super) tool: Name,
    pub(super) description: String,
    pub(super) connection: Connection,
    pub(super) builtin: Option<String>,
    pub(super) written_by: OperationId,
    /// Whether the update added the credentials; it never replaces any.
    pub(super) without_credentials: bool,
}

impl From<&Changes> for Effects {
    fn from(changes: &Changes) -> Self {
        Self {
            created: changes.create.iter().map(|(tool, _)| tool.name.clone()).collect(),
            updated: changes.update.iter().map(Previous::from).collect(),
            bound: changes.bind.is_some(),
        }
    }
}

impl From<&Update> for Previous {
    fn from(Update { before, .. }: &Update) -> Self {
        let content = before.content.clone();
        Self {
            tool: before.name.clone(),
            description: content.description,
            connection: content.connection,
            builtin: content.builtin.map(|b| b.as_str().to_owned()),
            written_by: before.written_by,
            without_credentials: content.credentials.is_none(),
        }
    }
}

/// The effects of the operation `applied`, if it changed anything.
pub(super) async fn of(
    txn: &impl ConnectionTrait,
    applied: OperationId,
) -> Result<Option<(application::Model, Effects)>> {
    let row = Entity::find_by_id(applied.to_string()).one(txn).await;
    match row.map_err(db_error("looking up a deploy's tools"))? {
        Some(row) => Ok(Some((row.clone(), column_values::read(&row.effects)?))),
        None => Ok(None),
    }
}
