//! The gateway's HTTP edge, driven over TCP, with fakes behind the service traits.
#![allow(clippy::unwrap_used, missing_docs)]

mod app;
mod audit;
mod callers;
mod calls;
mod changes;
mod cors;
mod deploys;
mod document;
mod edge;
mod errors;
mod fake_egress;
mod fakes;
mod harness;
mod invokes;
mod issuer;
mod keys;
mod limits;
mod resources;
mod saga;
mod seeing;
mod usage;
mod waiting;
mod world;
