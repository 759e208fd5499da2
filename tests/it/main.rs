//! End-to-end tests: the real programs, driven through HTTP as a user drives them. Each test has a stack and a data
//! directory of its own.
#![allow(clippy::unwrap_used, missing_docs)]

mod agents;
mod cli;
mod compose;
mod contract;
mod counts;
mod data_dir;
mod fresh_start;
mod http;
mod images;
mod need;
mod processes;
mod recovery;
mod sandbox;
mod stack;
