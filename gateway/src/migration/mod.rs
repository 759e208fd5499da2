//! Migrations of the gateway's database, oldest first. Only ever append.

mod m2026_11_23_audit_by_time;
mod m2026_11_23_deployments;
mod m2026_11_23_deployments_audited;
mod m2026_11_23_keys_audit;
mod m2026_11_28_deployments_in_order;

use hoistway_kit::db::Migrations;

/// All of them.
pub fn all() -> Migrations {
    vec![
        Box::new(m2026_11_23_deployments::Migration),
        Box::new(m2026_11_23_keys_audit::Migration),
        Box::new(m2026_11_23_deployments_audited::Migration),
        Box::new(m2026_11_23_audit_by_time::Migration),
        Box::new(m2026_11_28_deployments_in_order::Migration),
    ]
}
