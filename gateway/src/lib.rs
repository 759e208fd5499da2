//! The gateway: the public HTTP API, the deploy saga behind it, and the way to agents.
//!
//! A request goes `api` (parse, authenticate, answer) → `saga` (journal and steps) → the services behind
//! [`hoistway_model`]'s traits; an invoke goes `api` → `routes` → the agent itself.

pub mod access;
pub mod api;
pub mod audit;
mod bindings;
mod calls;
pub mod config;
pub mod deploy;
pub mod keys;
pub mod limits;
mod migrations;
pub mod oidc;
pub mod public;
mod rebuilds;
pub mod routes;
pub mod saga;
pub mod seen;
pub mod serve;
mod spending;
pub mod state;
mod store;

pub use config::Config;
pub use serve::{Deps, Gateway, reseal};
