#!/usr/bin/env bash
# Starts docker-compose.yml with an export of `hoistway up` and sends it a first deploy: images are built, every service
# becomes healthy, an agent answers, and answers again after a restart. Everything is removed afterwards.
#
# The programs are those that are built already, in HOISTWAY_PROGRAMS (target/debug). If the image of Python or that of
# the database does not exist, a stand-in made from Debian packages has its name during the test. Needs root for
# mmdebstrap, Docker, docker-compose and `cargo build --workspace`.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly python_image=python:3.11-slim-bookworm
readonly database_image=postgres:17.6-bookworm
readonly built=${HOISTWAY_PROGRAMS:-target/debug}
readonly programs=(hoistway hoistway-launcher hoistway-gateway hoistway-tool-registry hoistway-build hoistway-agent hoistway-egress)

log() { echo "compose-test: $*" >&2; }
fail() { log "$*"; exit 1; }

for program in "${programs[@]}"; do
    [ -x "$built/$program" ] || fail "$built/$program is missing: cargo build --workspace"
done

docker info >/dev/null 2>&1 || fail "Docker does not run: scripts/setup-tests.sh"

# Compose v2, or 1.29 with BuildKit through a docker that includes it.
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    compose=(docker-compose)
    docker buildx version >/dev/null 2>&1 || PATH=/usr/bin:$PATH
fi
export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1 BUILDKIT_PROGRESS=plain
export COMPOSE_PROJECT_NAME=hoistway-test-$$
# Stands for the collector of deploy/telemetry.env: it keeps each batch of spans in a file.
readonly collector=$COMPOSE_PROJECT_NAME-collector
export OTEL_EXPORTER_OTLP_ENDPOINT=http://otel-collector:4318

read -r HOISTWAY_API_PORT HOISTWAY_REGISTRY_PORT HOISTWAY_ECHO_PORT source_port < <(python3 - <<'PY'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(s.getsockname()[1] for s in sockets))
PY
)
export HOISTWAY_API_PORT HOISTWAY_REGISTRY_PORT HOISTWAY_ECHO_PORT

work=$(mktemp -d)
stand_ins=()
clean_up() {
    local status=$?
    if [ $status -ne 0 ]; then
        "${compose[@]}" ps >&2 || true
        "${compose[@]}" logs --no-color --tail=40 >&2 || true
    fi
    docker images --quiet --filter "reference=hoistway-${installation:-none}/*" | sort -u | xargs -r docker rmi --force >/dev/null || true
    docker images --quiet --filter "reference=localhost:$HOISTWAY_REGISTRY_PORT/*/*" --filter "reference=localhost:$HOISTWAY_REGISTRY_PORT/*" |
        sort -u | xargs -r docker rmi --force >/dev/null || true
    docker rm --force "$collector" >/dev/null 2>&1 || true
    "${compose[@]}" down --volumes --rmi local --timeout 20 >/dev/null 2>&1 || log "docker-compose down failed"
    docker rmi --force "$COMPOSE_PROJECT_NAME-agent-base" >/dev/null 2>&1 || true
    [ -z "${source_pid:-}" ] || kill -9 "$source_pid" 2>/dev/null || true
    [ ${#stand_ins[@]} -eq 0 ] || docker rmi "${stand_ins[@]}" >/dev/null || true
    rm -rf "$work" "/run/$COMPOSE_PROJECT_NAME" deploy/programs/hoistway*
    exit $status
}
trap clean_up EXIT

there() { docker image inspect "$1" >/dev/null 2>&1; }

if ! there "$python_image"; then
    scripts/base-image.sh "$python_image"
    stand_ins+=("$python_image")
fi
if ! there "$database_image"; then
    scripts/database-image.sh "$database_image"
    stand_ins+=("$database_image")
fi
log "taking the programs from $built"
for program in "${programs[@]}"; do
    cp "$built/$program" deploy/programs/
done
export HOISTWAY_BINARIES=prebuilt
export HOISTWAY_SOCKETS_DIR=/run/$COMPOSE_PROJECT_NAME

log "an installation of hoistway up, and its export"
hoistway() { exec env -u HOISTWAY_BINARIES -u HOISTWAY_PROGRAMS -u HOISTWAY_SOCKETS_DIR -u HOISTWAY_AUTHORITIES "$built/hoistway" "$@"; }
hoistway up --listen "127.0.0.1:$source_port" --data-dir "$work/source" \
    >"$work/source.out" 2>"$work/source.log" &
source_pid=$!
for _ in $(seq 240); do
    grep -qs '^Hoistway is ready' "$work/source.out" && break
    sleep 0.25
done
source_key=$(cat "$work/source/api-key")
curl -fsS -m 60 -o "$work/deployed" -H "Authorization: Bearer $source_key" "http://127.0.0.1:$source_port/api/deploy" \
    -d '{"agent_name": "moved", "env": [{"name": "WORD", "value": "kept-4b1e"}], "source_files": {"agent.py":
    "import os\n\ndef handler(message):\n    return os.environ[\"WORD\"] + \" \" + message\n"}}' || fail "no deploy: $(cat "$work/source.log")"
kill -TERM "$source_pid"
wait "$source_pid" || fail "it does not stop: $(tail "$work/source.log")"
source_pid=
mkdir "$work/import"
(hoistway export "$work/import/team.export" --key-file "$work/import/export.key" --data-dir "$work/source")
# Whoever is logged in owns the files, and nobody else may read them.
chown 1000 "$work/import/team.export" "$work/import/export.key"
chmod 0755 "$work" "$work/import"

log "importing"
"${compose[@]}" run --rm -v "$work/import:/import:ro" import /import/team.export /import/export.key >"$work/import.log" 2>&1 ||
    { cat "$work/import.log" >&2; fail "import failed"; }
grep -q 'Imported 1 agent, ' "$work/import.log" || fail "import says: $(cat "$work/import.log")"

log "building and starting"
"${compose[@]}" up --detach --build >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; fail "up failed"; }

readonly api=http://127.0.0.1:$HOISTWAY_API_PORT
wait_until_ready() {
    for _ in $(seq 240); do
        curl -fsS -m 5 "$api/readyz" >/dev/null 2>&1 && return
        sleep 0.25
    done
    fail "/readyz is not 200 after a minute"
}
call() { curl -sS -m 60 -H "Authorization: Bearer $key" -w '\n%{http_code}\n' "$@"; }
expect() {
    local answer=$1
    shift
    for part in "$@"; do
        [[ $answer == *"$part"* ]] || fail "no \"$part\" in the answer: $answer"
    done
}

wait_until_ready
key=$("${compose[@]}" exec -T gateway cat /keys/api/api-key)

log "the imported agent is built again for containers, and its users go on with their key"
for _ in $(seq 240); do
    answer=$(curl -sS -m 60 -H "Authorization: Bearer $source_key" -w '\n%{http_code}\n' "$api/api/agents/moved/invoke" -d '{"message": "world"}')
    [[ $answer == *200 ]] && break
    sleep 0.25
done
expect "$answer" 200 'kept-4b1e world'
expect "$(call "$api/api/agents/moved/revisions")" 200 '"reason":"rebuild"'
expect "$(call -X DELETE "$api/api/agents/moved")" 200

docker run --detach --name "$collector" --network "${COMPOSE_PROJECT_NAME}_default" --network-alias otel-collector \
    "$python_image" python3 -c '
import http.server, itertools
numbers = itertools.count()
class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open(f"/tmp/spans-{next(numbers)}", "wb") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("", 4318), Collector).serve_forever()' >/dev/null

log "deploying"
readonly trace=4bf92f3577b34da6a3ce929d0e0e4736
answer=$(call -H "traceparent: 00-$trace-00f067aa0ba902b7-01" "$api/api/deploy" -d '{"agent_name": "hello", "source_files": {"agent.py":
    "def handler(message):\n    return \"Hello, \" + message\n"}}')
expect "$answer" 201 '"build_id"' "localhost:$HOISTWAY_REGISTRY_PORT/hello:"
expect "$(call "$api/api/agents/hello/invoke" -d '{"message": "world"}')" 200 'Hello, world'

log "the agent is a container of its own"
expect "$(call "$api/api/status")" 200 '"name":"docker"'
installation=$(basename "$(echo "$HOISTWAY_SOCKETS_DIR"/*)")
containers() { docker ps --all --quiet --filter "label=dev.hoistway.installation=$installation" | wc -l; }
[ "$(containers)" = 2 ] || fail "the agent has $(containers) containers, not its own and its network's"
answer=$("${compose[@]}" exec -T agent cat /proc/1/status)
expect "$answer" $'Uid:\t65532\t65532\t65532' $'CapEff:\t0000000000000000' $'CapBnd:\t0000000000000000' $'NoNewPrivs:\t1'

log "the registry and the echo tool, from outside"
expect "$(call "http://localhost:$HOISTWAY_REGISTRY_PORT/v2/hello/tags/list")" 200 '"hello"'
expect "$(call -X POST "$api/api/starter-kit")" 200 'Starter kit resources created'
expect "$(call "$api/api/tools/echo-tool")" 200 "http://localhost:$HOISTWAY_ECHO_PORT"
expect "$(call "http://localhost:$HOISTWAY_ECHO_PORT/echo" -d '{"message": "hi"}')" 200 '"hi"'

log "egress, from where agents are"
answer=$("${compose[@]}" exec -T --user 65532 agent python3 -c '
import urllib.error, urllib.request
import http.client, ssl
trusted = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile="/keys/own/ca.pem"))
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trusted)
print(opener.open("https://egress:8098/readyz", timeout=5).status)
try:
    opener.open("https://egress:8098/tools/echo-tool/echo", timeout=5)
except urllib.error.HTTPError as e:
    print(e.code, e.read().decode())
try:
    opener.open("http://egress:8098/readyz", timeout=5)
except (http.client.HTTPException, OSError):
    print("no plain HTTP")')
expect "$answer" 200 401 identity_missing 'no plain HTTP'

log "mutual TLS between services"
answer=$("${compose[@]}" exec -T --user 65532 agent python3 -c '
import socket, ssl
def hello(client):
    context = ssl.create_default_context(cafile="/keys/own/ca.pem")
    context.set_alpn_protocols(["h2"])
    if client:
        context.load_cert_chain("/keys/own/tls.pem", "/keys/own/tls-key.pem")
    with context.wrap_socket(socket.create_connection(("build", 8095), 5), server_hostname="build") as stream:
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        return len(stream.recv(9)) == 9
print("with a certificate:", hello(True))
try:
    print("without:", hello(False))
except ssl.SSLError as e:
    print("without:", e.reason)')
expect "$answer" 'with a certificate: True' 'CERTIFICATE_REQUIRED'

log "each service has a database user of its own, and sees no other schema"
answer=$("${compose[@]}" exec -T --user 0 database psql -U postgres -h /tmp -d hoistway -tAc "
    SELECT nspname || ' ' || nspowner::regrole || ' ' || (SELECT count(*) > 0 FROM pg_tables
        WHERE schemaname = nspname AND tableowner = nspowner::regrole::text)
        || ' ' || has_schema_privilege('hoistway_agent', oid, 'USAGE')
    FROM pg_namespace WHERE nspname IN ('gateway', 'tool_registry', 'build', 'agent', 'egress')" 2>&1)
expect "$answer" 'gateway hoistway_gateway true false' 'tool_registry hoistway_tool_registry true false' \
    'build hoistway_build true false' 'agent hoistway_agent true true' 'egress hoistway_egress true false'

log "an agent and its tool, through egress"
answer=$(call "$api/api/deploy" -d '{"agent_name": "caller", "required_tools": ["echo-tool"], "source_files": {"agent.py":
    "import os, urllib.request\n\ndef handler(message):\n    url = os.environ[\"TOOL_URL_ECHO_TOOL\"] + \"/echo\"\n    body = b\"{\\\"message\\\": \\\"through egress\\\"}\"\n    return urllib.request.urlopen(urllib.request.Request(url, body, {\"Content-Type\": \"application/json\"}), timeout=20).read().decode() + str(os.path.exists(os.environ[\"SSL_CERT_FILE\"]))\n"}}')
expect "$answer" 201 '"caller"'
expect "$(call "$api/api/agents/caller/invoke" -d '{"message": "x"}')" 200 'through egress' True
expect "$(call "$api/api/agents/caller/calls?tool=echo-tool")" 200 '"path":"/echo"'
expect "$(call -X POST "$api/api/tools/echo-tool/check")" 200 '"ok":true'

log "an agent and its model, through egress"
answer=$(call "$api/api/deploy" -d '{"agent_name": "asker", "llm_config": {"provider": "openai", "model": "gpt-4o-mini"}, "source_files": {"agent.py":
    "import json, os, urllib.request\n\ndef handler(message):\n    body = json.dumps({\"messages\": [{\"role\": \"user\", \"content\": message}]}).encode()\n    url = os.environ[\"OPENAI_BASE_URL\"] + \"/chat/completions\"\n    return json.load(urllib.request.urlopen(urllib.request.Request(url, body, {\"Content-Type\": \"application/json\"}), timeout=20))[\"choices\"][0][\"message\"][\"content\"]\n"}}')
expect "$answer" 201 '"asker"'
expect "$(call "$api/api/agents/asker/invoke" -d '{"message": "through egress"}')" 200 'playground' 'You said: through egress'
expect "$(call "$api/api/usage?agent=asker")" 200 '"requests":1'
expect "$(call -X POST "$api/api/model-providers/playground-llm/check")" 200 '"ok":true'

log "one trace of the deploy, over all services that had a part in it, without a key"
for _ in $(seq 60); do
    answer=$(docker exec "$collector" python3 -c '
import glob, sys
batches = [open(path, "rb").read() for path in glob.glob("/tmp/spans-*")]
trace, key = bytes.fromhex(sys.argv[1]), sys.argv[2].encode()
names = ["gateway", "tool-registry", "build", "agent"]
print([name for name in names if any(trace in batch and b"hoistway-" + name.encode() in batch for batch in batches)])
print("key" if any(key in batch for batch in batches) else "no key")' "$trace" "$key")
    [[ $answer == *"'gateway', 'tool-registry', 'build', 'agent'"* ]] && break
    sleep 0.5
done
expect "$answer" "['gateway', 'tool-registry', 'build', 'agent']" 'no key'
docker rm --force "$collector" >/dev/null

log "restarting"
"${compose[@]}" restart --timeout 40 >/dev/null 2>&1
wait_until_ready
for _ in $(seq 120); do
    answer=$(call "$api/api/agents/hello/invoke" -d '{"message": "again"}')
    [[ $answer == *200 ]] && break
    sleep 0.25
done
expect "$answer" 200 'Hello, again'

log "stopping"
"${compose[@]}" down --timeout 40 >/dev/null 2>&1
[ "$(containers)" = 0 ] || fail "$(containers) containers of agents are left"

log "agents as processes, without Docker's socket"
readonly processes=("${compose[@]}" --env-file deploy/processes.env)
"${processes[@]}" up --detach >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; fail "up failed"; }
wait_until_ready
expect "$(call "$api/api/status")" 200 '"name":"process"'
answer=$(call "$api/api/deploy" -d '{"agent_name": "process", "source_files": {"agent.py": "def handler(message):\n    return message\n"}}')
expect "$answer" 201 '"build_id"'
expect "$(call "$api/api/agents/process/invoke" -d '{"message": "no container"}')" 200 'no container'
"${processes[@]}" exec -T agent test ! -S /var/run/docker.sock || fail "the agent service has Docker's socket"

# Its images cannot be pulled everywhere, so that they are not started.
services=$("${compose[@]}" --env-file deploy/telemetry.env config --services | sort | tr '\n' ' ')
expect "$services" 'jaeger' 'otel-collector'
expect "$("${compose[@]}" --env-file deploy/telemetry.env config)" 'OTEL_EXPORTER_OTLP_ENDPOINT: http://otel-collector:4318'
log "passed"
