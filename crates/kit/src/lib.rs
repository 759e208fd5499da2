//! Shared code of every Hoistway service and the gateway: configuration, telemetry, shutdown, tokens and secrets,
//! durable files, ports, databases, idempotent operations and both ends of gRPC.
//!
//! Nothing here is global except as the operating system and the tracing libraries require: `main` calls
//! [`telemetry::init`] and [`shutdown::on_signals`] once, everything else is a value that is passed on.

pub mod address_scope;
pub mod allocator;
pub mod api_key;
pub mod backoff;
pub mod body_charge;
pub mod change_feed;
pub mod config;
pub mod connection_limits;
pub mod db;
pub mod disk_reserve;
pub mod egress_auth;
pub mod env_check;
pub mod event_log;
pub mod exit;
pub mod fs;
pub mod grpc;
pub mod idempotency;
pub mod image_registry;
pub mod installation_identity;
pub mod invoke_statement;
pub mod log_collect;
pub mod metrics;
pub mod open_files;
pub mod parallelism;
pub mod ports;
pub mod probes;
pub mod process_metrics;
pub mod prune;
pub mod quota;
pub mod registry_logins;
pub mod secrets;
pub mod service_main;
pub mod shutdown;
pub mod telemetry;
pub mod time;
pub mod tls;
pub mod token;
pub mod web;
