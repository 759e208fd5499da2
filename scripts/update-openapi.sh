#!/usr/bin/env bash
# Regenerates docs/openapi.json from the code. Review the difference before you commit it: a removed or newly required
# field breaks clients.
set -euo pipefail
cd "$(dirname "$0")/.."

HOISTWAY_UPDATE_OPENAPI=1 cargo test --quiet --workspace --test it -- the_committed_document
git --no-pager diff --stat -- docs/openapi.json
