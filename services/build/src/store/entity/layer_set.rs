//! The table `layer_sets`: the layers of a whole lock.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "layer_sets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub inputs: String,
    /// JSON, lowest layer first.
    pub layers: String,
    /// JSON: sentences about files that several of the packages have.
    pub clashes: String,
    pub created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
