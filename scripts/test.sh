#!/usr/bin/env bash
# All checks that must pass before a change is merged. An ordinary user with Rust, a C compiler, Python, crates.io and
# PyPI is enough; tests whose requirements are missing are skipped, reported and counted at the end.
# HOISTWAY_TEST_REQUIRE lists the requirements that must not be missing, separated by commas:
#     docker docker-registry skopeo containerd pypi compose root strace cargo-deny postgres prometheus
# scripts/setup-tests.sh installs all of it.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PWD/target/tools/bin:$PATH
HOISTWAY_TEST_SKIPS=$(mktemp "${TMPDIR:-/tmp}/hoistway-skips.XXXXXX")
export HOISTWAY_TEST_SKIPS
trap 'rm -f "$HOISTWAY_TEST_SKIPS"' EXIT

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step cargo fmt --all --check
step scripts/check-imports.py

if cargo deny --version >/dev/null 2>&1; then
    step cargo deny check bans licenses sources
elif [[ ,${HOISTWAY_TEST_REQUIRE:-}, == *,cargo-deny,* ]]; then
    echo "cargo-deny is required and not installed" >&2
    exit 1
else
    echo "SKIPPED: cargo deny check: cargo-deny is not installed" | tee -a "$HOISTWAY_TEST_SKIPS"
fi

step cargo clippy --workspace --all-targets -- -D warnings

# The runner inside every agent's process is Python, so it is tested in Python.
step python3 -B -m unittest discover -s services/build/runner

# All programs are built first: end-to-end tests start the real ones.
step cargo build --workspace
step cargo test --workspace

# The same on PostgreSQL, without what does not depend on the database: packages of PyPI, sandboxes, terminals.
if command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    other=(bedrock:: cases:: cli:: compose:: conformance:: contract:: fuzz:: hostile:: hostile_ model_clients:: models:: port_takeover::
        python_server:: quick_starts:: runtime:: sandbox sdk:: soak:: terminal:: tool_clients:: tool_dns::)
    step env HOISTWAY_TEST_DATABASE=postgres cargo test --workspace -- "${other[@]/#/--skip=}"
fi

skipped=$(sort -u "$HOISTWAY_TEST_SKIPS")
printf '\n== all green'
if [ -n "$skipped" ]; then
    printf ', %d skipped on this machine:\n%s' "$(wc -l <<<"$skipped")" "$skipped"
fi
echo
