//! Egress as agents meet it: real connections, real TLS, stand-ins for tools.
#![allow(clippy::unwrap_used)]

mod budgets;
mod check;
mod check_model_provider;
mod clients;
mod end_users;
mod identity;
mod large;
mod limits;
mod models;
mod oauth;
mod open_network;
mod policies;
mod process;
mod program;
mod public_apis;
mod smuggling;
mod standin;
mod streaming;
mod tools;
mod transparent;
mod usage;
mod websockets;
mod world;
