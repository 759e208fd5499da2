//! The gateway: the public HTTP API, the deploy saga behind it, and the way to agents.
//!
//! A request goes `api` (parse, authenticate, answer) → `saga` (journal and steps) → the services behind
//! [`hoistway_model`]'s traits; an invoke goes `api` → `routes` → the agent itself.

pub mod access_control;
pub mod api;
pub mod audit;
mod budget_amount;
mod call_view;
pub mod config;
pub mod deploy;
pub mod events;
mod idle_clock;
pub mod image_host;
pub mod keys;
pub mod metrics;
mod migrations;
pub mod oidc;
pub mod rate_limits;
mod rebuild_outdated;
pub mod routing_table;
pub mod saga;
pub mod serve;
pub mod state;
mod store;
mod tool_url_updates;
mod wakes;

pub use config::Config;
pub use migrations::ALL as MIGRATIONS;
pub use serve::{Deps, Gateway, record_import, reseal, store_key};
