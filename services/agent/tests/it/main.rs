//! The agent service's tests, with real processes.

#![allow(clippy::unwrap_used)]

mod runtime;
