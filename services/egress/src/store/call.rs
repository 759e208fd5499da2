//! The table `calls`. Times are milliseconds since the epoch.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "calls")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub at: i64,
    pub agent: Option<String>,
    pub revision: Option<String>,
    /// `tool` or `model`.
    pub target_kind: Option<String>,
    pub target: Option<String>,
    pub method: String,
    pub origin: String,
    pub path: String,
    pub status: Option<i32>,
    pub first_byte_ms: i64,
    pub duration_ms: i64,
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub refused: Option<String>,
    pub broken: Option<String>,
    pub error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
