//! The table `locks`: what an agent's requirements were resolved to. `requirements` is the digest of their text.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "locks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub agent: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub requirements: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub interpreter: String,
    pub lock: String,
    /// When it was made, or its image was last deployed.
    pub created_at: i64,
    /// Empty where an earlier version kept the digest alone.
    pub requirements_text: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
