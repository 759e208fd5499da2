#!/usr/bin/env bash
# Runs the first commands of README.md unchanged: the one that compiles and starts the stack, the first deploy and the
# first invoke, with an empty home directory. Needs port 8092; leaves only target/release.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly stop_after=30
log() { echo "readme-test: $*" >&2; }
fail() { log "$*"; exit 1; }

# Prints the shell commands of the first code block after $1.
commands() { awk -v after="$1" '$0 == after { found = 1 } found && /^```/ { if (block++) exit; next } found && block' README.md; }

start=$(commands '## Start')
deploy=$(commands '## First deploy')
invoke=$(commands 'It is running now:')
[[ $start == "cargo run --release -- up" && -n $deploy && -n $invoke ]] || fail "README.md has no first commands"

work=$(mktemp -d "${TMPDIR:-/tmp}/hoistway-readme.XXXXXX")
stack=
clean_up() {
    local status=$?
    if [ -n "$stack" ] && kill -INT "$stack" 2>/dev/null; then
        timeout $stop_after tail --pid="$stack" -f /dev/null || kill -KILL "$stack"
    fi
    chmod -R u+w "$work"
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT

# The toolchain keeps its place; everything else is as for a new user.
export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export HOME=$work
unset XDG_DATA_HOME

log "$start"
mkfifo "$work/screen"
# cargo is replaced by the program that it has built: one process to stop.
bash -c "exec $start" >"$work/screen" </dev/null &
stack=$!
exec 3<"$work/screen"
until [[ ${line:-} == "Hoistway is ready." ]]; do
    read -r line <&3 || fail "the stack did not start"
done
cat <&3 >/dev/null &

log "the first deploy and the first invoke"
answer=$(bash -euc "$deploy"$'\n'"$invoke")
for part in '"agent":"hello"' 'You said: Hello, world'; do
    [[ $answer == *"$part"* ]] || fail "no $part in the answers: $answer"
done
log "passed"
