#!/usr/bin/env bash
# The check after every edit: format, lints, unit and store tests, in less than a minute once all is compiled.
# scripts/test.sh runs all tests.
set -euo pipefail
cd "$(dirname "$0")/.."

# The registry's tests with real clients, and tests that install packages, take longer than all the others.
readonly slow=(registry::tests:: uv::tests:: packages_of_a_private_index)

cargo fmt --all --check
scripts/check-imports.py
cargo clippy --workspace --all-targets -- -D warnings
cargo test --quiet --workspace --lib --bins -- "${slow[@]/#/--skip=}"
