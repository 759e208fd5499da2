#!/usr/bin/env bash
# Sends requests generated from the OpenAPI document to a running stack and checks every answer against the document:
#
#     scripts/fuzz-api.sh [REQUESTS]
#
# REQUESTS (10000) is the minimum number. The checks are: statuses, content types, headers and schemas as documented, no
# failure that is a defect, no panic, and at the end a stack that still works. Needs target/debug/hoistway (or another
# one in HOISTWAY), Python and PyPI, from which schemathesis and uv are installed below target/fuzz. The stack has a
# data directory of its own and no network access: generated names of packages and registries are not looked up
# anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly requests=${1:-10000} hoistway=$(realpath "${HOISTWAY:-target/debug/hoistway}")
readonly schemathesis=4.32.5 uv=0.13.9
readonly tools=$PWD/target/fuzz/$schemathesis-$uv checks=$PWD/scripts/fuzz
readonly seed=${HOISTWAY_FUZZ_SEED:-$(date +%s)} log_lines=20

log() { echo "fuzz-api: $*" >&2; }
fail() { log "$*"; exit 1; }

[[ $requests =~ ^[1-9][0-9]*$ ]] || fail "usage: scripts/fuzz-api.sh [REQUESTS]"

if [ ! -d "$tools" ]; then
    log "installing schemathesis $schemathesis and uv $uv"
    rm -rf "$tools.part"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --target "$tools.part" \
        "schemathesis==$schemathesis" "uv==$uv" >&2 || { log "PyPI cannot be reached"; exit 69; }
    mv "$tools.part" "$tools"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/hoistway-fuzz.XXXXXX")
pid=
clean_up() {
    local status=$?
    if [ -n "$pid" ]; then
        kill -INT "$pid" 2>/dev/null && wait "$pid" || true
    fi
    if [ $status -ne 0 ]; then
        log "the end of the stack's log:"
        tail -n $log_lines "$work/log" >&2 || true
    fi
    # Unpacked layers are read-only.
    chmod -R u+w "$work"
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT

# Rate limits have tests of their own; here they would only hide other answers.
cat >"$work/config.toml" <<'TOML'
[gateway]
requests_per_second = 0
invokes_per_second = 0
failed_auth_per_minute = 0
TOML

# Outgoing connections are refused at once.
mkfifo "$work/screen"
HTTP_PROXY=http://127.0.0.1:9 HTTPS_PROXY=http://127.0.0.1:9 ALL_PROXY=http://127.0.0.1:9 NO_PROXY=127.0.0.1,localhost \
    UV_OFFLINE=1 PATH=$tools/bin:$PATH "$hoistway" up --listen 127.0.0.1:0 --data-dir "$work/data" \
    --config "$work/config.toml" \
    >"$work/screen" 2>"$work/log" </dev/null &
pid=$!
exec 3<"$work/screen"
while read -r line <&3; do
    case $line in
    API\ key*) key_file=${line##* } ;;
    API\ *) api=${line#* } api=${api#"${api%%[! ]*}"} api=${api%%/api*} ;;
    *"next start.") break ;;
    esac
done
kill -0 "$pid" 2>/dev/null || fail "the stack did not start"
cat <&3 >/dev/null &
api=${api/localhost/127.0.0.1}
RUNAGENTS_API_KEY=$(<"$key_file")
export RUNAGENTS_API_KEY
log "the stack is at $api; seed $seed"

HOISTWAY_FUZZ_COUNTS=$work/counts PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$tools:$checks \
    python3 "$checks/run.py" "$api" "$requests" "$seed" "$work" || failed=yes

grep -n 'panicked' "$work/log" >&2 && fail "something panicked"
kill -0 "$pid" 2>/dev/null || fail "the stack ended"
[ -z "${failed:-}" ] || fail "not all answers were as documented"
log "passed"
