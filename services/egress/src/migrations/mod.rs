//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0007_….sql`, for both engines.

use hoistway_kit::{db::Migrations, migrations};

/// Every migration, in order; new ones go to the end.
pub const ALL: &Migrations = &migrations! {
    sqlite: [
        "m0001_calls",
        "m0002_call_errors",
        "m0003_usage",
        "m0004_budgets",
        "m0005_call_ids",
        "m0006_usage_batch",
    ],
    postgres: [
        "m0001_tables",
        "m0006_usage_batch",
    ],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[tokio::test]
    async fn both_engines_have_the_same_tables_and_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let Some(url) = hoistway_testing::postgres(dir.path()) else { return };
        let [sqlite, postgres] = hoistway_kit::db::schemas("egress", super::ALL, dir.path(), url).await.unwrap();
        assert_eq!(sqlite, postgres);
    }
}
