//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0007_….sql`, for both engines.

use hoistway_kit::{db::Migrations, migrations};

/// Every migration, in order; new ones go to the end.
pub const ALL: &Migrations = &migrations! {
    sqlite: [
        "m2026_11_23_deployments",
        "m2026_11_23_keys_audit",
        "m2026_11_23_deployments_audited",
        "m2026_11_23_audit_by_time",
        "m2026_11_28_deployments_in_order",
        "m0006_deployments_by_state",
    ],
    postgres: [
        "m0001_tables",
        "m0006_deployments_by_state",
    ],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[tokio::test]
    async fn both_engines_have_the_same_tables_and_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let Some(url) = hoistway_testing::postgres(dir.path()) else { return };
        let [sqlite, postgres] = hoistway_kit::db::schemas("gateway", super::ALL, dir.path(), url).await.unwrap();
        assert_eq!(sqlite, postgres);
    }
}
