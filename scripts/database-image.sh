#!/usr/bin/env bash
# Builds a stand-in for the official image of PostgreSQL from Debian packages, for machines where images cannot be
# pulled:
#
#     scripts/database-image.sh IMAGE
#
# It understands POSTGRES_PASSWORD_FILE and scripts in /docker-entrypoint-initdb.d. An existing image is left alone. Needs root,
# mmdebstrap and a running Docker. The file system is built once and kept.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly suite=bookworm
readonly tarball=target/stand-ins/$suite-postgresql.tar

if [ $# -ne 1 ]; then
    echo "usage: scripts/database-image.sh IMAGE" >&2
    exit 64
fi

mkdir -p "${tarball%/*}"
exec 9>"$tarball.lock"
flock 9
if [ ! -s "$tarball" ]; then
    echo "making $tarball from Debian $suite" >&2
    part=${tarball%.tar}.part.tar
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cat >"$work/database-entrypoint" <<'SH'
#!/bin/sh
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username postgres --pwfile "$POSTGRES_PASSWORD_FILE" --auth-host scram-sha-256 --auth-local trust \
        --encoding UTF8 --locale C.UTF-8
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    export PGHOST=/tmp
    pg_ctl start --wait --options '-c listen_addresses= -c unix_socket_directories=/tmp'
    for script in /docker-entrypoint-initdb.d/*.sh; do
        [ ! -e "$script" ] || . "$script"
    done
    pg_ctl stop --wait
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
SH
    chmod 755 "$work/database-entrypoint"
    # Debian's own cluster is not made. No device nodes: published images have none either.
    mmdebstrap --quiet --variant=essential --skip=output/dev --include=postgresql \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-confold \
        --essential-hook='mkdir -p "$1/etc/postgresql-common"' \
        --essential-hook='echo create_main_cluster = false >"$1/etc/postgresql-common/createcluster.conf"' \
        --customize-hook="copy-in $work/database-entrypoint /usr/local/bin" \
        --customize-hook='chroot "$1" install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data' \
        "$suite" "$part" </dev/null
    mv "$part" "$tarball"
fi

if ! docker image inspect "$1" >/dev/null 2>&1; then
    docker import \
        --change 'ENV PGDATA=/var/lib/postgresql/data PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'VOLUME /var/lib/postgresql/data' \
        --change 'ENTRYPOINT ["database-entrypoint"]' \
        "$tarball" "$1" >/dev/null
    echo "made $1" >&2
fi
