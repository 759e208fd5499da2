//! The table `packages`: how large what a lock names is once it is installed, which decides how packages are grouped,
//! and which files it has.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "packages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub inputs: String,
    /// Unpacked bytes; 0 when nothing of it is installed on this platform.
    pub size: i64,
    /// Gzipped JSON, from paths to the beginnings of their checksums.
    pub files: Vec<u8>,
    pub created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
