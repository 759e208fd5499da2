//! Migrations of the build service's database, oldest first. Only ever append.

mod m2026_11_23_builds;
mod m2026_11_23_packages;
mod m2026_11_23_records;
mod m2026_11_28_own_wheels;
mod m2026_11_28_package_files;

use crate::registry;
use hoistway_kit::{db::Migrations, idempotency};

/// All of them.
pub fn all() -> Migrations {
    vec![
        Box::new(idempotency::Migration),
        Box::new(registry::store::Migration),
        Box::new(m2026_11_23_builds::Migration),
        Box::new(registry::store::ReferencesMigration),
        Box::new(m2026_11_23_records::Migration),
        Box::new(m2026_11_23_packages::Migration),
        Box::new(m2026_11_28_own_wheels::Migration),
        Box::new(m2026_11_28_package_files::Migration),
    ]
}
