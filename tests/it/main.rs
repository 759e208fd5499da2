//! End-to-end tests: the real programs, driven through HTTP as a user drives them. Each test has a stack and a data
//! directory of its own.
#![allow(clippy::unwrap_used, missing_docs)]

mod agents;
mod builds;
mod callers;
mod calls;
mod cli;
mod compose;
mod contract;
mod counts;
mod data_dir;
mod document;
mod egress;
mod fresh_start;
mod fuzz;
mod hostile_network;
mod http;
mod images;
mod keys;
mod models;
mod need;
mod processes;
mod python_server;
mod recovery;
mod revisions;
mod rotation;
mod sandbox;
mod sdk;
mod secrets;
mod seeing;
mod soak;
mod stack;
mod terminal;
mod tool_calls;
mod tool_clients;
mod tool_names;
