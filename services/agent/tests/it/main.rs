//! The agent service from the outside: a small registry in front, a runtime of the test's own behind; and once with
//! the real runtime and runner.

#![allow(clippy::unwrap_used, missing_docs)]

mod added_packages;
mod arriving_layers;
mod conformance;
mod egress_identities;
mod end_to_end;
mod events;
mod fake_image;
mod fake_registry;
mod fake_runtime;
mod history;
mod hostile;
mod idle_agents;
mod lifecycle;
mod prepared_processes;
mod registry_answers;
mod reopen;
mod revisions;
mod runtime;
mod tool_bindings;
mod unpack;
mod unreachable_registry;
mod untrusted_registry;
