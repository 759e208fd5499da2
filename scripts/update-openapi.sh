#!/usr/bin/env bash
# Writes docs/openapi.json anew from the code. Look at the difference before you commit it: what goes, or becomes
# required, breaks clients.
set -euo pipefail
cd "$(dirname "$0")/.."

HOISTWAY_UPDATE_OPENAPI=1 cargo test --quiet --workspace --test it -- the_committed_document
git --no-pager diff --stat -- docs/openapi.json
