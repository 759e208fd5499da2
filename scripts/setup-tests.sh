#!/usr/bin/env bash
# Installs the requirements of the complete test suite beyond Rust, a C compiler and Python: programs from Debian,
# cargo-deny from crates.io, a running Docker. Run it as root; it may be run again at any time. Without it
# `scripts/test.sh` skips the tests whose requirements are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly packages=(
    ca-certificates curl git build-essential  # to fetch and to compile
    python3 python3-pip                       # to build and to run agents
    docker.io docker-compose iptables         # to run images, and the stack as containers
    containerd skopeo docker-registry         # to pull from the registry, and from another one
    mmdebstrap                                # to make images where none can be pulled
    strace                                    # to count what is flushed to disk
    postgresql                                # to keep the tables in
)
readonly cargo_deny=0.20.2

if [ "$(id -u)" -ne 0 ]; then
    echo "setup-tests: run it as root: it installs packages and may start Docker" >&2
    exit 77
fi

missing=()
for package in "${packages[@]}"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup-tests: installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    # Tests start servers of their own, so Debian's is neither made nor started.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    apt-get update -q </dev/null
    apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}" </dev/null
fi

# Without optimisation it is compiled in a minute and checks the workspace in three seconds.
tools=$PWD/target/tools
if ! "$tools/bin/cargo-deny" --version 2>/dev/null | grep -qx "cargo-deny $cargo_deny"; then
    echo "setup-tests: compiling cargo-deny $cargo_deny" >&2
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features --force \
        --root "$tools" "cargo-deny@$cargo_deny" </dev/null
fi

# Debian's package would start a server, so it is only unpacked: its programs are linked statically but for the C library.
prometheus=$tools/prometheus
if [ ! -x "$prometheus/usr/bin/promtool" ]; then
    echo "setup-tests: unpacking prometheus" >&2
    apt-get update -q </dev/null
    rm -rf "$prometheus"
    mkdir -p "$prometheus"
    (cd "$prometheus" && apt-get download -q -o APT::Sandbox::User=root prometheus </dev/null)
    dpkg -x "$prometheus"/prometheus_*.deb "$prometheus"
    rm "$prometheus"/prometheus_*.deb
fi

# Debian's package starts Docker where there is a service manager; elsewhere this script does, and writes its process id
# to target/dockerd.pid.
if ! docker info >/dev/null 2>&1; then
    echo "setup-tests: starting dockerd" >&2
    mkdir -p target
    setsid dockerd </dev/null >target/dockerd.log 2>&1 &
    echo $! >target/dockerd.pid
    for _ in $(seq 120); do
        docker info >/dev/null 2>&1 && break
        if ! kill -0 "$(<target/dockerd.pid)" 2>/dev/null; then
            break
        fi
        sleep 0.5
    done
    if ! docker info >/dev/null 2>&1; then
        echo "setup-tests: dockerd does not start; the end of its log:" >&2
        tail -n 20 target/dockerd.log >&2
        exit 1
    fi
fi

# It is made once and kept, so that no test has to wait for it.
scripts/base-image.sh hoistway-test-base:bookworm
