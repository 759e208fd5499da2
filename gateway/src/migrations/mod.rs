//! The schema, forward only: a migration that was released is never changed.
//!
//! A file has the name that databases record. The next one is `m0006_….sql`, for both engines.

use hoistway_kit::{db::Migrations, migrations};

/// Every migration, in order; new ones go to the end.
pub(crate) const ALL: &Migrations = &migrations! {
    sqlite: [
        "m2026_11_23_deployments",
        "m2026_11_23_keys_audit",
        "m2026_11_23_deployments_audited",
        "m2026_11_23_audit_by_time",
        "m2026_11_28_deployments_in_order",
    ],
    postgres: [
        "m0001_tables",
    ],
};
