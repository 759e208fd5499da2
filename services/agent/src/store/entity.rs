//! The tables. Times are milliseconds since the epoch, lists are JSON texts.

pub(super) mod agent {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "agents")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub desired_revision: Option<String>,
        pub active_revision: Option<String>,
        /// The highest number that a revision of it ever had.
        pub last_number: i64,
        pub stopped: bool,
        pub idle: bool,
        pub created_at: i64,
        pub updated_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(super) mod revision {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "revisions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        /// Of this instance. A revision that is started anew gets a row, and an id, for its new instance.
        pub id: String,
        /// Of the revision: the id of its first instance.
        pub public_id: String,
        pub number: i64,
        pub reason: String,
        pub deployment: Option<String>,
        /// The number of the revision that it was made of.
        pub derived_from: Option<i64>,
        pub served_at: Option<i64>,
        pub agent: String,
        /// The call that started it; none for one that this service made by itself.
        pub operation: Option<String>,
        /// Sealed: it holds values of environment variables.
        pub spec: Vec<u8>,
        /// Sealed.
        pub token: Vec<u8>,
        pub phase: String,
        pub message: String,
        pub failure: Option<String>,
        pub image_digest: Option<String>,
        pub layers: String,
        pub python: Option<String>,
        /// None for an image that was pulled before this was kept.
        pub image_layout: Option<String>,
        /// None for an image that was pulled before this was kept.
        pub image_has_base: Option<bool>,
        pub entry_point: Option<String>,
        pub created_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
