//! The schema, forward only: a migration that was released is never changed.

mod m0002_tools;
mod m0003_credentials;
mod m0004_model_prices;
mod m0005_model_retries;

use hoistway_kit::{db::Migrations, idempotency};

/// Every migration, in order.
pub(crate) fn all() -> Migrations {
    vec![
        Box::new(idempotency::Migration),
        Box::new(m0002_tools::Migration),
        Box::new(m0003_credentials::Migration),
        Box::new(m0004_model_prices::Migration),
        Box::new(m0005_model_retries::Migration),
    ]
}
