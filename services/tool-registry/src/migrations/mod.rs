//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0006_….sql`, for both engines.

use hoistway_kit::{db::Migrations, idempotency, migrations};

/// Every migration, in order; new ones go to the end.
pub const ALL: &Migrations = &migrations! {
    sqlite: [
        idempotency::SQLITE;
        "m0002_tools",
        "m0003_credentials",
        "m0004_model_prices",
        "m0005_model_retries",
    ],
    postgres: [
        idempotency::POSTGRES;
        "m0002_tables",
    ],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[tokio::test]
    async fn both_engines_have_the_same_tables_and_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let Some(url) = hoistway_testing::postgres(dir.path()) else { return };
        let [sqlite, postgres] = hoistway_kit::db::schemas("tool-registry", super::ALL, dir.path(), url).await.unwrap();
        assert_eq!(sqlite, postgres);
    }
}
