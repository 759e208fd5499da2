//! The agent service: agents, their revisions, the routes to them, and the runtimes that run them.

pub mod egress_stub;
pub mod environment;
pub mod images;
pub mod interpreter;
pub mod launcher;
pub mod routes;
pub mod runtime;
