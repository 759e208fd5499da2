//! Egress as agents meet it: real connections, real TLS, stand-ins for tools.
#![allow(clippy::unwrap_used)]

mod budgets;
mod check;
mod check_model_provider;
mod egress_process;
mod end_users;
mod executable;
mod http_clients;
mod identity;
mod large_bodies;
mod limits;
mod mock_tool;
mod models;
mod oauth;
mod open_network;
mod policies;
mod public_apis;
mod smuggling;
mod streaming;
mod test_egress;
mod tools;
mod transparent;
mod usage;
mod websockets;
