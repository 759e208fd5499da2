#!/usr/bin/env bash
# What is run after every edit: format, lints, unit and store tests, in less than a minute once all is compiled.
# scripts/test.sh runs everything.
set -euo pipefail
cd "$(dirname "$0")/.."

# The registry's suite against real clients, and what installs packages, takes longer than all the rest.
readonly slow=(registry::tests:: uv::tests:: packages_of_a_private_index)

cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
cargo test --quiet --workspace --lib --bins -- "${slow[@]/#/--skip=}"
