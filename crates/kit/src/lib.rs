//! What every Hoistway service and the gateway share: configuration, telemetry, shutdown, tokens and secrets, durable
//! files, ports, databases, idempotent operations and both ends of gRPC.
//!
//! Nothing here is global except what the operating system and the tracing libraries make so: `main` calls
//! [`telemetry::init`] and [`shutdown::on_signals`] once, everything else is a value that is passed on.

pub mod address;
pub mod api_key;
pub mod config;
pub mod connections;
pub mod db;
pub mod disk_reserve;
pub mod egress;
pub mod environment;
pub mod event_log;
pub mod exit;
pub mod fs;
pub mod grpc;
pub mod identity;
pub mod invoke_statement;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod open_files;
pub mod operations;
pub mod ports;
pub mod prune;
pub mod secrets;
pub mod shares;
pub mod shutdown;
pub mod telemetry;
pub mod time;
pub mod token;
pub mod updates;
pub mod web;
