//! The table `dependency_layers`: which layer a lock makes, shared by all agents.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "dependency_layers")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub inputs: String,
    pub digest: String,
    pub diff_id: String,
    pub size: i64,
    pub created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
