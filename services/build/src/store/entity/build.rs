//! The table `builds`, one row for each attempt.

use crate::log::Kept;
use hoistway_model::{
    Error, Name, Result,
    build::{Build, BuildStatus, BuiltImage},
};
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "builds")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: String,
    pub public_id: String,
    pub agent: String,
    pub status: String,
    pub inputs: String,
    pub repository: Option<String>,
    pub tag: Option<String>,
    pub digest: Option<String>,
    pub entry_point: Option<String>,
    pub error: Option<String>,
    /// Lines.
    pub log: String,
    pub created_at: i64,
    pub completed_at: i64,
    /// JSON of [`Kept`] without its lines; none of what was built before there were such records.
    pub record: Option<String>,
    /// The rest of the key of the image's lock, which may be forgotten; none where nothing is required.
    pub lock_requirements: Option<String>,
    pub lock_interpreter: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The part of a build's log that is stored.
pub fn kept(row: &Model) -> Result<Kept> {
    let read = |json: &String| serde_json::from_str(json).map_err(|e| Error::internal("reading a build", e));
    let mut kept: Kept = row.record.as_ref().map(read).transpose()?.unwrap_or_default();
    kept.lines = row.log.lines().map(str::to_owned).collect();
    Ok(kept)
}

pub fn from_row(row: Model) -> Result<Build> {
    let kept = kept(&row)?;
    let status = BuildStatus::parse(&row.status)
        .ok_or_else(|| Error::internal("reading a build", format!("status \"{}\"", row.status)))?;
    let image = match (row.repository, row.tag, row.digest, row.entry_point) {
        (Some(repository), Some(tag), Some(digest), Some(entry_point)) => {
            Some(BuiltImage { build_id: row.public_id.clone(), repository, tag, digest: digest.parse()?, entry_point })
        }
        _ => None,
    };
    Ok(Build {
        id: row.public_id,
        agent: Name::parse("agent", &row.agent)?,
        status,
        image,
        error: row.error,
        created_at: row.created_at,
        completed_at: Some(row.completed_at),
        attempt: row.attempt.parse()?,
        steps: kept.steps,
        request_id: kept.request_id,
    })
}
