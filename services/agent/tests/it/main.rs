//! The agent service from the outside: a small registry in front, a runtime of the test's own behind; and once with
//! the real runtime and runner.

#![allow(clippy::unwrap_used, missing_docs)]

mod binding;
mod classify;
mod fake;
mod foreign;
mod history;
mod hostile;
mod identities;
mod image;
mod lifecycle;
mod pending;
mod real;
mod registry;
mod reopen;
mod revisions;
mod runtime;
mod seen;
mod unpack;
