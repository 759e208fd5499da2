#!/usr/bin/env bash
# What is run after every edit: format, lints, and the tests that start no program of ours and need no network, in
# less than a minute once all is compiled. scripts/test.sh runs everything.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
cargo test --quiet --workspace --lib --bins
