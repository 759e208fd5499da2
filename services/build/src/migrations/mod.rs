//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0009_….sql`, for both engines.

use hoistway_kit::{db::Migrations, idempotency, migrations};

/// Every migration, in order; new ones go to the end.
pub(crate) const ALL: &Migrations = &migrations! {
    sqlite: [
        idempotency::SQLITE;
        "m0001_registry",
        "m2026_11_23_builds",
        "m0002_registry_references",
        "m2026_11_23_records",
        "m2026_11_23_packages",
        "m2026_11_28_own_wheels",
        "m2026_11_28_package_files",
    ],
    postgres: [
        idempotency::POSTGRES;
        "m0002_tables",
    ],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::ALL;
    use hoistway_kit::db::{DatabaseConfig, Db};

    #[tokio::test]
    async fn both_engines_have_the_same_tables_and_indexes() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let Some(url) = hoistway_testing::postgres(dirs[1].path()) else { return };
        let mut schemas = Vec::new();
        for (url, dir) in [None, Some(url)].into_iter().zip(&dirs) {
            let location = DatabaseConfig::from(url).location("build", dir.path()).await.unwrap();
            schemas.push(Db::open(&location, ALL).await.unwrap().schema().await.unwrap());
        }
        assert_eq!(schemas[0], schemas[1]);
    }
}
