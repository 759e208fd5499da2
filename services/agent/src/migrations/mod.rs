//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0008_….sql`, for both engines.

use hoistway_kit::{db::Migrations, idempotency, migrations};

/// Every migration, in order; new ones go to the end.
pub const ALL: &Migrations = &migrations! {
    sqlite: [
        idempotency::SQLITE;
        "m0002_agents",
        "m0003_revisions",
        "m0004_image_layouts",
        "m0005_specification_records",
        "m0006_image_bases",
        "m0007_idle_agents",
    ],
    postgres: [
        idempotency::POSTGRES;
        "m0002_tables",
        "m0006_image_bases",
        "m0007_idle_agents",
    ],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[tokio::test]
    async fn both_engines_have_the_same_tables_and_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let Some(url) = hoistway_testing::postgres(dir.path()) else { return };
        let [sqlite, postgres] = hoistway_kit::db::schemas("agent", super::ALL, dir.path(), url).await.unwrap();
        assert_eq!(sqlite, postgres);
    }
}
