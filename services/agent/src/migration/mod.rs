//! The schema, forward only: a migration that was released is never changed.

mod m0002_agents;
mod m0003_revisions;
mod m0004_image_layouts;
mod m0005_specification_records;

use hoistway_kit::{db::Migrations, idempotency};

/// Every migration, in order.
pub(crate) fn all() -> Migrations {
    vec![
        Box::new(idempotency::Migration),
        Box::new(m0002_agents::Migration),
        Box::new(m0003_revisions::Migration),
        Box::new(m0004_image_layouts::Migration),
        Box::new(m0005_specification_records::Migration),
    ]
}
