//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0010_….sql`, for both engines.

use hoistway_kit::{db::Migrations, idempotency, migrations};

/// Every migration, in order; new ones go to the end.
pub const ALL: &Migrations = &migrations! {
    sqlite: [
        idempotency::SQLITE;
        "m0001_registry",
        "m2026_11_23_builds",
        "m0002_registry_references",
        "m2026_11_23_records",
        "m2026_11_23_packages",
        "m2026_11_28_own_wheels",
        "m2026_11_28_package_files",
        "m0009_lock_requirements",
    ],
    postgres: [
        idempotency::POSTGRES;
        "m0002_tables",
        "m0009_lock_requirements",
    ],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[tokio::test]
    async fn both_engines_have_the_same_tables_and_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let Some(url) = hoistway_testing::postgres(dir.path()) else { return };
        let [sqlite, postgres] = hoistway_kit::db::schemas("build", super::ALL, dir.path(), url).await.unwrap();
        assert_eq!(sqlite, postgres);
    }
}
