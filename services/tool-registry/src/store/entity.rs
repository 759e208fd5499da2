//! The tables. Times are milliseconds since the epoch, maps and lists are JSON texts.

pub(super) mod tool {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "tools")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub description: String,
        pub base_url: String,
        pub port: i32,
        pub scheme: String,
        pub auth_type: String,
        pub api_key_location: Option<String>,
        pub api_key_name: Option<String>,
        pub api_key_prefix: Option<String>,
        /// JSON of [`hoistway_model::tool::OAuth2`].
        pub oauth2: Option<String>,
        pub labels: String,
        /// Sealed.
        pub credentials: Option<Vec<u8>>,
        pub credentials_set_at: Option<i64>,
        pub builtin: Option<String>,
        pub created_by_operation: Option<String>,
        pub written_by_operation: String,
        pub created_at: i64,
        pub updated_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Which agent uses which tool; the tool need not exist. A row is settled once its deploy cannot be undone any more.
pub(super) mod binding {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "bindings")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub agent: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub tool: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub operation: String,
        pub settled: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The effects of one ApplyTools, for settling and undoing it.
pub(super) mod application {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "applications")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub operation: String,
        pub agent: String,
        pub effects: String,
        pub settled: bool,
        pub created_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(super) mod model_provider {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "model_providers")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub provider: String,
        pub endpoint: String,
        pub models: String,
        pub prices: String,
        pub timeout_seconds: Option<i64>,
        pub retries: i64,
        pub labels: String,
        /// Sealed.
        pub credentials: Option<Vec<u8>>,
        pub credentials_set_at: Option<i64>,
        pub created_at: i64,
        pub updated_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(super) mod identity_provider {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "identity_providers")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub host: String,
        pub issuer: String,
        pub jwks_uri: String,
        pub audiences: String,
        pub user_id_claim: String,
        pub allowed_domains: String,
        pub labels: String,
        pub created_at: i64,
        pub updated_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
